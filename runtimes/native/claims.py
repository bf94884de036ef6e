"""Which files get native kernels: those with nodes of ``ai.sepdeploy``, all of them float32.

A runtime takes a registered kernel by the op's name alone; for a half-precision node it would
refuse the whole file instead of falling back to the function body. So it is decided here, before
the runtime sees the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput
from sepdeploy.runtimes.native.library import native_status, switched_off

DOMAIN = "ai.sepdeploy"
OPS = ("KronLinear", "LowRankLinear")
FLOAT = 1  # onnx.TensorProto.FLOAT
SETUP = "sepdeploy devices setup host"


@dataclass(frozen=True)
class Claim:
    """What runs the custom nodes of a file.

    Attributes:
        nodes: How many nodes of the domain it has.
        library: The native library that is to run them, "" where none is.
        note: One line for people about what runs them, "" for a file without such nodes.
    """

    nodes: int = 0
    library: str = ""
    note: str = ""


def claim(path: Path, runtime: str, version: str | None, *, wanted: bool = True) -> Claim:
    """Return what runs the custom nodes of an ONNX file in a runtime.

    Args:
        path: The file.
        runtime: "onnxruntime".
        version: Its installed version.
        wanted: Whether native kernels may run them at all.

    Raises:
        BadInput: The file is not readable.
    """
    if not _mentions(path, DOMAIN.encode()):
        return Claim()
    nodes, reason = _survey(path)
    if not nodes:
        return Claim()
    if not wanted:
        reason = "as asked for"
    if not reason:
        found = native_status()
        if found.state == "ready" and found.runtimes.get(runtime) == version:
            return Claim(nodes, found.path, f"{_layers(nodes)} in native kernels")
        reason = _why_not(found.state, found.why, runtime, version)
    return Claim(nodes, "", f"{_layers(nodes)} as function bodies: {reason}")


def _layers(nodes: int) -> str:
    return f"{nodes} layer{'s' if nodes != 1 else ''} run{'s' if nodes == 1 else ''}"


def _why_not(state: str, why: str, runtime: str, version: str | None) -> str:
    if state == "ready":
        return f"the native kernels are not proven in {runtime} {version} ({SETUP})"
    if switched_off():
        return f"native kernels are switched off ({why})"
    return f"native kernels are {state} ({why})"


def _mentions(path: Path, word: bytes) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(word) >= 0
    except ValueError:  # an empty file cannot be mapped
        return False
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def _survey(path: Path) -> tuple[int, str]:
    """Return how many nodes of the domain a file has, and why kernels cannot run all of them."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError):
        return 0, ""  # the runtime says what is wrong with it
    floats = {t.name for t in model.graph.initializer if t.data_type == FLOAT}
    known = {t.name for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    for node in nodes:
        weights = set(node.input[1:])
        if node.op_type not in OPS:
            return len(nodes), f"no kernel for {node.op_type}"
        if not weights <= known:
            return len(nodes), "their factors are not constants"
        if not weights <= floats:
            return len(nodes), "they are not all float32"
    if any(n.domain == DOMAIN for n in _hidden_nodes(model)):
        return len(nodes), "some stand inside functions or branches"
    return len(nodes), ""


def _hidden_nodes(model: Any) -> Iterator[Any]:
    """Yield the nodes of functions and of graphs inside nodes."""
    for function in model.functions:
        yield from _with_inner(function.node)
    for node in model.graph.node:
        yield from _inner(node)


def _with_inner(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        yield from _inner(node)


def _inner(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from _with_inner(graph.node)
