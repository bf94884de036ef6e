"""How long does a large network take to export and verify, and how much memory?

``python -m benchmarks.vgg16`` saves ``vgg16`` for 224×224 images with random weights, then runs
``sepdeploy export`` (both formats, no evaluation pack) and ``sepdeploy verify`` as a user does: one
process each, start-up included, with as many threads as the machine has cores. A third process
exports once more and says by how much its memory grew beyond what it holds after a small export,
when everything is imported; the runtimes' children are not in it, their largest is named beside.
Other programs on the machine lengthen the time; the seconds spent on the cores tell how much.
``--head dense`` takes the network as published. ``--write`` puts the result into
docs/benchmarks.md.

Exit code 1 where a bar is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import page
from sepdeploy.measure import host_facts

BAR_SECONDS, BAR_GROWTH = 30.0, 3.0  # of the Kronecker head; the dense one is for comparison
STRUCTURES = {"kron": "kron", "dense": None}
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

GROWTH = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import sepdeploy as sd
from sepdeploy import models
from sepdeploy.records import InputSpec

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

folder = Path(sys.argv[1])
tiny = models.create("lenet", InputSpec((1, 28, 28)), 10, "kron").eval()
sd.export(tiny, folder / "tiny", eval_pack=False)  # everything that is imported late
del tiny
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the largest size so far
sd.export(folder / "vgg16.pt", out_dir=folder / "again", eval_pack=False)
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"grown": status("VmHWM") - before, "before": before, "child": children}))
"""


def make(structure: str | None, path: Path) -> int:
    """Save the network; return the bytes of its float32 weights."""
    from sepdeploy import models
    from sepdeploy.records import InputSpec

    model = models.create("vgg16", InputSpec((3, 224, 224)), 1000, structure)
    models.save(model, path)
    return 4 * sum(p.numel() for p in model.parameters())


def seconds(*arguments: str, folder: Path) -> tuple[float, float]:
    """Run the command line tool; return how long the process took, and its time on the cores."""
    env = {k: v for k, v in os.environ.items() if k not in ONE_THREAD}
    start, used = time.perf_counter(), _core_seconds()
    subprocess.run([sys.executable, "-m", "sepdeploy", *arguments], cwd=folder, env=env, check=True)
    return time.perf_counter() - start, _core_seconds() - used


def _core_seconds() -> float:
    """Seconds that finished children, and theirs, have spent on the cores."""
    times = os.times()
    return times.children_user + times.children_system


def growth(folder: Path) -> dict[str, int]:
    """Export in a process that watches its own memory; see the module docstring."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(folder)], capture_output=True, text=True, check=True
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass(frozen=True)
class Found:
    """What one network took; ``growth`` is empty where the system does not tell."""

    head: str
    weight_bytes: int
    export_s: float
    verify_s: float
    export_cores_s: float
    verify_cores_s: float
    growth: dict[str, int]

    @property
    def together_s(self) -> float:
        """Export and verification, start-up included."""
        return self.export_s + self.verify_s

    @property
    def ratio(self) -> float:
        """How many times its weights the exporting process grew."""
        return self.growth["grown"] / self.weight_bytes if self.growth else 0.0

    @property
    def broken(self) -> bool:
        """Whether a bar is broken; the bars are those of the Kronecker head."""
        missed = self.together_s > BAR_SECONDS or self.ratio > BAR_GROWTH
        return self.head == "kron" and missed


def measure(head: str, folder: Path) -> Found:
    """Export and verify the network with this head."""
    weights = make(STRUCTURES[head], folder / "vgg16.pt")
    export, export_cores = seconds("export", "vgg16.pt", "--no-eval", folder=folder)
    verify, verify_cores = seconds("verify", "vgg16.manifest.json", folder=folder)
    grown = growth(folder) if sys.platform.startswith("linux") else {}
    return Found(head, weights, export, verify, export_cores, verify_cores, grown)


def lines(found: Found) -> list[str]:
    """Return the result in two sentences."""
    time_bar, growth_bar = ("", "")
    if found.head == "kron":
        time_bar, growth_bar = f" (bar {BAR_SECONDS:g} s)", f" (bar {BAR_GROWTH:g}×)"
    said = [
        f"export {found.export_s:.1f} s + verify {found.verify_s:.1f} s = {found.together_s:.1f} s"
        f"{time_bar}; on the cores {found.export_cores_s:.1f} + {found.verify_cores_s:.1f} s"
    ]
    if found.growth:
        said.append(
            f"memory growth {found.growth['grown'] / 2**20:.0f} MiB = {found.ratio:.2f}× weights"
            f"{growth_bar}; largest child {found.growth['child'] / 2**20:.0f} MiB"
        )
    return said


def section(found: Found) -> str:
    """Return the result as Markdown."""
    return (
        f"`vgg16` for 224×224 images, {found.head} head, "
        f"{found.weight_bytes / 2**20:.0f} MiB of float32 weights: exported to both formats and\n"
        "verified, one process each, start-up included. Memory is what the exporting process "
        "grows beyond its imports.\n\n" + "\n".join(f"* {line}" for line in lines(found))
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vgg16", description=__doc__)
    parser.add_argument("--head", choices=tuple(STRUCTURES), default="kron")
    parser.add_argument("--write", type=Path, nargs="?", const=page.PAGE)
    given = parser.parse_args(arguments)
    facts = host_facts()
    with tempfile.TemporaryDirectory(prefix="sepdeploy-") as name:
        found = measure(given.head, Path(name))
    weights = f"{found.weight_bytes / 2**20:.0f} MiB of float32 weights"
    print(f"\nvgg16, {found.head} head, {weights}; {page.machine(facts)}")
    print("\n".join(lines(found)))
    if given.write is not None:
        head = "" if found.head == "kron" else f" --head {found.head}"
        command = f"python -m benchmarks.vgg16{head} --write"
        page.put("vgg16", section(found), command, facts, given.write, threads="all cores")
    return int(found.broken)


if __name__ == "__main__":
    sys.exit(main())
