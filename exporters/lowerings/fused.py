"""When a layer is handed to the fused op of the custom flavour.

``python -m benchmarks.native`` measures the op in native kernels against the best standard form
of each layer; the rule below hands a layer over only where the op was not slower there. What it
saves is the runtime's own work between products: nodes, moves of memory, products too narrow to
fill vectors. Nothing of that is left where a layer is one product anyway (the answer "dense"), or
where reading its weights is all that takes time.
"""

from __future__ import annotations

import math

from sepdeploy.structures import KronSpec, LowRankSpec, Spec

FUSED = "fused"
NOTE = "one native op; its function body or its standard sibling where no kernel is"

# Weights of one factor, from where on a batch of samples is not faster any more.
LARGEST_FACTOR = 2_500_000
# From this rank on, LiteRT's two products leave nothing to save.
LARGEST_RANK_TFLITE = 256


def refuse_fused(spec: Spec, standard: str, format: str) -> str:
    """Why a layer keeps its standard form, "" where it is handed to the fused op.

    Args:
        spec: Its structure.
        standard: The form that the planner takes in the standard flavour.
        format: "onnx" or "tflite".
    """
    if standard == "dense":
        return "one dense product is faster"
    if isinstance(spec, KronSpec):
        largest = max(math.prod(shape[1:]) for shape in spec.factor_shapes)
        if largest > LARGEST_FACTOR:
            return f"a factor of {largest} weights leaves nothing to save"
    if isinstance(spec, LowRankSpec) and format == "tflite" and spec.rank > LARGEST_RANK_TFLITE:
        return f"rank {spec.rank} leaves nothing to save"
    return ""
