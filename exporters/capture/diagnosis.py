"""What to say when a model cannot be traced: the operator, its module, the nearest way out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from sepdeploy.errors import BadInput

REPLACE = "replace it in the module's forward by standard layers or tensor operations"
# The nearest way out, by the operator's name without prefix, number of dimensions and variant.
NEAREST = {
    "linalg": "compute it once in __init__ and keep the result as a buffer",
    "adaptive_max_pool": "use return_indices=False",
    "cdist": "write the distance as a matmul: |a|² − 2·a bᵀ + |b|²",
    "cumprod": "multiply slice by slice, or take exp of a cumsum of logs",
    "histc": "leave it out of the model and run it on the outputs",
    "median": "use a mean, or topk with a fixed k",
    "prod": "multiply slice by slice, or take exp of a sum of logs",
    "unique": "leave it out of the model and run it on the outputs",
}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def untraceable(error: BaseException) -> BadInput:
    """One line from a failed capture: the root's first line and the user's own source line."""
    root = list(_causes(error))[-1]
    text = "\n".join(str(e) for e in _causes(error))
    first = next((line.strip() for line in str(root).splitlines() if line.strip()), "no details")
    places = re.findall(
        r"(?:File \"|\()([^\"():\n]+\.py)(?:\", line |:)(\d+)[^\n]* in forward", text
    )
    own = [f"{file}:{line}" for file, line in places if f"{os.sep}torch{os.sep}" not in file]
    where = f" (at {own[-1]})" if own else ""
    return BadInput(
        f"the model cannot be traced{where}: {type(root).__name__}: {first[:200]}",
        hint="forward must not branch on the values of a tensor or fix the batch size",
    )


def untranslatable(error: BaseException, graph: Any) -> BadInput:
    """One line from a failed translation: the operator and the module it came from."""
    text = "\n".join(str(e) for e in _causes(error))
    patterns = (
        r"OpOverload\(op='([\w.:]+)'",
        r"torch\.ops\.([\w.]+)",
        r"getitem\]\(args = \(%(\w+?)(?:_\d+)?, [1-9]",  # a second result
    )
    found = next((m for p in patterns if (m := re.search(p, text))), None)
    if found is None:
        root = list(_causes(error))[-1]
        first = next(
            (line.strip() for line in str(root).splitlines() if line.strip()), "no details"
        )
        return BadInput(
            f"the model cannot be exported: {type(root).__name__}: {first[:200]}",
            hint="replace unusual operations by standard layers",
        )
    op = found.group(1)
    short = op.split(".")[1] if "." in op else op
    path = _module_of(short, graph, re.findall(r"translating node %(\w+)", text))
    # Our own translations say why; PyTorch's say no more than that there is none.
    own = [str(e) for e in _causes(error) if isinstance(e, NotImplementedError)]
    why = f": {own[-1].splitlines()[0][:200]}" if own and own[-1] else ""
    return BadInput(
        f"operator {op}" + (f" in module '{path}'" if path else "") + f" has no ONNX form{why}",
        hint=next((way for name, way in NEAREST.items() if _is_a(short, name)), REPLACE),
    )


def _is_a(op: str, name: str) -> bool:
    """Whether an operator is ``name`` or a variant: ``_cdist_forward``, ``nanmedian``."""
    return re.fullmatch(rf"_*(nan)?{name}(\d?d|\d)?(_\w+)?", op) is not None


def _module_of(op: str, graph: Any, names: list[str]) -> str:
    """Path of the module that calls an operator.

    Args:
        op: Its name; a decomposition may have shortened it.
        graph: The traced graph.
        names: What the calls in question are called, where that is known.
    """
    nodes = [n for n in graph.nodes if n.name in names] + list(graph.nodes)
    for node in nodes:
        name = "".join(str(node.target).split(".")[1:2]).replace("_", "")
        wanted = op.replace("_", "")
        if node.op == "call_function" and name and (wanted in name or name in wanted):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if stack:
                return str(stack[-1][0]).removeprefix("net.")
    return ""
