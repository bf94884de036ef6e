"""``sepdeploy demo``: the whole flow on the digits, beside two dense nets.

One has the widths of the Kronecker net, the other as many parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sepdeploy.codec import dump
from sepdeploy.errors import VERIFY, ArtifactCheckFailed
from sepdeploy.exports.options import EvaluationOptions, ExportOptions
from sepdeploy.exports.torch_model import TorchModel
from sepdeploy.files import write_text
from sepdeploy.models import load
from sepdeploy.records import BenchReport, Notify
from sepdeploy.workflows.bench.benching import bench_artifacts
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.exporting import export_source
from sepdeploy.workflows.options import ProofOptions
from sepdeploy.workflows.training import train_model
from sepdeploy.workflows.verifying import verify_exports

# All nets are trained by the same recipe; only structure and widths differ.
RECIPE: dict[str, Any] = {
    "data": "digits",
    "arch": "mlp",
    "objective": "pgd-at",
    "eps": 0.1,
    "steps": 5,
    "epochs": 12,
    "batch_size": 64,
}
NETS: dict[str, dict[str, Any]] = {
    "dense": {"structure": "dense", "hidden": (1024, 1024)},
    "dense-small": {"structure": "dense", "hidden": (90, 90)},  # 14,950 parameters
    "kron": {"structure": "kron", "hidden": (1024, 1024)},  # 14,858
}


def run_demo(
    out: Path, *, seed: int, notify: Notify, on_progress: Callable[[Any], None]
) -> BenchReport:
    """Train, export, verify and bench the nets; everything stays in ``out``."""
    artifacts: list[Path] = []
    for name, net in NETS.items():
        path = out / f"{name}.pt"
        notify(f"training {path.name}: robust {net['structure']} MLP on the digits")
        summary = train_model(
            None,
            path,
            resume=False,
            on_progress=on_progress,
            overrides=RECIPE | net | {"seed": seed},
        )
        notify(summary.lines()[0])
        notify(f"exporting {path.name}")
        manifest = export_source(
            TorchModel(load(path), path),
            out,
            options=ExportOptions(),
            evaluation=EvaluationOptions(attack="pgd-40", seed=seed),
            notify=notify,
        )
        artifacts += [out / a.path for a in manifest.artifacts]
    report = verify_exports(out, ProofOptions(seed=seed), notify)
    for item in report.items:
        if item.result == "failed":
            raise ArtifactCheckFailed(f"{item.path}: {item.check}: {item.found}", hint=VERIFY)
    result = bench_artifacts(artifacts, BenchOptions(seed=seed), notify)
    write_text(out / "bench.json", dump(result))
    return result
