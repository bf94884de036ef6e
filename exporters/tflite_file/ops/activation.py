"""Activation functions, those without a TFLite operator composed of others."""

from __future__ import annotations

import math

import numpy as np

from sepdeploy.errors import TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.ops.arithmetic import scalar
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.elementwise import binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

MISH_IS_X = 20.0  # from where on its factor is 1
# Abramowitz & Stegun, Handbook of Mathematical Functions, formula 7.1.26: |error| < 1.5e-7.
_ERF_P = 0.3275911
_ERF_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def clip(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Clip with bounds known at export; RELU and RELU6 where that is what they mean."""
    x = ctx.value(node, inputs, 0)
    low = _bound(ctx, node, inputs, 1, "min", -math.inf)
    high = _bound(ctx, node, inputs, 2, "max", math.inf)
    return [clipped(ctx.b, x, low, high)]


def _bound(
    ctx: Context,
    node: Node,
    inputs: Inputs,
    index: int,
    name: str,
    default: float,
) -> float:
    array = ctx.optional_array(node, inputs, index)
    return ctx.number(node, name, default) if array is None else float(array.reshape(-1)[0])


def clipped(b: Builder, x: Value, low: float, high: float) -> Value:
    """Return min(max(x, low), high); infinite bounds cost nothing."""
    if np.issubdtype(x.tensor.dtype, np.floating):
        if (low, high) == (0.0, 6.0):
            return unary(b, "RELU6", x)
        if low == 0.0:
            x = unary(b, "RELU", x)
            low = -math.inf
    dtype = x.tensor.dtype
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
    if low > limits.min:
        x = binary(b, "MAXIMUM", x, Constant(np.array([low], dtype), (1,)))
    if high < limits.max:
        x = binary(b, "MINIMUM", x, Constant(np.array([high], dtype), (1,)))
    return x


def leaky_relu(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x where positive, alpha x elsewhere."""
    alpha = ctx.number(node, "alpha", 0.01)
    return [unary(ctx.b, "LEAKY_RELU", ctx.value(node, inputs, 0), alpha=alpha)]


def prelu(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """max(x, 0) + slope * min(x, 0), with a slope per element or channel."""
    x = ctx.value(node, inputs, 0)
    slope = ctx.array(node, inputs, 1)
    if slope.size == 1:
        return [unary(ctx.b, "LEAKY_RELU", x, alpha=float(slope.reshape(-1)[0]))]
    return [binary(ctx.b, "PRELU", x, Constant(slope, slope.shape))]


def elu(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x where positive, alpha (exp(x) - 1) elsewhere."""
    x = ctx.value(node, inputs, 0)
    return [_scaled_elu(ctx.b, x, ctx.number(node, "alpha", 1.0))]


def _scaled_elu(b: Builder, x: Value, alpha: float) -> Value:
    if alpha == 1.0:
        return unary(b, "ELU", x)
    negative = binary(b, "MUL", unary(b, "ELU", clipped(b, x, -math.inf, 0.0)), scalar(alpha))
    return binary(b, "ADD", unary(b, "RELU", x), negative)


def selu(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return gamma times ELU with another alpha; defaults as in the ONNX specification."""
    alpha = ctx.number(node, "alpha", 1.6732632423543772)
    gamma = ctx.number(node, "gamma", 1.0507009873554805)
    y = _scaled_elu(ctx.b, ctx.value(node, inputs, 0), alpha)
    return [binary(ctx.b, "MUL", y, scalar(gamma))]


def celu(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    x = ctx.value(node, inputs, 0)
    alpha = ctx.number(node, "alpha", 1.0)
    if alpha == 1.0:
        return [unary(ctx.b, "ELU", x)]
    low = binary(ctx.b, "MUL", clipped(ctx.b, x, -math.inf, 0.0), scalar(1 / alpha))
    negative = binary(ctx.b, "MUL", unary(ctx.b, "ELU", low), scalar(alpha))
    return [binary(ctx.b, "ADD", unary(ctx.b, "RELU", x), negative)]


def hard_sigmoid(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """min(max(alpha x + beta, 0), 1)."""
    alpha, beta = ctx.number(node, "alpha", 0.2), ctx.number(node, "beta", 0.5)
    return [_hard_sigmoid(ctx.b, ctx.value(node, inputs, 0), alpha, beta)]


def _hard_sigmoid(b: Builder, x: Value, alpha: float, beta: float) -> Value:
    # RELU6 is fused into the addition, unlike a minimum.
    y = binary(b, "MUL", x, scalar(6 * alpha)) if 6 * alpha != 1.0 else x
    y = unary(b, "RELU6", binary(b, "ADD", y, scalar(6 * beta)))
    return binary(b, "MUL", y, scalar(1 / 6))


def hard_swish(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x relu6(x + 3) / 6."""
    return [unary(ctx.b, "HARD_SWISH", ctx.value(node, inputs, 0))]


def gelu(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x times the normal distribution function of x, exact or by tanh."""
    approximate = ctx.text(node, "approximate", "none") == "tanh"
    return [unary(ctx.b, "GELU", ctx.value(node, inputs, 0), approximate=approximate)]


def swish(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x sigmoid(alpha x)."""
    x = ctx.value(node, inputs, 0)
    alpha = ctx.number(node, "alpha", 1.0)
    scaled = x if alpha == 1.0 else binary(ctx.b, "MUL", x, scalar(alpha))
    return [binary(ctx.b, "MUL", x, unary(ctx.b, "LOGISTIC", scaled))]


def softplus(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """log(1 + exp(x)), written so that large x do not overflow."""
    return [_softplus(ctx.b, ctx.value(node, inputs, 0))]


def _softplus(b: Builder, x: Value) -> Value:
    small = unary(b, "EXP", unary(b, "NEG", unary(b, "ABS", x)))
    return binary(
        b, "ADD", unary(b, "RELU", x), unary(b, "LOG", binary(b, "ADD", small, scalar(1)))
    )


def mish(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x tanh(softplus(x)), which is x n / (n + 2) with n = exp(x) (exp(x) + 2).

    A logarithm of 1 + exp(x) would lose the digits of large negative x.
    """
    b, x = ctx.b, ctx.value(node, inputs, 0)
    power = unary(b, "EXP", clipped(b, x, -math.inf, MISH_IS_X))
    n = binary(b, "MUL", power, binary(b, "ADD", power, scalar(2)))
    return [binary(b, "MUL", x, binary(b, "DIV", n, binary(b, "ADD", n, scalar(2))))]


def softsign(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x / (1 + |x|)."""
    x = ctx.value(node, inputs, 0)
    return [binary(ctx.b, "DIV", x, binary(ctx.b, "ADD", unary(ctx.b, "ABS", x), scalar(1)))]


def erf(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """The error function by a rational approximation (see the constants)."""
    b = ctx.b
    x = ctx.value(node, inputs, 0)
    if not np.issubdtype(x.tensor.dtype, np.floating):
        raise BadInput(f"{node}: the error function needs floats", hint=TFLITE_FORM)
    size = unary(b, "ABS", x)
    divisor = binary(b, "ADD", binary(b, "MUL", size, scalar(_ERF_P)), scalar(1))
    t = binary(b, "DIV", scalar(1), divisor)
    series = binary(b, "MUL", t, scalar(_ERF_A[-1]))
    for coefficient in reversed(_ERF_A[:-1]):
        series = binary(b, "MUL", binary(b, "ADD", series, scalar(coefficient)), t)
    decay = unary(b, "EXP", unary(b, "NEG", binary(b, "MUL", x, x)))
    result = binary(b, "SUB", scalar(1), binary(b, "MUL", series, decay))
    return [binary(b, "MUL", unary(b, "SIGN", x), result)]
