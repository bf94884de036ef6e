"""Choosing mode shapes, and the structure strings of recipes and the command line."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.structures.base import check_count
from sepdeploy.structures.dense import DenseSpec
from sepdeploy.structures.kron import KronSpec
from sepdeploy.structures.lowrank import LowRankSpec

GRAMMAR = "dense, kron, kron*2, kron:aligned, kron:28x28-64x64, kron:28x28-64x64*2 or lowrank:40"
KEPT_SPLIT_RATIO = 16  # a sample's own modes are kept up to this imbalance
_STRUCTURE_NAMES = ("dense", "kron", "lowrank")
_MODES = r"\d+(?:x\d+)+"
_KRON = re.compile(
    rf"(?:(?P<aligned>aligned)|(?P<inner>{_MODES})-(?P<outer>{_MODES}))?(?:\*(?P<terms>\d+))?"
)


def factor_pairs(n: int) -> list[tuple[int, int]]:
    """All (a, b) with a·b = n, most balanced first, a ≤ b before its mirror."""
    small = [a for a in range(1, math.isqrt(n) + 1) if n % a == 0]
    pairs = {(a, n // a) for a in small} | {(n // a, a) for a in small}
    return sorted(pairs, key=lambda p: (max(p), p))


def two_modes(shape: Sequence[int]) -> tuple[int, int]:
    """A sample shape as two modes, without mixing its axes where that stays balanced.

    Adjacent axes are merged at the most balanced place: (1, 28, 28) → (28, 28),
    (3, 32, 32) → (96, 32), (16, 5, 5) → (16, 25). A flat or very uneven shape gets its most
    balanced factor pair: (1024,) → (32, 32).
    """
    splits = [(math.prod(shape[:cut]), math.prod(shape[cut:])) for cut in range(1, len(shape))]
    best = min(splits, key=max, default=None)
    if best is not None and max(best) <= KEPT_SPLIT_RATIO * min(best):
        return best
    return factor_pairs(math.prod(shape))[0]


def suggest_shapes(n_in: int, n_out: int, d: int = 2) -> list[KronSpec]:
    """All one-term Kronecker shapes n_in → n_out with d modes, most balanced first.

    Modes of size 1 appear only where a number has too few prime factors to avoid them. Equal
    balance is resolved by larger structural rank, then fewer parameters, then the shape itself.

    Raises:
        BadInput: A size is not positive, or d is below 2 or above 4.
    """
    n_in, n_out = check_count(n_in, "n_in"), check_count(n_out, "n_out")
    if not 2 <= d <= 4:
        raise BadInput(f"{d} modes asked for; shapes are listed for 2 to 4")
    specs = [KronSpec(i, o) for i in _products(n_in, d) for o in _products(n_out, d)]
    return sorted(specs, key=_balance_key)


def nearest_shapes(
    in_shape: Sequence[int], out_shape: Sequence[int], n_in: int, n_out: int
) -> list[KronSpec]:
    """The three shapes n_in → n_out nearest to modes that do not fit, by their sizes' ratios."""
    d = min(len(in_shape), 4)
    wanted = [math.log(max(1, n)) for n in (*in_shape[:d], *out_shape[:d])]

    def distance(spec: KronSpec) -> float:
        found = (*spec.in_shape, *spec.out_shape)
        return sum(abs(math.log(n) - w) for n, w in zip(found, wanted, strict=True))

    return sorted(suggest_shapes(n_in, n_out, d), key=distance)[:3]


def own_shape(in_shape: Sequence[int], n_out: int) -> KronSpec:
    """The shape that plain "kron" means: the sample's own modes in, the most balanced pair out.

    Of a pair's two orders the one of larger rank is taken: (96, 32) → (64, 32) has the full rank
    2048, (96, 32) → (32, 64) half of it. The published perceptron is written like that.
    """
    modes, pair = two_modes(in_shape), factor_pairs(n_out)[0]
    orders = [KronSpec(modes, outer) for outer in (pair, pair[::-1])]
    return max(orders, key=lambda spec: spec.structural_rank)


def aligned_shape(in_shape: Sequence[int], n_out: int) -> KronSpec:
    """The most balanced shape of full rank, with the sample's own modes where there is one.

    A Kronecker product has rank Π min(o_k, i_k), which is below min(n_in, n_out) wherever one
    mode grows and another one shrinks. Some sizes allow no full rank; then it is the largest.
    """
    modes, full = two_modes(in_shape), min(math.prod(in_shape), n_out)
    own = [KronSpec(modes, outer) for outer in factor_pairs(n_out)]
    others = suggest_shapes(math.prod(in_shape), n_out)
    for spec in (*own, *others):
        if spec.structural_rank == full:
            return spec
    return max((*own, *others), key=lambda spec: spec.structural_rank)


