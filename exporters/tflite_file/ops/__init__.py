"""Which converter turns which ONNX operator into TFLite operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sepdeploy.exporters.tflite_file.affine import Lazy
from sepdeploy.exporters.tflite_file.context import Context, Item
from sepdeploy.exporters.tflite_file.ops import (
    activation,
    arithmetic,
    concat,
    conv,
    conv_transpose,
    linear,
    normalize,
    pool,
    reduce,
    resize,
    select,
    shape,
    structured,
)
from sepdeploy.exporters.tflite_file.source import DOMAIN, Node

Converter = Callable[[Context, Node, Sequence[Item | None]], Sequence[Lazy]]

_STANDARD: dict[str, Converter] = {
    "Abs": arithmetic.unary_op("ABS"),
    "Add": arithmetic.binary_op("ADD"),
    "And": arithmetic.compare_op("LOGICAL_AND"),
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
    "DepthToSpace": resize.depth_to_space,
    "Div": arithmetic.divide,
    "Dropout": shape.identity,
    "Elu": activation.elu,
    "Equal": arithmetic.compare_op("EQUAL"),
    "Erf": activation.erf,
    "Exp": arithmetic.unary_op("EXP"),
    "Expand": shape.expand,
    "Flatten": shape.flatten,
    "Floor": arithmetic.unary_op("FLOOR"),
    "Gather": select.gather,
    "Gelu": activation.gelu,
    "Gemm": linear.gemm,
    "GlobalAveragePool": pool.global_average_pool,
    "GlobalMaxPool": pool.global_max_pool,
    "Greater": arithmetic.compare_op("GREATER"),
    "GreaterOrEqual": arithmetic.compare_op("GREATER_EQUAL"),
    "GroupNormalization": normalize.group_norm,
    "HardSigmoid": activation.hard_sigmoid,
    "HardSwish": activation.hard_swish,
    "Identity": shape.identity,
    "InstanceNormalization": normalize.instance_norm,
    "IsNaN": arithmetic.is_nan,
    "LayerNormalization": normalize.layer_norm,
    "LeakyRelu": activation.leaky_relu,
    "Less": arithmetic.compare_op("LESS"),
    "LessOrEqual": arithmetic.compare_op("LESS_EQUAL"),
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
    "Or": arithmetic.compare_op("LOGICAL_OR"),
    "PRelu": activation.prelu,
    "Pad": select.pad,
    "Pow": arithmetic.power,
    "RMSNormalization": normalize.rms_norm,
    "Reciprocal": arithmetic.reciprocal,
    "ReduceL2": reduce.reduce_l2,
    "ReduceMax": reduce.reduce_op("REDUCE_MAX"),
    "ReduceMean": reduce.reduce_op("MEAN"),
    "ReduceMin": reduce.reduce_op("REDUCE_MIN"),
    "ReduceProd": reduce.reduce_op("REDUCE_PROD"),
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
    "Transpose": shape.transpose,
    "Unsqueeze": shape.unsqueeze,
    "Where": arithmetic.where,
}

CONVERTERS: dict[tuple[str, str], Converter] = {
    (DOMAIN, "KronLinear"): structured.kron_linear,
    (DOMAIN, "LowRankLinear"): structured.low_rank_linear,
} | {("", op): converter for op, converter in _STANDARD.items()}

# Operators of one value that only change what its shape is called.
RELABELLING = {
    ("", op)
    for op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout")
}

# The nearest way out for operators that have no TFLite form, where there is one.
NEAREST: dict[str, str] = {
    "CumSum": "multiply by a lower triangular matrix of ones",
    "Einsum": "write the einsum as matmul, permute and reshape",
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
    "TopK": "use argmax, or leave it out of the model and run it on the outputs",
}
