"""Results that reports are made of: five files, two kinds, two attacks, names that mean harm."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{7*7}}\u202e\x1b[31m"
IMAGES = "ab" * 32


def measurement(metric: str, value: float, unit: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "value": value, "unit": unit, "kind": kind, **more}


def accuracy(metric: str, right: list[int], kind: str = "HOST", **more: Any) -> dict[str, Any]:
    n, value = len(right), sum(right) / len(right)
    ends = [max(0.0, value - 0.05), min(1.0, value + 0.05)]
    return measurement(metric, value, "fraction", kind, n=n, ci=ends, samples=right,
                       images_sha256=IMAGES, **more)  # fmt: skip


def outcomes(right: int, n: int, start: int = 0) -> list[int]:
    return [int((i + start) % n < right) for i in range(n)]


def one(path: str, number: int, *, device: str = "host", runtime: str = "onnxruntime") -> Any:
    rng = random.Random(number)
    times = [0.02 * (number + 1) * rng.lognormvariate(0, 0.2) for _ in range(60)]
    value = sorted(times)[6]
    taken = [
        measurement("params", 10_000 * (number + 1), "parameters", "STATIC"),
        measurement("file_bytes", 41_000 * (number + 1), "bytes", "STATIC"),
        measurement("latency_ms", value, "ms", "HOST", n=60, samples=times,
                    ci=[value * 0.95, value * 1.05], batch=1),
        accuracy("clean_accuracy", outcomes(90 + number, 100)),
    ]  # fmt: skip
    for attack, eps, lost in (("pgd-40", 0.1, 10), ("square", 0.1, 8), ("pgd-40", 0.2, 40)):
        taken.append(
            accuracy("adversarial_accuracy", outcomes(90 + number - lost, 100),
                     attack=attack, eps=eps, norm="linf", steps=40, restarts=1, seed=0)
        )  # fmt: skip
    taken.append(
        measurement("accuracy_difference", -0.02, "fraction", "HOST", n=100, ci=[-0.05, 0.01],
                    accuracy="clean_accuracy", against="first.onnx", lost=4, gained=2, p=0.5)
    )  # fmt: skip
    if device != "host":
        taken.append(measurement("instructions", 99_000 * (number + 1), "instructions", "EMULATED"))
    return {
        "device": {"id": device},
        "artifact": {"path": path, "sha256": f"{number:064x}", "format": "onnx",
                     "flavour": "standard", "quantization": "none"},
        "runtime": {"name": runtime, "version": "1", "threads": 1},
        "measurements": taken,
    }  # fmt: skip


def write(path: Path, *results: Any, host: Any = None) -> Path:
    document = {"schema": "sepdeploy.bench/1", "tool": {"command": "bench"},
                "host": host or {}, "results": list(results)}  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def history(path: Path) -> Path:
    rows = [
        {"epoch": e, "loss": 2 / e, "clean_accuracy": 1 - 0.5 / e, "robust_accuracy": 0.9 - 0.6 / e}
        for e in range(1, 7)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 7, "lo')
    return path


def adversarial_set(path: Path) -> Path:
    import numpy as np

    from sepdeploy.data.evalpack import EvalPack, write_pack

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    clean = images.astype(np.float32) / 255
    change = 0.1 * np.sign(rng.normal(size=clean.shape)).astype(np.float32)
    right, wrong = np.eye(4, dtype=np.float32), np.roll(np.eye(4, dtype=np.float32), 1, 1)
    attacked = np.clip(clean + change, 0, 1)
    write_pack(EvalPack(images, np.arange(4), np.arange(4), right, attacked, wrong), path)
    return path


def hostile_folder(folder: Path) -> dict[str, Path]:
    """Write everything a page can hold; every name in it means harm."""
    nets = [one(f"{HOSTILE}{n}.onnx", n) for n in range(4)]
    there = [one("net.onnx", n, device="rpi4", runtime=name) for n, name in enumerate("ab")]
    return {
        "first": write(folder / "first.json", *nets, host={"cpu": HOSTILE}),
        "second": write(folder / "second.json", *nets[:2], *there),
        "history": history(folder / "net.history.jsonl"),
        "adversarial": adversarial_set(folder / "adv.npz"),
    }


def arguments(files: dict[str, Path]) -> list[str | Path]:
    flags = [w for n in ("history", "adversarial") for w in (f"--{n}", files[n])]
    return ["report", files["first"], files["second"], *flags]
