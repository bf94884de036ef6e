"""Reading the three parts of a factored convolution as the one layer they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sepdeploy.records import LayerRecord

PARTS = ("reduce", "core", "expand")


def merge_factored(
    records: Sequence[LayerRecord],
) -> tuple[tuple[LayerRecord, ...], dict[str, str]]:
    """Merge ``x.reduce``, ``x.core``, ``x.expand`` into one low-rank layer ``x``.

    They are told by their names and by shapes that fit: 1×1, any kernel, 1×1, every one's outputs
    the next one's inputs. Its norm is at most the product of theirs.

    Returns:
        The layers, and for each given record the name of the layer it went into.
    """
    merged: list[LayerRecord] = []
    owners: dict[str, str] = {}
    rest = list(records)
    while rest:
        stem = _stem(rest[:3])
        parts, rest = (rest[:3], rest[3:]) if stem else (rest[:1], rest[1:])
        layer = _merge(stem, parts) if stem else parts[0]
        merged.append(layer)
        owners.update(dict.fromkeys((p.name for p in parts), layer.name))
    return tuple(merged), owners


def _stem(parts: Sequence[LayerRecord]) -> str:
    """The common name of the three parts of a factored convolution, "" for anything else."""
    stems = [p.name.rpartition(".") for p in parts]
    if tuple(s[2] for s in stems) != PARTS or len({s[0] for s in stems}) > 1:
        return ""
    shapes = [p.factors[0] for p in parts if len(p.factors) == 1 and len(p.factors[0]) == 4]
    if len(shapes) != 3:
        return ""
    (q, _, *first), (p, into, *_), (_, last, *end) = shapes
    fits = q == into and p == last and {*first, *end} == {1}
    return stems[0][0] if fits else ""


def _merge(name: str, parts: Sequence[LayerRecord]) -> LayerRecord:
    norms = [p.sigma_max for p in parts if p.sigma_max is not None]
    (q, into, *_), (_, _, *kernel), (out, p, *_) = (part.factors[0] for part in parts)
    return LayerRecord(
        name=name,
        structure="lowrank",
        factors=tuple(part.factors[0] for part in parts),
        params=sum(part.params for part in parts),
        params_dense=sum(part.params_dense for part in parts),
        macs=sum(part.macs for part in parts),
        macs_dense=sum(part.macs_dense for part in parts),
        spec={"in_channels": into, "out_channels": out, "kernel": kernel, "ranks": [q, p]},
        sigma_max=math.prod(norms) if len(norms) == 3 else None,
    )
