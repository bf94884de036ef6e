"""PyTorch's own ONNX exporter, held to what we need: exact, quiet, quick, and forgetting."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from onnx import TensorProto, helper

from sepdeploy.exporters.domain import OPSET


@contextlib.contextmanager
def exact_rules() -> Iterator[None]:
    """Take from the exporter's optimiser the rules that mistake small numbers for none.

    They drop ``x + c`` and ``x * c`` where c is within 1e-8 of 0 or 1e-5 of 1: a network that
    guards a division by ``+ 1e-8`` would give NaN for an empty image.
    """
    from onnxscript import rewriter
    from onnxscript.rewriter.rules.common import _no_op

    before = rewriter._DEFAULT_REWRITE_RULES
    inexact = {id(rule) for rule in _no_op.rules}
    rewriter._DEFAULT_REWRITE_RULES = tuple(r for r in before if id(r) not in inexact)
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = before


def forget() -> None:
    """Show the exporter's optimiser another graph: it keeps hold of the last one, and its model."""
    import onnx_ir
    from onnxscript import optimizer

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [value], [result])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    optimizer.optimize(onnx_ir.serde.deserialize_model(other))


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Let the exporter read its tables once: it does so for every model, longer than it traces.

    Its translations come from the sources of 500 functions, and PyTorch's list of operators is
    gone through for each of their name spaces.
    """
    from torch._export import utils
    from torch.onnx._internal.exporter import _registration

    registry: Any = _registration.ONNXRegistry
    with contextlib.ExitStack() as stack:
        replace = functools.partial(_replaced, stack)
        replace(registry, "from_torchlib", lambda read: staticmethod(_copies(read)))
        replace(utils, "_materialize_cpp_cia_ops", functools.cache)
        yield


def _replaced(stack: contextlib.ExitStack, owner: Any, name: str, change: Any) -> None:
    """Change what is called ``name`` until the stack ends; another PyTorch may not have it."""
    before = vars(owner).get(name)
    if before is None:
        return
    setattr(owner, name, change(getattr(owner, name)))
    stack.callback(setattr, owner, name, before)


_REGISTRIES: dict[int, Any] = {}


def _copies(read: Any) -> Any:
    """The registry as read the first time; each caller adds translations to a copy of its own."""

    def copied(opset_version: int) -> Any:
        if opset_version not in _REGISTRIES:
            _REGISTRIES[opset_version] = read(opset_version=opset_version)
        registry = copy.copy(_REGISTRIES[opset_version])
        registry.functions = {name: list(found) for name, found in registry.functions.items()}
        return registry

    return copied


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's notices (missing torchvision, progress lines) off the user's screen."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        sink = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
