"""What a runner answers is read by one reader, which believes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepdeploy.errors import BadInput
from sepdeploy.jobs import Answer, Job, NoAnswer, Refused, logits_job, read_answer, read_logits

FILE = Path("net.onnx")
LATENCY = Job("latency", "onnxruntime", {"artifact": FILE, "dense": FILE})
MODELS = [
    {"name": "artifact", "samples_ms": [1.0, 2.0], "block_runs": 3, "kernels": "native"},
    {"name": "dense", "samples_ms": [4.0, 5.0], "block_runs": 1},
]
GOOD = {"ok": True, "version": "1.2", "models": MODELS, "rounds": 2}
MEMORY = {"ok": True, "version": "1", "peak_rss_bytes": 9, "load_ms": 2.5}


def said(answer: Any) -> bytes:
    return b"a runtime says something\n" + json.dumps(answer).encode() + b"\n"


def test_times_come_by_the_names_of_the_job() -> None:
    answer = read_answer(said(GOOD), LATENCY)
    assert answer.version == "1.2"
    assert answer.times is not None
    assert answer.times.samples() == {"artifact": (1.0, 2.0), "dense": (4.0, 5.0)}
    assert [m.kernels for m in answer.times.models] == ["native", ""]


@pytest.mark.parametrize(("job", "answer"), [(LATENCY, GOOD), (None, MEMORY)])
def test_a_place_without_a_clock_gets_no_times(job: Job | None, answer: dict[str, Any]) -> None:
    job = job or Job("memory", "litert", {"artifact": FILE})
    assert read_answer(said(answer), job).times is not None
    assert read_answer(said(answer), job, clock=False).times is None
    if job.mode == "memory":
        assert read_answer(said(answer), job, clock=False).memory["peak"] == 9


@pytest.mark.parametrize(
    "change",
    [
        {"models": MODELS[:1]},
        {"models": {}},
        {"models": [{}, {}]},
        {"models": [MODELS[0], {**MODELS[1], "samples_ms": [1.0]}]},
        {"models": [{**m, "samples_ms": [1.0, "2"]} for m in MODELS]},
        {"models": [{**m, "samples_ms": [1.0, float("nan")]} for m in MODELS]},
        {"models": [{**m, "samples_ms": [1.0, -2.0]} for m in MODELS]},
        {"models": [{**m, "samples_ms": []} for m in MODELS]},
        {"models": [{**m, "block_runs": True} for m in MODELS]},
        {"models": [{**m, "block_runs": 1 << 80} for m in MODELS]},
        {"rounds": 0},
        {"rounds": 3},
        {"rounds": None},
        {"native_calls": -1},
    ],
)
def test_a_broken_answer_is_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"^net\.onnx, net\.onnx: the runner's answer") as caught:
        read_answer(said({**GOOD, **change}), LATENCY)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 700


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"no json", b"[1]", b"3", b"{}", b"null", b"\xff\xfe", b"[" * 100_000]
)
def test_no_answer_is_told_from_a_broken_one(text: bytes) -> None:
    with pytest.raises(NoAnswer):
        read_answer(text, LATENCY)


def test_a_refusal_is_one_printable_line() -> None:
    error = "x" * 10_000 + "\n\x1b[2J"
    refusal = {"ok": False, "error": "\x1b[31mred\nline " + error, "kind": "bad-input"}
    with pytest.raises(Refused) as caught:
        read_answer(said(refusal), LATENCY)
    assert caught.value.message.startswith("\N{REPLACEMENT CHARACTER}[31mred line xxx")
    assert len(caught.value.message) <= 500
    assert caught.value.message.isprintable()


def test_only_names_that_were_asked_for_come_back() -> None:
    job = Job("ranges", "litert", {"artifact": FILE}, {"names": ["a", "b"]})
    answer = {"ok": True, "ranges": {"b": [0, float("inf")], "../c": [1, 2]}}
    assert read_answer(said(answer), job) == Answer(times=read_answer(said(answer), job).times,
                                                    ranges={"b": (0.0, float("inf"))})  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        np.zeros((1, 2, 5), np.float32),
        np.zeros((1, 3, 5), np.float64),
        np.zeros(3, np.float32),
        np.array([{"a": 1}], dtype=object),
    ],
)
def test_logits_that_are_none_are_one_line(content: Any, tmp_path: Path) -> None:
    job = logits_job(FILE, "litert", np.zeros((3, 4), np.float32), tmp_path)
    assert job.output is not None
    if isinstance(content, bytes):
        job.output.write_bytes(content)
    else:
        np.save(job.output, content, allow_pickle=True)
    with pytest.raises(BadInput, match=r"net\.onnx: expected float32 logits \(1, 3, …\)"):
        read_logits(job, 1, 3)
