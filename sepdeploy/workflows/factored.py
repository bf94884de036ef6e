"""Reading the parts of a structured convolution as the one layer they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sepdeploy.errors import NEW_FILE, BadInput, unknown_name
from sepdeploy.records import LayerRecord, PartOf
from sepdeploy.structures import CONVOLUTIONS


def merge_factored(
    records: Sequence[LayerRecord],
) -> tuple[tuple[LayerRecord, ...], dict[str, str]]:
    """Merge the records that are parts of one layer; its norm is at most the product of theirs.

    Returns:
        The layers, and for each given record the name of the layer it went into.

    Raises:
        BadInput: A record is part of a structure that nobody knows.
    """
    groups: dict[PartOf | str, list[LayerRecord]] = {}
    for record in records:
        groups.setdefault(record.part_of or record.name, []).append(record)
    merged = [
        _merge(key, group) if isinstance(key, PartOf) else group[0] for key, group in groups.items()
    ]
    owners = {r.name: r.part_of.layer if r.part_of else r.name for r in records}
    return tuple(merged), owners


def _merge(whole: PartOf, parts: Sequence[LayerRecord]) -> LayerRecord:
    norms = [p.sigma_max for p in parts if p.sigma_max is not None]
    factors = tuple(part.factors[0] for part in parts)
    if whole.structure not in CONVOLUTIONS:
        raise unknown_name("structure", whole.structure[:40], CONVOLUTIONS)
    try:
        spec = CONVOLUTIONS[whole.structure].from_factors(factors)
    except ValueError as error:
        raise BadInput(
            f"layer '{whole.layer[:60]}' has other parts than its structure", hint=NEW_FILE
        ) from error
    return LayerRecord(
        name=whole.layer,
        structure=whole.structure,
        factors=factors,
        params=sum(part.params for part in parts),
        params_dense=sum(part.params_dense for part in parts),
        macs=sum(part.macs for part in parts),
        macs_dense=sum(part.macs_dense for part in parts),
        spec=spec.to_json(),
        sigma_max=math.prod(norms) if len(norms) == len(parts) else None,
    )
