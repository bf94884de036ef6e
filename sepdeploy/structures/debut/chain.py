"""Chains of deformable butterfly factors: the paper's notation, what densifies, merging.

A factor (r, s, t) is a block-diagonal matrix whose blocks are r × s grids of t × t diagonal ones.
It is stored as a stack (G·t, r, s), G diagonal blocks with t small matrices each: input
(g, a, τ) with a < s meets output (g, b, τ) with b < r. The paper writes a chain from the output to
the input; here and in files factor 1 is the one that touches the input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sepdeploy.errors import FORMS, BadInput
from sepdeploy.structures.base import Array, check_count, whole_number

Factor = tuple[int, int, int]
Chain = tuple[Factor, ...]

MAX_FACTORS = 12
_ARROW = re.compile(r"←|<-|\s")
_FACTOR = re.compile(r"(\d+)?\((\d+),(\d+),(\d+)\)")


def read_chain(text: str) -> Chain:
    """Read "128←(2,2,64)128←(2,2,32)…←(16,25,1)400", the paper's way; arrows may be "<-" or none.

    Sizes between factors may be left out; where they stand they are checked.

    Raises:
        BadInput: Malformed, or a chain that does not densify; the message names the factor.
    """
    plain = _ARROW.sub("", text)
    found = list(_FACTOR.finditer(plain))
    last = plain[found[-1].end() :] if found else ""
    if "".join(m[0] for m in found) + last != plain or not found or not re.fullmatch(r"\d*", last):
        raise BadInput(
            f"'{text[:60]}' is no chain of factors",
            hint="write (r,s,t) from the output to the input: (2,2,64)(2,2,32)(16,25,1)",
        )
    numbers = [tuple(whole_number(n) for n in m.groups()[1:]) for m in reversed(found)]
    chain = checked([(r, s, t) for r, s, t in numbers])
    written = [last, *(m[1] or "" for m in reversed(found))]
    for place, (size, right) in enumerate(zip(written, widths(chain), strict=True)):
        if size and int(size) != right:
            side = f"behind factor {place}" if place else "at the input"
            raise BadInput(
                f"the chain is written with {size} {side}, its factors make it {right}",
                hint="leave the sizes between the factors out, or correct the factor",
            )
    return chain


def write_chain(chain: Chain) -> str:
    """The paper's notation without sizes and arrows: "(2,2,64)(2,2,32)(16,25,1)"."""
    return "".join(f"({r},{s},{t})" for r, s, t in reversed(chain))


def checked(factors: Any) -> Chain:
    """Return factors, input side first, as a chain.

    Raises:
        BadInput: No list of triples, or one that does not densify.
    """
    if not isinstance(factors, (tuple, list)) or not 1 <= len(factors) <= MAX_FACTORS:
        raise BadInput(f"a chain has 1 … {MAX_FACTORS} factors (r, s, t)", hint=FORMS)
    if not all(isinstance(f, (tuple, list)) and len(f) == 3 for f in factors):
        raise BadInput("a factor of a chain is three numbers (r, s, t)", hint=FORMS)
    chain: Chain = tuple(tuple(check_count(n, "r, s or t") for n in f) for f in factors)  # type: ignore[misc]
    wanted = 1
    for number, (r, s, t) in enumerate(chain, start=1):
        if t != wanted:
            due = "r·t of the factor before it" if number > 1 else "as it is the first one"
            raise BadInput(
                f"factor {number} from the input, ({r},{s},{t}), does not densify: "
                f"its t must be {wanted}, {due}",
                hint=f"write ({r},{s},{wanted}) in its place",
            )
        wanted = r * t
    for width in widths(chain):
        check_count(width, "width of the chain")
    return chain


def widths(chain: Chain) -> tuple[int, ...]:
    """q, p_1 … p_N: Π of the r of all factors before, and of the s of all behind."""
    before, behind = 1, math.prod(s for _, s, _ in chain)
    sizes = [behind]
    for r, s, _ in chain:
        before, behind = before * r, behind // s
        sizes.append(before * behind)
    return tuple(sizes)


def stack_shapes(chain: Chain) -> tuple[tuple[int, int, int], ...]:
    """(G·t, r, s) of each factor: G·s·t is the width before it."""
    return tuple((width // s, r, s) for width, (r, s, _) in zip(widths(chain), chain, strict=False))


def with_steps(pairs: Sequence[tuple[int, int]]) -> Chain:
    """The chain of (r, s) pairs, input side first: each t follows from the factors before."""
    chain, t = [], 1
    for r, s in pairs:
        chain.append((r, s, t))
        t *= r
    return tuple(chain)


def merge_two(first: Array, second: Array, t: int) -> Array:
    """Two neighbouring factors as one: (r₂r₁, s₂s₁, t₁); each entry is a product of two.

    Args:
        first: (G₂·s₂·t, r₁, s₁), the one on the input side.
        second: (G₂·r₁·t, r₂, s₂).
        t: Of the first.
    """
    (_, r1, s1), (stack, r2, s2) = first.shape, second.shape
    groups = stack // (r1 * t)
    inner = first.reshape(groups, s2, t, r1, s1).transpose(0, 2, 3, 1, 4)  # g τ b c a
    outer = second.reshape(groups, r1, t, r2, s2).transpose(0, 2, 3, 1, 4)  # g τ d b c
    product = outer[..., None] * inner[:, :, None]
    return np.asarray(product.reshape(groups * t, r2 * r1, s2 * s1))


def merge_all(chain: Chain, factors: Sequence[Array]) -> Array:
    """Neighbouring factors of a chain as one stack."""
    product = factors[0]
    for factor in factors[1:]:
        product = merge_two(product, factor, chain[0][2])
    return product


def merged_chain(chain: Chain, cuts: Sequence[int]) -> Chain:
    """The chain with the factors between two cuts made one; cuts start at 0 and end at N."""
    groups = [chain[a:b] for a, b in pairwise(cuts)]
    return with_steps([(math.prod(f[0] for f in g), math.prod(f[1] for f in g)) for g in groups])
