"""What an estimate is made from: a plain list of operations."""

from __future__ import annotations

from dataclasses import dataclass

# Kinds of operations. The first four were fitted to published latencies; a matrix product is
# taken as a 1×1 convolution, which is the same loop.
KINDS = ("conv1x1", "conv3x3", "conv", "depthwise", "matmul", "move", "elementwise", "other")
DTYPES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Op:
    """One operation of a network, for one inference.

    Attributes:
        name: Its name in the file.
        kind: One of ``KINDS``: "conv1x1", "conv3x3" (any stride), "conv" (another size),
            "depthwise" (one input channel for each output), "matmul" (fully connected layers and
            products of matrices), "move" (transpositions, reshapes that copy, concatenations),
            "elementwise" (activations, additions, pooling, normalisation), "other".
        macs: Multiply-accumulates.
        weight_bytes: Of the constants it reads.
        activation_bytes: Of the tensors it reads and writes.
        dtype: What it computes in: "fp32", "fp16" or "int8".
        layer: Name of the layer it belongs to, for the breakdown; "" = its own name.
        fused: Whether the runtime does it as part of the operation before it, so that it costs
            neither a node of its own nor a pass over memory.
    """

    name: str
    kind: str
    macs: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    dtype: str = "fp32"
    layer: str = ""
    fused: bool = False
