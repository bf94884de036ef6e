"""Which converter turns which ONNX operator into TFLite operators."""

from __future__ import annotations

from sepdeploy.exporters.tflite_file.ops import (
    activation,
    arithmetic,
    composed,
    concat,
    einsum,
    indexing,
    linear,
    normalize,
    recurrent,
    reduce,
    scatter,
    select,
    shape,
    structured,
)
from sepdeploy.exporters.tflite_file.ops.spatial import conv, conv_transpose, grid, pool, resize
from sepdeploy.exporters.tflite_file.values.affine import Converter
from sepdeploy.records import DOMAIN

_UNARY = "Abs Ceil Cos Exp Floor Log Neg Relu Round Sign Sin Sqrt Tanh"  # of the same name
_LOGICAL = {"And": "LOGICAL_AND", "Or": "LOGICAL_OR", "Equal": "EQUAL", "Greater": "GREATER"}
_LOGICAL |= {"GreaterOrEqual": "GREATER_EQUAL", "Less": "LESS", "LessOrEqual": "LESS_EQUAL"}

CONVERTERS: dict[str, Converter] = {
    **{op: arithmetic.unary_op(op.upper()) for op in _UNARY.split()},
    **{op: arithmetic.binary_op(kind, dtype=bool) for op, kind in _LOGICAL.items()},
    **{op: composed.of_angle(op) for op in composed.ANGLES},
    **{op: recurrent.recurrent_op(op) for op in recurrent.STEPS},
    "Add": arithmetic.binary_op("ADD"),
    "ArgMax": reduce.arg_op("ARG_MAX"),
    "ArgMin": reduce.arg_op("ARG_MIN"),
    "AveragePool": pool.average_pool,
    "BatchNormalization": normalize.batch_norm,
    "Cast": arithmetic.cast,
    "Celu": activation.celu,
    "Clip": activation.clip,
    "Concat": concat.concat,
    "Conv": conv.conv,
    "ConvTranspose": conv_transpose.conv_transpose,
    "CumSum": indexing.cumulative_sum,
    "DepthToSpace": resize.depth_to_space,
    "Div": arithmetic.divide,
    "DequantizeLinear": composed.dequantize,
    "Dropout": composed.dropout,
    "Einsum": einsum.einsum,
    "Elu": activation.elu,
    "Erf": activation.erf,
    "Expand": shape.expand,
    "Flatten": shape.flatten,
    "Gather": select.gather,
    "GatherElements": scatter.gather_elements,
    "GatherND": scatter.gather_nd,
    "Gelu": activation.gelu,
    "Gemm": linear.gemm,
    "GlobalAveragePool": pool.global_average_pool,
    "GlobalMaxPool": pool.global_max_pool,
    "GridSample": grid.grid_sample,
    "GroupNormalization": normalize.group_norm,
    "HardSigmoid": activation.hard_sigmoid,
    "HardSwish": activation.hard_swish,
    "Hardmax": composed.hardmax,
    "Identity": shape.identity,
    "InstanceNormalization": normalize.instance_norm,
    "IsInf": composed.is_inf,
    "IsNaN": arithmetic.is_nan,
    "LRN": composed.local_response,
    "LayerNormalization": normalize.layer_norm,
    "LeakyRelu": activation.leaky_relu,
    "LogSoftmax": reduce.softmax_op("LOG_SOFTMAX"),
    "LpNormalization": composed.lp_normalization,
    "LpPool": pool.lp_pool,
    "MatMul": linear.matmul,
    "Max": arithmetic.variadic_op("MAXIMUM"),
    "MaxPool": pool.max_pool,
    "Mean": arithmetic.variadic_op("ADD", mean=True),
    "Min": arithmetic.variadic_op("MINIMUM"),
    "Mish": activation.mish,
    "Mod": composed.modulo,
    "Mul": arithmetic.binary_op("MUL"),
    "Not": arithmetic.unary_op("LOGICAL_NOT"),
    "OneHot": scatter.one_hot,
    "PRelu": activation.prelu,
    "Pad": select.pad,
    "Pow": arithmetic.power,
    "QuantizeLinear": composed.quantize,
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
    "Reshape": shape.reshape,
    "Resize": resize.resize,
    "ScatterElements": scatter.scatter_elements,
    "ScatterND": scatter.scatter_nd,
    "Selu": activation.selu,
    "Sigmoid": arithmetic.unary_op("LOGISTIC"),
    "Slice": select.slice_,
    "Softmax": reduce.softmax_op("SOFTMAX"),
    "Softplus": activation.softplus,
    "Softsign": activation.softsign,
    "SpaceToDepth": resize.space_to_depth,
    "Split": select.split,
    "Squeeze": shape.squeeze,
    "Sub": arithmetic.binary_op("SUB"),
    "Sum": arithmetic.variadic_op("ADD"),
    "Swish": activation.swish,
    "Tile": indexing.tile,
    "TopK": indexing.top_k,
    "Transpose": shape.transpose,
    "Trilu": indexing.triangle,
    "Unsqueeze": shape.unsqueeze,
    "Where": arithmetic.where,
    "Xor": arithmetic.binary_op("NOT_EQUAL", dtype=bool),
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
    "If": "export the branch that is taken at inference",
    "Loop": "unroll the loop before export",
    "MaxUnpool": "use an upsampling layer",
    "NonMaxSuppression": "leave it out of the model and run it on the outputs",
    "NonZero": "the number of results depends on the data; use a mask of fixed size",
}
