"""Which converter turns which ONNX operator into TFLite operators."""

from __future__ import annotations

from sepdeploy.exporters.tflite_file.ops import (
    activation,
    arithmetic,
    concat,
    einsum,
    indexing,
    linear,
    normalize,
    reduce,
    select,
    shape,
    structured,
)
from sepdeploy.exporters.tflite_file.ops.spatial import conv, conv_transpose, pool, resize
from sepdeploy.exporters.tflite_file.values.affine import Converter
from sepdeploy.records import DOMAIN

CONVERTERS: dict[str, Converter] = {
    "Abs": arithmetic.unary_op("ABS"),
    "Add": arithmetic.binary_op("ADD"),
    "And": arithmetic.binary_op("LOGICAL_AND", dtype=bool),
    "ArgMax": reduce.arg_op("ARG_MAX"),
    "ArgMin": reduce.arg_op("ARG_MIN"),
    "AveragePool": pool.average_pool,
    "BatchNormalization": normalize.batch_norm,
    "Cast": arithmetic.cast,
    "Ceil": arithmetic.unary_op("CEIL"),
    "Celu": activation.celu,
    "Clip": activation.clip,
    "Concat": concat.concat,
    "Conv": conv.conv,
    "ConvTranspose": conv_transpose.conv_transpose,
    "Cos": arithmetic.unary_op("COS"),
    "CumSum": indexing.cumulative_sum,
    "DepthToSpace": resize.depth_to_space,
    "Div": arithmetic.divide,
    "Dropout": shape.identity,
    "Einsum": einsum.einsum,
    "Elu": activation.elu,
    "Equal": arithmetic.binary_op("EQUAL", dtype=bool),
    "Erf": activation.erf,
    "Exp": arithmetic.unary_op("EXP"),
    "Expand": shape.expand,
    "Flatten": shape.flatten,
    "Floor": arithmetic.unary_op("FLOOR"),
    "Gather": select.gather,
    "GatherND": indexing.gather_nd,
    "Gelu": activation.gelu,
    "Gemm": linear.gemm,
    "GlobalAveragePool": pool.global_average_pool,
    "GlobalMaxPool": pool.global_max_pool,
    "Greater": arithmetic.binary_op("GREATER", dtype=bool),
    "GreaterOrEqual": arithmetic.binary_op("GREATER_EQUAL", dtype=bool),
    "GroupNormalization": normalize.group_norm,
    "HardSigmoid": activation.hard_sigmoid,
    "HardSwish": activation.hard_swish,
    "Identity": shape.identity,
    "InstanceNormalization": normalize.instance_norm,
    "IsNaN": arithmetic.is_nan,
    "LayerNormalization": normalize.layer_norm,
    "LeakyRelu": activation.leaky_relu,
    "Less": arithmetic.binary_op("LESS", dtype=bool),
    "LessOrEqual": arithmetic.binary_op("LESS_EQUAL", dtype=bool),
    "Log": arithmetic.unary_op("LOG"),
    "LogSoftmax": reduce.softmax_op("LOG_SOFTMAX"),
    "MatMul": linear.matmul,
    "Max": arithmetic.variadic_op("MAXIMUM"),
    "MaxPool": pool.max_pool,
    "Mean": arithmetic.variadic_op("ADD", mean=True),
    "Min": arithmetic.variadic_op("MINIMUM"),
    "Mish": activation.mish,
    "Mul": arithmetic.binary_op("MUL"),
    "Neg": arithmetic.unary_op("NEG"),
    "Not": arithmetic.unary_op("LOGICAL_NOT"),
    "Or": arithmetic.binary_op("LOGICAL_OR", dtype=bool),
    "PRelu": activation.prelu,
    "Pad": select.pad,
    "Pow": arithmetic.power,
    "RMSNormalization": normalize.rms_norm,
    "Reciprocal": arithmetic.reciprocal,
    "ReduceL1": reduce.composed_reduce("ABS", ""),
    "ReduceL2": reduce.composed_reduce("SQUARE", "SQRT"),
    "ReduceLogSumExp": reduce.composed_reduce("EXP", "LOG"),
    "ReduceMax": reduce.reduce_op("REDUCE_MAX"),
    "ReduceMean": reduce.reduce_op("MEAN"),
    "ReduceMin": reduce.reduce_op("REDUCE_MIN"),
    "ReduceProd": reduce.reduce_op("REDUCE_PROD"),
    "ReduceSumSquare": reduce.composed_reduce("SQUARE", ""),
    "ReduceSum": reduce.reduce_op("SUM"),
    "Relu": arithmetic.unary_op("RELU"),
    "Reshape": shape.reshape,
    "Resize": resize.resize,
    "Round": arithmetic.unary_op("ROUND"),
    "Selu": activation.selu,
    "Sigmoid": arithmetic.unary_op("LOGISTIC"),
    "Sign": arithmetic.unary_op("SIGN"),
    "Sin": arithmetic.unary_op("SIN"),
    "Slice": select.slice_,
    "Softmax": reduce.softmax_op("SOFTMAX"),
    "Softplus": activation.softplus,
    "Softsign": activation.softsign,
    "SpaceToDepth": resize.space_to_depth,
    "Split": select.split,
    "Sqrt": arithmetic.unary_op("SQRT"),
    "Squeeze": shape.squeeze,
    "Sub": arithmetic.binary_op("SUB"),
    "Sum": arithmetic.variadic_op("ADD"),
    "Swish": activation.swish,
    "Tanh": arithmetic.unary_op("TANH"),
    "Tile": indexing.tile,
    "TopK": indexing.top_k,
    "Transpose": shape.transpose,
    "Trilu": indexing.triangle,
    "Unsqueeze": shape.unsqueeze,
    "Where": arithmetic.where,
}


def converter_of(domain: str, op: str) -> Converter | None:
    """What turns an operator into TFLite operators, None where nothing does."""
    if domain == DOMAIN:
        return structured.structured_linear
    return None if domain else CONVERTERS.get(op)


# Operators of one value that only change what its shape is called.
RELABELLING = {
    ("", op)
    for op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout")
}

# The nearest way out for operators that have no TFLite form, where there is one.
NEAREST: dict[str, str] = {
    "GRU": "unroll it into linear layers for a fixed length",
    "GridSample": "use an upsampling layer of fixed size",
    "If": "export the branch that is taken at inference",
    "LSTM": "unroll it into linear layers for a fixed length",
    "LRN": "use batch normalisation instead",
    "Loop": "unroll the loop before export",
    "MaxUnpool": "use an upsampling layer",
    "NonMaxSuppression": "leave it out of the model and run it on the outputs",
    "NonZero": "the number of results depends on the data; use a mask of fixed size",
    "RNN": "unroll it into linear layers for a fixed length",
}
