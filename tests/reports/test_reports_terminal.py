"""Tables: the numbers that stand in them, their kinds, windows and pipes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sepdeploy import devices
from sepdeploy.metrics import count, micros, percent, ratio, size
from sepdeploy.records import (
    ArtifactRecord,
    ArtifactRef,
    BenchReport,
    FileRef,
    InputSpec,
    Kind,
    LayerRecord,
    LoweringChoice,
    Manifest,
    Measurement,
    Parity,
    Result,
    RuntimeRef,
)
from sepdeploy.reports import terminal
from sepdeploy.reports.page import Page
from sepdeploy.reports.terminal_bench import bench_table
from sepdeploy.workflows.diagnosing import Finding
from sepdeploy.workflows.inspecting import InspectReport, total_of
from sepdeploy.workflows.verifying import VerifyItem, VerifyReport


def drawn(page: Page, width: int = 80) -> str:
    lines = [line.plain for line in page.lines(width)]
    assert max(map(cell_len, lines)) <= width
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("draw", "value", "text"),
    [
        (count, 1862666, "1,862,666"), (count, None, "-"),
        (size, 0, "0 B"), (size, 1023, "1023 B"), (size, 1024, "1.0 KiB"),
        (size, 1 << 20, "1.0 MiB"), (size, 3 << 30, "3.00 GiB"), (size, None, "-"),
        (micros, 0.00123, "1.23"), (micros, 0.0123, "12.3"), (micros, 1.23456, "1,235"),
        (micros, None, "-"),
        (percent, 0.9444, "94.4"), (percent, 1.0, "100.0"), (percent, None, "-"),
        (ratio, 0.5, "0.50x"), (ratio, 12.34, "12.3x"), (ratio, 123.4, "123x"), (ratio, None, "-"),
    ],
)  # fmt: skip
def test_cells(draw, value: float | None, text: str) -> None:
    assert draw(value) == text


def adversarial(attack: str, value: float, n: int = 1000) -> Measurement:
    return Measurement(
        "adversarial_accuracy", value, "1", Kind.HOST, n=n, ci=(value - 0.02, value + 0.02),
        details={"attack": attack, "norm": "linf", "eps": 8 / 255},
    )  # fmt: skip


def result(name: str = "net.onnx", runtime: str = "onnxruntime", **values: float | None) -> Result:
    own = {
        "params": 61242, "file_bytes": 250000, "latency_ms": 0.0185, "latency_vs_dense": 25.2,
        "clean_accuracy": 0.981,
    }  # fmt: skip
    static = ("params", "file_bytes")
    taken = [
        Measurement(
            k, v, "1", Kind.STATIC if k in static else Kind.HOST,
            details={"reason": "the file is dense itself"} if v is None else {},
        )
        for k, v in (own | values).items()
    ]  # fmt: skip
    return Result(
        {"id": "host"}, ArtifactRef(f"some/folder/{name}", "0" * 64, "onnx", "standard", "none"),
        RuntimeRef(runtime, "1.2", 1), tuple(taken),
    )  # fmt: skip


def report(*results: Result) -> BenchReport:
    return BenchReport({"name": "sepdeploy"}, {}, results)


def more(base: Result, *extra: Measurement) -> Result:
    return Result(base.device, base.artifact, base.runtime, (*base.measurements, *extra))


def test_the_bench_table_as_it_stands_in_the_readme() -> None:
    text = drawn(bench_table(report(more(result(), adversarial("pgd-40", 0.914)))))
    assert text.splitlines() == [
        "artifact     params       file    µs  vs dense  clean %  adv %",
        "runtime      STATIC     STATIC  HOST      HOST     HOST   HOST",
        "─" * 62,
        "net.onnx     61,242  244.1 KiB  18.5     25.2x     98.1   91.4",
        "onnxruntime",
        "",
        "adv %: pgd-40, linf eps 0.03137 (= 8/255), 1000 images, made on the torch model,",
        "       judged by the file in its runtime; 95 % interval ±2.0 or less",
        "µs: median, 1 thread(s), batch 1; dense form timed in turns in the same process",
    ]


def test_a_second_attack_is_shown_with_its_own_values() -> None:
    taken = more(result(), adversarial("pgd-40", 0.5), adversarial("fgsm", 0.75))
    text = drawn(bench_table(report(taken)))
    row = next(line for line in text.splitlines() if "net.onnx" in line)
    assert "50.0" in row
    assert "75.0" not in row
    assert re.search(r"adv %: fgsm.*; net\.onnx onnxruntime: 75\.0 HOST", " ".join(text.split()))
    assert "onnxruntime: 50.0" not in text


def test_what_could_not_be_measured_is_a_dash_and_a_reason() -> None:
    text = drawn(bench_table(report(result(latency_vs_dense=None))))
    assert re.search(r"18\.5 +- ", text)
    assert "net.onnx: no latency_vs_dense: the file is dense itself" in text


@settings(max_examples=50)
@given(
    name=st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=60),
    params=st.integers(0, 10**9), size_=st.integers(0, 10**10), ms=st.floats(0, 10**5),
    times=st.floats(0.01, 99999.0),
)  # fmt: skip
def test_no_value_widens_the_bench_table(
    name: str, params: int, size_: int, ms: float, times: float
) -> None:
    taken = result(
        f"{name}.onnx", params=params, file_bytes=size_, latency_ms=ms, latency_vs_dense=times
    )
    text = drawn(bench_table(report(more(taken, adversarial("pgd-40", 1.0)))))
    for shown in (count(params), size(size_), micros(ms), ratio(times), "100.0"):
        assert shown in text


def layer(name: str = "fc1", structure: str = "kron", factors=((2, 64, 28), (2, 64, 28))):
    return LayerRecord(name, structure, factors, 100, 4200, 300, 4200, condition_number=1.5)


def manifest(*, notes: tuple[str, ...] = (), proven: bool = True) -> Manifest:
    parity = (
        Parity("onnxruntime", "1.2", 1, 2e-7, 1.0, 1e-5, "data"),
        Parity("onnxruntime", "1.2", 32, 3e-7, 1.0, 1e-5, "data"),
    )
    artifact = ArtifactRecord(
        "net.onnx", "onnx", "standard", "none", "0" * 64, 2048, "NCHW", "float32",
        lowerings=(LoweringChoice("fc1", "kron", "gemm2d"),), parity=parity if proven else (),
        notes=notes,
    )  # fmt: skip
    spec = InputSpec((1, 28, 28))
    return Manifest("net", FileRef("net.pt", "0" * 64), spec, (layer(),), (artifact,))


def test_the_export_table_shows_the_worst_parity_and_the_form() -> None:
    text = drawn(terminal.manifest_table(manifest()))
    assert re.search(r"net\.onnx +2\.0 KiB +onnxruntime +3\.0e-07 +1e-05", text)
    assert re.search(r"fc1 +kron +gemm2d", text)
    assert "2.0e-07" not in text


def test_an_export_that_nothing_could_prove_says_so() -> None:
    text = drawn(terminal.manifest_table(manifest(proven=False, notes=("not proven",))))
    assert re.search(r"net\.onnx +2\.0 KiB +not proven +- +-", text)
    assert "not proven" in text


def test_the_layers_of_a_file() -> None:
    layers = (layer(), layer("u", "lowrank", ((784, 8), (64, 8))), layer("b", factors=((1, 2, 3),)))
    found = InspectReport(
        "x.onnx", "onnx", InputSpec((1, 28, 28)), layers, total_of(layers), ("a note",)
    )
    text = drawn(terminal.inspect_table(found))
    assert text.startswith("x.onnx  (onnx, input 1×28×28)")
    assert re.search(r"fc1 +kron +2 \(64×28 ⊗ 64×28\) +100 +300 +42\.0x *\n", text)
    assert re.search(r"fc1 +- +- +1\.5 +-", text)
    assert re.search(r"u +lowrank +784×8 64×8", text)
    assert re.search(r"b +kron +2×3 ", text)
    assert re.search(r"total +300 +900 +42\.0x", text)
    assert text.rstrip().endswith("a note")


def test_a_failed_check_cannot_be_overlooked() -> None:
    items = tuple(VerifyItem("net.onnx", "parity", r, "why " * 20) for r in ("ok", "failed"))
    text = drawn(terminal.verify_table(VerifyReport(items, 6)))
    assert "FAILED" in text
    assert " failed" not in text


def test_the_small_tables() -> None:
    profiles = devices.load_profiles()
    text = drawn(terminal.devices_table(profiles.values()))
    assert set(profiles) <= set(text.split())
    assert "aarch64" in drawn(terminal.profile_table(profiles["rpi4"]))
    text = drawn(terminal.doctor_table([Finding("torch", False, "", "train", "pip install torch")]))
    assert re.search(r"torch +missing +train +pip install torch", text)


HOSTILE = "[bold]a[x]\n[:smile:\x1b[2J.onnx"


def pages() -> dict[str, Page]:
    layers = (layer(HOSTILE), layer("features.12.block.conv" * 3))
    found = InspectReport("x.onnx", "onnx", InputSpec((1, 28, 28)), layers, total_of(layers), ())
    items = (VerifyItem(HOSTILE, "parity", "failed", "why " * 60),)
    finding = Finding("torch", False, "", "train " * 9, "pip install 'sepdeploy[train]'")
    profiles = devices.load_profiles()
    return {
        "bench": bench_table(report(more(result(HOSTILE), adversarial("pgd-40", 0.5)))),
        "inspect": terminal.inspect_table(found),
        "verify": terminal.verify_table(VerifyReport(items, 6)),
        "doctor": terminal.doctor_table([finding]),
        "devices": terminal.devices_table(profiles.values()),
        "device": terminal.profile_table(profiles["rpi4"]),
        "export": terminal.manifest_table(manifest()),
    }


@pytest.mark.parametrize("name", pages())
@pytest.mark.parametrize("width", [60, 72, 80, 120, 200])
def test_a_table_fits_the_window(name: str, width: int) -> None:
    drawn(pages()[name], width)


@pytest.mark.parametrize("name", pages())
def test_a_table_in_a_pipe_is_one_line_a_row(name: str) -> None:
    text = str(pages()[name])
    assert text[0] not in "\n "
    assert "─" not in text
    assert text.replace("\n", "").isprintable()
    shown = {
        "doctor": ("torch", "pip install 'sepdeploy[train]'"), "verify": ("FAILED", "why why why"),
        "bench": ("[bold]a[x]", "[:smile:", "onnxruntime", "61,242"),
        "inspect": ("features.12.block.conv" * 3, "kron"), "devices": ("rpi4", "aarch64"),
    }.get(name, ())  # fmt: skip
    assert not shown or any(all(word in line for word in shown) for line in text.splitlines())


def test_a_window_that_is_too_narrow_is_told_what_is_missing() -> None:
    text = drawn(bench_table(report(more(result("n" * 30), adversarial("pgd-40", 0.5)))), 60)
    assert "too narrow for: params STATIC" in text
    assert "91.4" not in text
    assert "50.0" in text


def test_a_time_has_its_interval_and_says_what_spoiled_it() -> None:
    load = "load 47.0 on 2 cores"
    taken = result()
    timed = tuple(
        replace(m, ci=(0.98 * m.value, 1.02 * m.value),
                details=m.details | {"statistic": "p10", "disturbed": load})
        if m.metric == "latency_ms" else m
        for m in taken.measurements
    )  # fmt: skip
    text = drawn(bench_table(report(replace(taken, measurements=timed))))
    assert "18.5 ±2%" in text
    assert f"disturbed: net.onnx onnxruntime: {load}" in text
    assert "µs: 10th percentile of the rounds ± its 95 % interval" in " ".join(text.split())