def _products(n: int, d: int) -> list[tuple[int, ...]]:
    shapes = list(_ordered_products(n, d))
    fewest_ones = min(s.count(1) for s in shapes)
    return [s for s in shapes if s.count(1) == fewest_ones]


def _ordered_products(n: int, d: int) -> Iterator[tuple[int, ...]]:
    if d == 1:
        yield (n,)
        return
    for a in _divisors(n):
        for rest in _ordered_products(n // a, d - 1):
            yield (a, *rest)


@cache
def _divisors(n: int) -> tuple[int, ...]:
    small = [a for a in range(1, math.isqrt(n) + 1) if n % a == 0]
    return tuple(sorted({*small, *(n // a for a in small)}))


def _balance_key(spec: KronSpec) -> tuple[float, int, int, tuple[int, ...]]:
    spread = sum(max(s) / min(s) for s in (spec.in_shape, spec.out_shape))
    shape = (*spec.in_shape, *spec.out_shape)
    return (spread, -spec.structural_rank, spec.weight_params, shape)


def parse_structure(
    text: str, in_shape: Sequence[int], out_features: int
) -> DenseSpec | KronSpec | LowRankSpec:
    """Read a structure string for one layer.

    ``dense``; ``kron`` (two modes: the sample's own ones in, the most balanced pair out);
    ``kron:aligned`` (two modes of full rank); ``kron:28x28-64x64`` (explicit modes); ``*K`` behind
    any of them for K terms; ``lowrank:40``.

    Args:
        text: The structure string.
        in_shape: Shape of one sample arriving at the layer, e.g. (1, 28, 28) or (1024,).
        out_features: n_out.

    Raises:
        BadInput: Unknown family, malformed, or shapes that do not fit the layer.
    """
    name, colon, options = text.strip().partition(":")
    if not colon and "*" in name:
        name, _, terms = name.partition("*")
        options = f"*{terms}"
    if name == "tucker":
        raise BadInput(
            f"structure '{text[:60]}' is a form of convolutions, this layer is linear",
            hint="write lowrank:40, the same for two modes",
        )
    if name not in _STRUCTURE_NAMES:
        raise unknown_name("structure", name[:40], _STRUCTURE_NAMES, hint=f"write {GRAMMAR}")
    n_in = math.prod(in_shape)
    try:
        if colon and not options:
            raise BadInput("nothing follows the colon")
        if name == "kron":
            return _parse_kron(options, in_shape, out_features)
        if name == "lowrank":
            return LowRankSpec(n_in, out_features, _whole_number(options))
        if options:
            raise BadInput("dense takes no options")
        return DenseSpec(n_in, out_features)
    except BadInput as error:
        message = f"structure '{text[:60]}': {error.message}"
        raise BadInput(message, hint=error.hint or f"write {GRAMMAR}") from error


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadInput(f"'{text[:20]}' is not a whole number")
    return int(text)


def _parse_kron(options: str, in_shape: Sequence[int], out_features: int) -> KronSpec:
    match = _KRON.fullmatch(options)
    if match is None:
        raise BadInput("the modes are not written like 28x28-64x64")
    terms = _whole_number(match["terms"]) if match["terms"] else 1
    if match["inner"] is None:
        shape = (aligned_shape if match["aligned"] else own_shape)(in_shape, out_features)
        return dataclasses.replace(shape, terms=terms)
    modes = [tuple(map(_whole_number, match[g].split("x"))) for g in ("inner", "outer")]
    spec = KronSpec(modes[0], modes[1], terms)
    n_in = math.prod(in_shape)
    if (spec.in_features, spec.out_features) != (n_in, out_features):
        fitting = nearest_shapes(modes[0], modes[1], n_in, out_features)
        examples = [
            "-".join("x".join(map(str, s)) for s in (f.in_shape, f.out_shape)) for f in fitting
        ]
        raise BadInput(
            f"it maps {spec.in_features} → {spec.out_features}, "
            f"the layer is {n_in} → {out_features}",
            hint=f"for example kron:{', kron:'.join(examples)}",
        )
    return spec
