"""The ways in which a file's custom nodes can run, each of which is proven by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sepdeploy import runtimes
from sepdeploy.errors import Missing

REFERENCE_EVALUATOR = "onnx.reference"
NO_KERNEL_HINT = "sepdeploy devices setup host; or use the standard file of the same export"


@dataclass(frozen=True)
class Way:
    """One way to run a file.

    Attributes:
        runtime: What runs the file; ``runtimes.RUNTIMES`` or "onnx.reference".
        name: As it stands in a certificate: "onnxruntime", "onnxruntime+native".
        native: What runs its custom nodes, for the runner's job.
    """

    runtime: str
    name: str
    native: Mapping[str, str] = field(default_factory=dict)


def ways(path: str | os.PathLike[str], runtime: str) -> tuple[Way, ...]:
    """Return every way in which a runtime can run a file.

    A file without custom nodes has one. Those of an ONNX file run as function bodies, and in
    native kernels where those are built; those of a TFLite file in native kernels and in the slow
    ones in Python.

    Raises:
        BadInput: The file is not readable.
        Missing: Nothing can run its custom nodes.
    """
    fast = runtimes.custom_nodes(path, runtime)
    if not fast.nodes:
        return (Way(runtime, runtime),)
    slow = runtimes.custom_nodes(path, runtime, native=False)
    found = []
    if runtimes.KINDS[runtimes.RUNTIMES[runtime].format].bodies:
        found.append(Way(runtime, runtime))
    for library, kernels in {fast.library: fast.kernels, slow.library: slow.kernels}.items():
        if library:
            found.append(Way(runtime, f"{runtime}+{kernels}", {os.fspath(path): library}))
    if not found:
        raise Missing(f"{Path(path).name}: {fast.note}", hint=NO_KERNEL_HINT)
    return tuple(found)


def has_bodies(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds nodes of ``ai.sepdeploy`` with function bodies.

    Raises:
        BadInput: The file is not readable.
    """
    kind = runtimes.KINDS[runtimes.file_format(path)]
    first = next(r.name for r in runtimes.RUNTIMES.values() if r.format == kind.name)
    return kind.bodies and runtimes.custom_nodes(path, first, native=False).nodes > 0
