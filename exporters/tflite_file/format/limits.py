"""What the kernels of the runtimes take: dimensions, sizes, option values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sepdeploy.errors import TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import MAX_ELEMENTS, Tensor, bounded, per_sample

# Most dimensions that the kernels of both runtimes take, with and without their fast path; beyond,
# they refuse or abort the process (all probed).
MAX_RANK = 6
MAX_RANK_OF: dict[str, int] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), 4),
    **dict.fromkeys(("STRIDED_SLICE", "PAD", "PADV2", "BATCH_MATMUL"), 5),
}
MAX_BROADCAST_RANK = 4
_BROADCASTING = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "SELECT_V2", "PRELU"}
_BROADCASTING |= {"EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"}
_BROADCASTING |= {"LOGICAL_AND", "LOGICAL_OR"}
# Up to this rank every kernel works; above it neighbouring dimensions are merged first.
MAX_PLAIN_RANK = 4


def check_limits(
    scope: str,
    kind: str,
    inputs: Sequence[Tensor],
    shapes: Sequence[Sequence[int]],
    options: Mapping[str, Any],
) -> None:
    """Refuse an operator that some runtime could not run.

    Args:
        scope: The layer, for the message.
        kind: The operator.
        inputs: Its operands.
        shapes: Shapes of its results.
        options: Its options.

    Raises:
        BadInput: Too many dimensions, too large a result, or an option beyond 32 bits.
    """
    rank = max(len(s) for s in (*(t.shape for t in inputs), *shapes))
    limit = MAX_RANK_OF.get(kind, MAX_RANK)
    broadcasts = any(math.prod(t.shape) not in (1, math.prod(shapes[0])) for t in inputs)
    if kind in _BROADCASTING and broadcasts:
        limit = MAX_BROADCAST_RANK
    if rank > limit:
        raise BadInput(
            f"{scope}: {kind} over {rank} dimensions has no TFLite form",
            hint=f"at most {limit} work; merge dimensions before the operation",
        )
    for shape in shapes:
        bounded(per_sample(shape), f"{scope}: {kind}", MAX_ELEMENTS)
    if any(isinstance(o, int) and not -(1 << 31) <= o < 1 << 31 for o in options.values()):
        raise BadInput(
            f"{scope}: {kind} has sizes {dict(options)} that do not fit 32 bits", hint=TFLITE_FORM
        )
