"""Instruction counts: the same every time, and moved by what they should be moved by."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy.devices.emulation import Counts, Emulator, count_instructions, measurements
from sepdeploy.devices.emulation.measure import parse_counts
from sepdeploy.errors import BadInput
from sepdeploy.records import Kind

GOLDEN = Path(__file__).with_name("golden_counts.json")
VERSIONS = ("qemu", "plugin", "libc", "compiler", "emulated_runtime_version")


def counted(emulator: Emulator, path: Path, **options: Any) -> Counts:
    value = count_instructions(emulator, path, **options).value
    assert value is not None
    assert value.threads == 1
    return value


@pytest.mark.parametrize("name", [pytest.param("int8.onnx", marks=pytest.mark.slow), "int8.tflite"])
def test_int8_uses_dot_products_where_the_core_has_them(
    name: str, emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    path = samples[name].path
    assert counted(emulator("cortex-a72"), path).dot == 0
    assert counted(emulator("cortex-a76"), path).dot > 0


@pytest.mark.slow
def test_two_processes_count_the_same_to_the_last_instruction(
    emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    path = samples["conv.tflite"].path
    first = counted(emulator("cortex-a72"), path)
    assert counted(emulator("cortex-a72"), path) == first
    assert first.steady.count(first.total) >= 3


@contextmanager
def busy_cores() -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _spin() -> None:
    while True:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp.onnx", "int8.onnx", "mlp.tflite"])
def test_counts_do_not_depend_on_load_or_place(
    name: str,
    emulator: Callable[[str], Emulator],
    samples: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = samples[name].path
    quiet = counted(emulator("cortex-a72"), path)
    longer = tmp_path / "a folder with a rather long name, and a comma"
    longer.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(longer))
    monkeypatch.setenv("SEPDEPLOY_TEST_PADDING", "x" * 3000)
    with busy_cores():
        assert counted(emulator("cortex-a72"), path) == quiet


@pytest.mark.slow
@pytest.mark.parametrize("optimize", [True, False], ids=["optimised", "plain"])
@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_counts_equal_their_goldens(
    core: str,
    optimize: bool,
    emulator: Callable[[str], Emulator],
    samples: dict[str, Any],
) -> None:
    """With the versions of the golden file exactly; else a word of libc may cost some more."""
    golden = json.loads(GOLDEN.read_text())
    for name in golden["counts"]:
        outcome = count_instructions(emulator(core), samples[name].path, optimize=optimize)
        found = outcome.value
        assert found is not None
        wanted = golden["counts"][name][core]["optimised" if optimize else "plain"]
        same = all(outcome.facts[key] in golden["versions"][key] for key in VERSIONS)
        slack = 0.0 if same else 1e-3
        for part, value in wanted.items():
            assert abs(getattr(found, part) - value) <= slack * found.total, (name, part)


def kron_chain(left: int, right: int) -> onnx.ModelProto:
    """Return two flat products that apply factors (left, 64) and (64, 64) to a 64 x 64 input."""
    generator = np.random.default_rng(5)
    a = (generator.standard_normal((64, left)) / 8).astype(np.float32)
    b = (generator.standard_normal((64, right)) / 8).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["input", "rows"], ["x"]),
        helper.make_node("MatMul", ["x", "b"], ["y"]),
        helper.make_node("Reshape", ["y", "square"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["t", "rows"], ["u"]),
        helper.make_node("MatMul", ["u", "a"], ["v"]),
        helper.make_node("Reshape", ["v", "flat"], ["logits"]),
    ]
    named = {
        "a": a,
        "b": b,
        "rows": np.array([-1, 64]),
        "square": np.array([-1, 64, right]),
        "flat": np.array([-1, left * right]),
    }
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4096])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", left * right])],
        [numpy_helper.from_array(v, k) for k, v in named.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.slow
def test_doubling_a_factor_moves_the_count_by_its_share(
    emulator: Callable[[str], Emulator], tmp_path: Path
) -> None:
    onnx.save(kron_chain(64, 64), tmp_path / "small.onnx")
    onnx.save(kron_chain(128, 64), tmp_path / "large.onnx")
    small = counted(emulator("cortex-a72"), tmp_path / "small.onnx")
    large = counted(emulator("cortex-a72"), tmp_path / "large.onnx")
    macs_small, macs_large = 2 * 64**3, 64**3 + 128 * 64**2
    assert small.fmla * 4 == pytest.approx(macs_small, rel=0.05)
    assert large.fmla * 4 == pytest.approx(macs_large, rel=0.05)
    assert large.total / small.total == pytest.approx(macs_large / macs_small, rel=0.15)


def test_measurements_carry_kind_classes_and_versions(
    emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    found = {m.metric: m for m in measurements(emulator("cortex-a76"), samples["int8.tflite"].path)}
    assert set(found) == {"instructions", "peak_rss_bytes"}
    assert {m.kind for m in found.values()} == {Kind.EMULATED}
    counts = found["instructions"]
    assert counts.n == len(counts.samples) == 5
    assert counts.value == sorted(counts.samples)[2]
    assert counts.details["dot"] > 0
    assert counts.details["core"] == "cortex-a76"
    assert all(counts.details[key] for key in VERSIONS)
    assert not any("ms" in key for m in found.values() for key in m.details)


def rows(count: int, threads: int = 1) -> str:
    lines = [f"{i} {i * 100} {i * 10} {i * 5} {i * 2} {i}" for i in range(1, count + 1)]
    return "\n".join([*lines, f"end {threads}"]) + "\n"


def test_counter_output_is_read() -> None:
    assert parse_counts(rows(9)) == Counts(100, 10, 5, 2, 1, (100,) * 8)
    assert parse_counts(rows(9, 2)).threads == 2


@pytest.mark.parametrize("text", ["", "end 1\n", rows(8), rows(9).rsplit("end", 1)[0]])
def test_a_counter_that_was_cut_off_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="markers"):
        parse_counts(text)
