"""Mutated documents, 2,400 with the slow ones: read, or refused by an error of ours."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutation import PLAIN, STRUCTURED

from sepdeploy.codec import dump, to_json
from sepdeploy.data.evalpack import EvalPack, read_pack, write_pack
from sepdeploy.devices.facts import parse_facts
from sepdeploy.devices.judgement import summary
from sepdeploy.devices.profile import profile
from sepdeploy.devices.transports import Replay
from sepdeploy.errors import BadInput, SepdeployError
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.gate import load_baseline, load_report
from sepdeploy.gate.config import load_rules
from sepdeploy.jobs import Job, NoAnswer, Refused, Stamp, read_answer
from sepdeploy.records import (
    ArtifactRecord,
    ArtifactRef,
    BenchReport,
    FileRef,
    InputSpec,
    Kind,
    LayerRecord,
    Manifest,
    Measurement,
    Result,
    RuntimeRef,
)
from sepdeploy.training.recipe.reading import load_recipe

ROOT = Path(__file__).resolve().parents[2]
SEEDS = [
    pytest.param(range(30), id="some"),
    pytest.param(range(30, 300), id="many", marks=pytest.mark.slow),
]

MANIFEST = Manifest(
    "net",
    FileRef("net.pt", "ab"),
    InputSpec((1, 4, 4)),
    (LayerRecord("fc1", "kron", ((1, 2, 3),), 6, 36, 12, 36),),
    (ArtifactRecord("net.onnx", "onnx", "standard", "none", "cd", 10, "NCHW", "float32"),),
)
REPORT = BenchReport(
    {"name": "sepdeploy"},
    {},
    (
        Result(
            {"id": "host"},
            ArtifactRef("net.onnx", "cd", "onnx", "standard", "none"),
            RuntimeRef("onnxruntime", "1.20"),
            (Measurement("params", 3, "parameters", Kind.STATIC),),
        ),
    ),
)
RECORDING = (
    '{"schema": "sepdeploy.recording/1", "transport": "ssh", "address": "pi", "context": {}}\n'
    f'{{"op": "run", "argv": ["true"], "stdin_sha256": "{hashlib.sha256().hexdigest()}", '
    '"env": {}, "rc": 0, "stdout": "", "stderr": ""}\n'
)
RECIPE = 'objective = "pgd-at"\neps = "8/255"\nepochs = 3\nhidden = [64, 32]\nlr = 0.1\nema = 0.9\n'
DOCUMENTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "net.manifest.json": (dump(MANIFEST), read_manifest),
    "result.json": (dump(REPORT), load_report),
    "baseline.json": ((ROOT / "sepdeploy-baseline.json").read_text(), load_baseline),
    "recording.jsonl": (RECORDING, lambda path: Replay(path).run(["true"])),
    "recipe.toml": (RECIPE, load_recipe),
    "rpi4.toml": ((ROOT / "devices/profiles/rpi4.toml").read_text(), lambda p: profile(str(p))),
    "rules.toml": ('latency_effect = "15%"\nallow = { params = "2%" }\n', load_rules),
}


def refusal(reader: Callable[[Path], Any], path: Path) -> list[str]:
    """Return what is said about a file, nothing where it is read."""
    try:
        reader(path)
    except SepdeployError as error:
        return [error.message, error.hint]
    return []


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_mutated_document_is_read_or_refused(name: str, seeds: range, tmp_path: Path) -> None:
    text, reader = DOCUMENTS[name]
    path = tmp_path / name
    path.write_text(text)
    reader(path)
    refusals = []
    for seed in seeds:
        rng = random.Random(f"{name}{seed}")
        structured = [STRUCTURED["json"]] if name.endswith(".json") else []
        path.write_bytes(rng.choice([*PLAIN, *structured])(text.encode(), rng))
        refusals += refusal(reader, path)
    assert len(refusals) > len(seeds) // 10
    assert all("\n" not in line and line for line in refusals)


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_mutated_pack_is_read_or_refused(seeds: range, tmp_path: Path) -> None:
    images = np.zeros((4, 1, 4, 4), np.uint8)
    path = tmp_path / "net.eval.npz"
    write_pack(EvalPack(images, np.arange(4), np.arange(4), np.zeros((4, 3), np.float32)), path)
    data = path.read_bytes()
    for seed in seeds:
        rng = random.Random(seed)
        path.write_bytes(rng.choice([*PLAIN, STRUCTURED["npz"]])(data, rng))
        assert all("\n" not in line for line in refusal(read_pack, path))


ANSWER = {
    "ok": True, "mode": "latency", "runtime": "onnxruntime", "version": "1.31", "id": "job-1",
    "models": [{"name": "artifact", "samples_ms": [1.0, 2.0, 3.0, 4.0], "block_runs": 3}],
    "rounds": 2, "peak_rss_bytes": 1 << 20, "load_ms": 1.5, "found": ["a"], "ranges": {"a": [0, 1]},
}  # fmt: skip
FACTS = """machine aarch64
bits 64
part 0xd08*4
clock 0 performance 1500000 1500000 1500000
zone 45000 cpu-thermal
throttled throttled=0x0
MemTotal 4000000
load 0.10 0.10 0.10
disk 1000000
"""


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("mode", ["latency", "memory", "ranges", "values"])
def test_a_mutated_answer_of_a_device_is_read_or_refused(mode: str, seeds: range) -> None:
    job = Job(mode, "onnxruntime", {"artifact": Path("net.onnx")}, {"names": ["a"]})
    text = json.dumps(ANSWER).encode()
    read_answer(text, job, stamp=Stamp("job-1", ("ab",)))
    for seed in seeds:
        rng = random.Random(f"{mode}{seed}")
        said = rng.choice([*PLAIN, STRUCTURED["json"], STRUCTURED["json"]])(text, rng)
        for stamp in (None, Stamp("job-1", ("ab",))):
            with contextlib.suppress(BadInput, NoAnswer, Refused):
                dump(read_answer(said, job, stamp=stamp))


@pytest.mark.parametrize("seeds", SEEDS)
def test_mutated_facts_of_a_device_are_read(seeds: range) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        text = rng.choice(PLAIN)(FACTS.encode(), rng).decode(errors="replace")
        number = rng.choice(["9" * 5000, "0x" + "f" * 9000, "nan", "inf", "-1", "1e999", ""])
        facts = parse_facts(re.sub(r"\d+", number, text, count=rng.randrange(4)))
        assert json.dumps(to_json(facts))
        assert summary(facts, facts)
