"""Quantised operators that load, run and give wrong numbers; none is ever written.

Each was found by comparing files that differ in one thing. Parity would find them too, where the
runtime at fault is installed; on a device it may be another one.
"""

from __future__ import annotations

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.format.graph import Graph, Op


def refuse_traps(graph: Graph, runtime: str) -> None:
    """Refuse a graph that some runtime computes silently wrong.

    Raises:
        BadInput: It holds such an operator; the message names it and says what happens.
    """
    for op in graph.ops:
        reason = _trap(op, runtime)
        if reason:
            raise BadInput(
                f"{op.kind} '{op.outputs[0].name}' would be silently wrong: {reason}",
                hint="keep this layer float32, or quantise it with one scale per tensor",
            )


def _trap(op: Op, runtime: str) -> str:
    if op.kind not in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        return ""
    integer = [t for t in op.inputs if t.dtype == "int8"]
    per_channel = any(t.quantization and t.quantization.per_channel for t in integer)
    mixed = bool(integer) and any(t.dtype == "float32" for t in op.inputs[:2])
    if op.kind == "FULLY_CONNECTED":
        wrong = mixed and per_channel and runtime == "tflite-runtime-2.14"
        return "tflite-runtime 2.14 reads only the first of its scales" if wrong else ""
    if per_channel:
        return "both runtimes give zeros for int8 products with a scale per channel"
    if mixed:
        return "built-in kernels lose a third of the result with int8 weights and float inputs"
    return ""
