"""The page of measured numbers: one section per benchmark, each replaced on its own."""

from __future__ import annotations

import contextlib
import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sepdeploy import __version__, runtimes
from sepdeploy.records import Kind

PAGE = Path("docs/benchmarks.md")
HEADING = "## "
# In the order in which they stand on the page.
SECTIONS = {
    "layers": "Single layers",
    "limits": "What bounds a structured layer",
    "int8": "Dense int8",
    "networks": "Whole networks against torch.onnx.export",
    "litert-torch": "Whole networks against litert-torch",
    "native": "Our op in native kernels",
    "lowering": "The planner's choice against every form",
    "vgg16": "VGG-16 as a whole",
    "attacks": "Attacks against their references",
    "conformance": "The ONNX backend test suite",
}


def put(
    name: str,
    body: str,
    command: str,
    facts: dict[str, Any],
    page: Path = PAGE,
    *,
    threads: str = "one thread",
) -> None:
    """Replace a section of the page, and leave the others as they are.

    Args:
        name: A name of ``SECTIONS``.
        body: Markdown: tables, and what is to be known to read them.
        command: What measured it.
        facts: As ``sepdeploy.measure.host_facts`` gives them, from before the measurement.
        page: The file; it is made where it does not exist.
        threads: How many threads did the work, in words.
    """
    head, sections = _split(page.read_text() if page.is_file() else "# Benchmarks\n")
    title = SECTIONS[name]
    sections[title] = f"{title}\n\n{_origin(command, facts, threads)}\n\n{body.strip()}\n\n"
    order = list(SECTIONS.values())
    ranked = sorted(sections, key=lambda t: order.index(t) if t in order else len(order))
    text = head + "".join(HEADING + sections[title] for title in ranked)
    page.write_text(text.rstrip("\n") + "\n")


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the first section, and the sections by their titles."""
    head, *parts = ("\n" + text).split("\n" + HEADING)
    found = {part.splitlines()[0].strip(): part.rstrip("\n") + "\n\n" for part in parts}
    return head.lstrip("\n").rstrip("\n") + "\n\n", found


def machine(facts: dict[str, Any]) -> str:
    """Return processor, cores and load in words."""
    cores = "1 core" if facts["cores"] == 1 else f"{facts['cores']} cores"
    return f"{facts['cpu']}, {cores}, load {facts['load']}"


def _origin(command: str, facts: dict[str, Any], threads: str) -> str:
    versions = {"sepdeploy": __version__, **runtimes.versions()}
    versions |= {"numpy": str(facts["numpy"]), "python": str(facts["python"])}
    with contextlib.suppress(PackageNotFoundError):
        versions["torch"] = version("torch")
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"`{command}`, {datetime.date.today().isoformat()}. {Kind.HOST}: {machine(facts)}, "
        f"{threads}.\n{listed}."
    )
