"""``compare`` against other implementations and published numbers."""

from __future__ import annotations

import copy as copying
import json
from pathlib import Path
from typing import Any

import pytest
from results import accuracy, one, outcomes, write
from scipy.stats import binomtest

OLD, NEW = outcomes(60, 100), outcomes(75, 100, 10)


def compared(call, folder: Path, old: Any, new: Any) -> dict[str, Any]:
    files = write(folder / "old.json", old), write(folder / "new.json", new)
    found = call("compare", *files, "--json", "-")
    assert found.code in (0, 3), found.err
    document: dict[str, Any] = json.loads(found.out)
    assert document["schema"] == "sepdeploy.compare/1"
    return document


def result(name: str, *measurements: Any) -> Any:
    return one(name, 0) | {"measurements": list(measurements)}


def test_the_same_images_are_paired(tmp_path: Path, call) -> None:
    document = compared(
        call, tmp_path, result("a.onnx", accuracy("clean_accuracy", OLD)),
        result("a.onnx", accuracy("clean_accuracy", NEW)),
    )  # fmt: skip
    (found,) = document["differences"]
    lost = sum(a > b for a, b in zip(OLD, NEW, strict=True))
    gained = sum(a < b for a, b in zip(OLD, NEW, strict=True))
    assert (found["lost"], found["gained"]) == (lost, gained)
    assert found["change"] == pytest.approx(0.15)
    assert found["p"] == pytest.approx(binomtest(lost, lost + gained).pvalue)
    assert found["ci"][0] < 0.15 < found["ci"][1]


@pytest.mark.parametrize(
    ("change", "why"),
    [({"images_sha256": "cd" * 32}, "other images"), ({"samples": []}, "no outcome per image")],
)
def test_without_pairs_the_interval_is_newcombes(
    tmp_path: Path, call, change: dict[str, Any], why: str
) -> None:
    """Newcombe 1998, table II: 56 of 70 against 48 of 80, method 10."""
    new = accuracy("clean_accuracy", outcomes(56, 70)) | change
    document = compared(
        call, tmp_path, result("a.onnx", accuracy("clean_accuracy", outcomes(48, 80))),
        result("a.onnx", new),
    )  # fmt: skip
    (found,) = document["differences"]
    assert found["p"] is None
    assert "UNPAIRED" in found["how"]
    assert why in found["how"]
    assert found["change"] == pytest.approx(0.2)
    assert found["ci"] == pytest.approx([0.0524, 0.3339], abs=5e-5)


def test_counts_are_exact_and_latencies_have_an_interval(tmp_path: Path, call) -> None:
    document = compared(call, tmp_path, one("a.onnx", 0), one("a.onnx", 1))
    found = {(d["metric"], d["under"]): d for d in document["differences"]}
    assert found["params", ""]["change"] == 2
    assert found["params", ""]["ci"] is None
    latency = found["latency_ms", "batch 1"]
    assert latency["change"] == pytest.approx(latency["new"] / latency["old"])
    assert latency["ci"][0] < latency["change"] < latency["ci"][1]
    assert latency["p"] is None
    assert "separate runs" in latency["how"]


def test_kinds_and_attacks_are_never_mixed(tmp_path: Path, call) -> None:
    old = result("a.onnx", accuracy("clean_accuracy", OLD, "HOST"))
    new = result("a.onnx", accuracy("clean_accuracy", OLD, "EMULATED"))
    document = compared(call, tmp_path, old, new)
    assert document["differences"] == []
    assert "no counterpart of its kind" in " ".join(document["notes"])
    assert call("compare", tmp_path / "old.json", tmp_path / "new.json").code == 3
    facts = {"attack": "pgd-40", "eps": 0.1, "norm": "linf"}
    old, new = (
        result("a.onnx", accuracy("adversarial_accuracy", OLD, **(facts | {"eps": eps})))
        for eps in (0.1, 0.2)
    )
    assert compared(call, tmp_path, old, new)["differences"] == []


def test_files_are_paired_by_name_or_by_being_alone(tmp_path: Path, call) -> None:
    document = compared(call, tmp_path, one("dense.onnx", 1), one("kron.onnx", 0))
    assert {(d["old_artifact"], d["new_artifact"]) for d in document["differences"]} == {
        ("dense.onnx", "kron.onnx")
    }
    old = [one("a.onnx", 1), one("b.onnx", 1)]
    files = write(tmp_path / "o.json", *old), write(tmp_path / "n.json", one("c.onnx", 0))
    found = call("compare", *files)
    assert found.code == 3
    assert "c.onnx on host in onnxruntime has no counterpart" in found.out


def test_a_disturbed_latency_says_so(tmp_path: Path, call) -> None:
    new = copying.deepcopy(one("a.onnx", 0))
    for m in new["measurements"]:
        if m["metric"] == "latency_ms":
            m["disturbed"] = "load 9"
    document = compared(call, tmp_path, one("a.onnx", 0), new)
    (latency,) = [d for d in document["differences"] if d["metric"] == "latency_ms"]
    assert latency["how"].endswith("disturbed: load 9")
    assert "disturbed: load 9" in call(
        "compare", tmp_path / "old.json", tmp_path / "new.json"
    ).out  # fmt: skip
