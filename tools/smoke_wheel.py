"""Build the wheel, install it with the base tier alone in a clean environment, and use it.

A tiny model is trained and exported with the development environment; the clean environment,
which has no torch, must then inspect, verify and bench the exported files. Prints each step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_PACKAGES = 22


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command, show it, and stop the smoke test when it fails."""
    print("  $", *[Path(str(c)).name if i == 0 else c for i, c in enumerate(command)], flush=True)
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def check(condition: bool, message: str) -> None:
    """Stop with a message unless the condition holds."""
    if not condition:
        sys.exit(f"smoke test failed: {message}")


def build_wheel(folder: Path) -> Path:
    """Return the freshly built wheel; only sepdeploy may stand at its top level."""
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--no-deps", "-w", folder, ROOT, cwd=folder)  # fmt: skip
    wheel = next(folder.glob("sepdeploy-*.whl"))
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    check(
        all(top == "sepdeploy" or top.endswith(".dist-info") for top in tops),
        f"the wheel drops {sorted(tops)} into site-packages",
    )
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel in a clean environment and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "install", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    call(python, "-m", "pip", "check", cwd=folder)
    listed = json.loads(call(python, "-m", "pip", "list", "--format=json",
                             "--disable-pip-version-check", cwd=folder))  # fmt: skip
    names = {p["name"].lower() for p in listed} - {"pip", "setuptools"}
    print(f"  base tier: {len(names)} packages", flush=True)
    check(len(names) <= MAX_PACKAGES, f"{len(names)} packages: {sorted(names)}")
    check("torch" not in names, "torch came with the base tier")
    return python


def make_export(folder: Path) -> None:
    """Train and export a tiny model with this interpreter."""
    tool = (sys.executable, "-m", "sepdeploy")
    call(*tool, "train", "--data", "digits", "--arch", "mlp", "--hidden", "64,64",
         "--structure", "kron", "--objective", "pgd-at", "--eps", "0.1", "--steps", "2",
         "--epochs", "1", "-q", "-o", "tiny.pt", cwd=folder)  # fmt: skip
    call(*tool, "export", "tiny.pt", "--samples", "50", "-q", cwd=folder)


def use(python: Path, folder: Path) -> None:
    """Inspect, verify and bench with the clean environment."""
    tool = (python, "-m", "sepdeploy")
    call(*tool, "--version", cwd=folder)
    call(*tool, "doctor", cwd=folder)
    call(*tool, "devices", "list", cwd=folder)
    check("mnist-100x" in call(*tool, "train", "--help", cwd=folder), "no recipes in the wheel")
    layers = json.loads(call(*tool, "inspect", "tiny.onnx", "--json", cwd=folder))["layers"]
    check(any(layer["structure"] == "kron" for layer in layers), "no kron layer in tiny.onnx")
    call(*tool, "inspect", "tiny.tflite", cwd=folder)
    call(*tool, "verify", "tiny.manifest.json", cwd=folder)
    call(*tool, "bench", "tiny.onnx", "--json", "bench.json", cwd=folder)
    result = json.loads((folder / "bench.json").read_text())["results"][0]
    values = {m["metric"]: m["value"] for m in result["measurements"]}
    for metric in ("params", "latency_ms", "latency_vs_dense", "adversarial_accuracy"):
        check(values.get(metric) is not None, f"bench gave no {metric}: {values}")


def main() -> None:
    """Run the smoke test."""
    with tempfile.TemporaryDirectory(prefix="sepdeploy-smoke-") as name:
        folder = Path(name)
        work = folder / "work"
        work.mkdir()
        make_export(work)
        use(install(build_wheel(folder), folder / "env"), work)
    print("wheel smoke test passed")


if __name__ == "__main__":
    main()
