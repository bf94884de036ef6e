"""Einsum as a chain of products of two operands, each a matrix product or a FULLY_CONNECTED."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import describe
from sepdeploy.exporters.tflite_file.ops.linear import batched_product
from sepdeploy.exporters.tflite_file.ops.reduce import reduce_value
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


@dataclass(frozen=True)
class _Term:
    """An operand with one letter per dimension."""

    letters: str
    item: Item


def einsum(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Contract operands from left to right; each letter at most once per operand."""
    terms, result = _parse(ctx, node, inputs)
    first, *rest = terms
    for position, term in enumerate(rest):
        later = result + "".join(t.letters for t in rest[position + 1 :])
        first = _product(ctx, node, first, term, later)
    value = ctx.b.runtime(first.item)
    gone = [i for i, letter in enumerate(first.letters) if letter not in result]
    value = reduce_value(ctx, "SUM", value, gone, keep=False) if gone else value
    letters = "".join(letter for letter in first.letters if letter in result)
    return [layout.transpose(value, [letters.index(letter) for letter in result])]


def _parse(ctx: Context, node: Node, inputs: Inputs) -> tuple[list[_Term], str]:
    equation = ctx.text(node, "equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    names = left.split(",")
    plain = all(len(set(n)) == len(n) and n.isalpha() for n in [*names, result or "a"])
    if not arrow or not plain or len(names) != len(inputs) or not set(result) <= set(left):
        raise BadInput(
            f"{node}: equation '{equation}' has no TFLite form",
            hint="name every dimension once per operand, or write it as matmul and permute",
        )
    terms = [_Term(n, ctx.item(node, inputs, i)) for i, n in enumerate(names)]
    sizes: dict[str, int] = {}
    for term in terms:
        if isinstance(term.item, Constant):
            term.item.whole(node)
        if len(term.item.shape) != len(term.letters):
            raise BadInput(
                f"{node}: '{term.letters}' does not fit {describe(term.item.shape)}", hint=GRAPH
            )
        for letter, size in zip(term.letters, term.item.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise BadInput(f"{node}: dimension '{letter}' has two sizes", hint=GRAPH)
    return terms, result


def _product(ctx: Context, node: Node, x: _Term, y: _Term, later: str) -> _Term:
    """Multiply two operands and sum over what nobody needs later."""
    if isinstance(x.item, Constant) and isinstance(y.item, Value):
        x, y = y, x
    summed = [c for c in x.letters if c in y.letters and c not in later]
    shared = [c for c in x.letters if c in y.letters and c in later]
    own_x = [c for c in x.letters if c not in y.letters]
    own_y = [c for c in y.letters if c not in x.letters]
    if not summed:
        return _elementwise(ctx, x, y)
    sizes = dict(zip(x.letters + y.letters, (*x.item.shape, *y.item.shape), strict=True))
    width = math.prod(sizes[c] for c in summed)
    if not shared and isinstance(y.item, Constant):
        left = _ordered(ctx, x, [*own_x, *summed])
        matrix = ctx.b.reshaped(left, (*(sizes[c] for c in own_x), width))
        weight = y.item.data.transpose([y.letters.index(c) for c in [*own_y, *summed]])
        flat = np.ascontiguousarray(weight.reshape(-1, width))
        out = contract(ctx.b, matrix, len(own_x), flat, None, "weight")
    else:
        left = _grouped(ctx, x, [shared, own_x, summed], sizes)
        right = _grouped(ctx, y, [shared, summed, own_y], sizes)
        out = batched_product(ctx, node, left, right)
    letters = "".join([*shared, *own_x, *own_y])
    return _Term(letters, ctx.b.reshaped(out, [sizes[c] for c in letters]))


def _ordered(ctx: Context, term: _Term, letters: Sequence[str]) -> Value:
    value = ctx.b.runtime(term.item)
    return layout.transpose(value, [term.letters.index(c) for c in letters])


def _grouped(
    ctx: Context, term: _Term, groups: Sequence[Sequence[str]], sizes: dict[str, int]
) -> Value:
    """Return a (batch, rows, columns) value with one dimension per group of letters."""
    value = _ordered(ctx, term, [c for group in groups for c in group])
    return ctx.b.reshaped(value, [math.prod(sizes[c] for c in group) for group in groups])


def _elementwise(ctx: Context, x: _Term, y: _Term) -> _Term:
    """Multiply two operands without summing: shared letters meet, the others broadcast."""
    letters = x.letters + "".join(c for c in y.letters if c not in x.letters)
    sides: list[Item] = []
    for term in (x, y):
        present = [c for c in letters if c in term.letters]
        axes = [term.letters.index(c) for c in present]
        sizes = dict(zip(term.letters, term.item.shape, strict=True))
        shape = tuple(sizes.get(c, 1) for c in letters)
        if isinstance(term.item, Constant):
            sides.append(Constant(term.item.data.transpose(axes).reshape(shape), shape))
        else:
            sides.append(ctx.b.reshaped(layout.transpose(term.item, axes), shape))
    return _Term(letters, binary(ctx.b, "MUL", *sides))
