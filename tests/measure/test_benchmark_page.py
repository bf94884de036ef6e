"""The page of benchmarks: what is measured again replaces its own section, and nothing else."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks import converters, limits, lowering, native, page, vgg16
from sepdeploy import runtimes
from sepdeploy.structures import KronSpec

FACTS = {"cpu": "some CPU", "cores": 2, "load": 0.1, "numpy": "1.26.4", "python": "3.11.7"}


def titles(text):
    return [line[3:] for line in text.splitlines() if line.startswith("## ")]


def test_a_section_is_replaced_and_the_others_are_kept(tmp_path):
    target = tmp_path / "page.md"
    target.write_text("# Benchmarks\n\nAbout this page.\n\n## By hand\n\nkept text\n")
    page.put("lowering", "first | table", "python -m a", FACTS, target)
    page.put("layers", "layers | table", "python -m b", FACTS, target)
    before = target.read_text()
    page.put("lowering", "second | table", "python -m a", FACTS, target)
    text = target.read_text()
    assert titles(text) == [page.SECTIONS["layers"], page.SECTIONS["lowering"], "By hand"]
    assert text == before.replace("first | table", "second | table")
    assert text.startswith("# Benchmarks\n\nAbout this page.\n")
    assert "layers | table" in text
    assert "kept text" in text
    assert "first" not in text


def test_a_section_says_what_measured_it_and_where(tmp_path):
    target = tmp_path / "page.md"
    page.put("native", "body", "python -m benchmarks.native", FACTS, target)
    text = target.read_text()
    for part in ("`python -m benchmarks.native`", "HOST", "some CPU", "load 0.1", "python 3.11.7"):
        assert part in text
    for name, version in runtimes.versions().items():
        assert f"{name} {version}" in text


def test_a_machine_of_one_core_has_one_core():
    assert page.machine(FACTS) == "some CPU, 2 cores, load 0.1"
    assert page.machine({**FACTS, "cores": 1}) == "some CPU, 1 core, load 0.1"


def test_the_network_as_a_whole_writes_its_section(tmp_path, monkeypatch, capsys):
    calls = []

    def seconds(*arguments, folder):
        calls.append(arguments[0])
        return (20.0, 15.0) if arguments[0] == "export" else (9.0, 8.0)

    monkeypatch.setattr(vgg16, "make", lambda structure, path: 64 << 20)
    monkeypatch.setattr(vgg16, "seconds", seconds)
    monkeypatch.setattr(vgg16, "growth", lambda folder: {"grown": 128 << 20, "child": 1 << 20})
    monkeypatch.setattr(vgg16.sys, "platform", "linux")
    target = tmp_path / "page.md"
    assert vgg16.main(["--write", str(target)]) == 0
    assert calls == ["export", "verify"]
    text = target.read_text()
    assert titles(text) == [page.SECTIONS["vgg16"]]
    for part in ("`python -m benchmarks.vgg16 --write`", "all cores", "64 MiB", "29.0 s (bar 30 s)",
                 "128 MiB = 2.00× weights (bar 3×)"):  # fmt: skip
        assert part in text
    assert "one thread" not in text
    monkeypatch.setattr(vgg16, "growth", lambda folder: {"grown": 193 << 20, "child": 1 << 20})
    assert vgg16.main([]) == 1
    assert vgg16.main(["--head", "dense"]) == 0
    assert "bar" not in capsys.readouterr().out.splitlines()[-1]


def test_cells_measured_before_make_the_native_section(tmp_path):
    cell = native.Cell("r", "a", 1, True, "mm", "mm", 10.0, 10.0, 5.0, 2.0, 1)
    other = native.Cell("r", "a", 32, True, "mm", "mm", 10.0, 10.0, 10.0, 1.0, 1)
    kept = [native.Cell("r", "b", b, False, "mm", "mm", 9.0, 9.0, 10.0, 0.9, 1) for b in (1, 32)]
    found = {"host": FACTS, "cells": [asdict(c) for c in (cell, other, *kept)]}
    (tmp_path / "cells.json").write_text(json.dumps(found))
    target = tmp_path / "page.md"
    arguments = ["--from", str(tmp_path / "cells.json"), "--write", str(target)]
    assert native.main(arguments) == 0
    row = next(line for line in target.read_text().splitlines() if line.startswith("| r |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == ["2", "1"]
    assert cells[3].startswith("2.00×")
    assert cells[4].startswith("1.00×")
    assert cells[5] == f"{2 ** (2 / 3):.2f}×"  # batches 1, 1 and 32
    assert cells[6:] == ["0.90×", "0"]


def test_the_lowering_section_counts_cells_by_runtime():
    cell = lowering.Cell("r", "8x8", "x", 1, "mm", "mm", 50.0, 49.0, 400.0, 1.02, 0.125)
    rest = lowering.Cell("s", "8x8", "x", 1, "mm", "tt", 50.0, 40.0, 400.0, 1.25, 0.125)
    rows = [line for line in lowering.section([cell, rest]).splitlines() if "8x8" in line]
    assert [row.strip("| ").split(" | ")[0] for row in rows] == ["r", "s"]
    assert rows[0].endswith("| 0 |")
    assert rows[1].endswith("| 1 |")


def test_ratios_of_converters_are_theirs_over_ours():
    found = converters.Comparison(
        "net", (10.0, 9.9), (1000, 1001), (0.01, 0.5), (4.0, 4.4), (9.0, 3.0), {"torch": "2"}
    )
    assert found.ratios["us"][0] == pytest.approx(0.99)
    assert found.ratios["step_s"][0] == pytest.approx(50)
    assert not found.broken
    for field, value in (("bytes", (1000, 999)), ("step_s", (0.1, 1.9)), ("process_s", (2.0, 1.9))):
        worse = converters.Comparison(**{**vars(found), field: value})
        assert worse.broken
        assert "**" in converters.table([worse])


def test_limits_add_up_for_a_small_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SIDE", 64)
    monkeypatch.setattr(limits, "PRODUCT", (8, 32))
    monkeypatch.setattr(limits, "LAYERS", {"small": KronSpec((8, 8), (8, 8))})
    name = next(iter(runtimes.versions()))
    (found,) = limits.measure(name, tmp_path, rounds=2, blocks=2)
    x = np.full((1, 64), -1.0, dtype=np.float32)
    suffix = runtimes.RUNTIMES[name].format
    assert not runtimes.open(tmp_path / f"floor.{suffix}", name).run(x).any()
    assert found.bound_us == found.floor_us + found.multiply_us
    assert found.best_ratio == pytest.approx(found.dense_us / found.bound_us)
    assert min(vars(found)[n] for n in ("layer_us", "own_us", "dense_us", "multiply_us")) > 0
