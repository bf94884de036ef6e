"""Structured layers as single nodes of a traced graph.

Inside ``graph_nodes()`` a structured layer calls the custom op ``sepdeploy::structured_linear``
instead of its plain PyTorch operations, so that a tracer sees one node per layer. The op takes
and returns 2-D tensors (M, n_in) → (M, n_out) and has no gradient: it is for tracing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sepdeploy.structures import Structure, spec_from_json

_tracing = False


@contextmanager
def graph_nodes() -> Iterator[None]:
    """Make structured layers appear as one node each while the context is open."""
    global _tracing  # a plain flag: every tracer reads it as a constant
    before, _tracing = _tracing, True
    try:
        yield
    finally:
        _tracing = before


def is_tracing() -> bool:
    """Whether ``graph_nodes()`` is open."""
    return _tracing


def structured(
    x: Tensor, factors: Sequence[Tensor], bias: Tensor | None, spec: Structure
) -> Tensor:
    """Compute x Wᵀ + bias as one node of the graph.

    Args:
        x: (M, n_in).
        factors: In the layout of the spec's ``factor_shapes``.
        bias: (n_out,) or None.
        spec: The structure.
    """
    y: Tensor = structured_linear(x, factors, bias, json.dumps(spec.to_json()))
    return y


@torch.library.custom_op("sepdeploy::structured_linear", mutates_args=())
def structured_linear(
    x: Tensor, factors: Sequence[Tensor], bias: Tensor | None, spec: str
) -> Tensor:
    """The op behind ``structured``; ``spec`` is the structure's JSON."""
    arrays = [f.detach().cpu().numpy() for f in factors]
    found = read_spec(spec).apply(x.detach().cpu().numpy(), arrays)
    y = torch.from_numpy(found.copy()).to(x.device, x.dtype)
    return y if bias is None else y + bias


@structured_linear.register_fake
def _(x: Tensor, factors: Sequence[Tensor], bias: Tensor | None, spec: str) -> Tensor:
    return x.new_empty((x.shape[0], read_spec(spec).out_features))


@functools.lru_cache(maxsize=1024)
def read_spec(text: str) -> Structure:
    """The structure that a node of a traced graph has as its text."""
    return spec_from_json(json.loads(text), where="node")
