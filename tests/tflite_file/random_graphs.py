"""Random graphs of layout-changing and layout-using operators, with shapes known as they grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from tflite_oracles import graph

Shape = tuple[int, ...]  # without the batch, which is always first


class Grower:
    """Adds random operators, each to values made before."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.values: list[tuple[str, Shape]] = []
        self.input: Shape = tuple(int(d) for d in self.rng.integers(1, 7, self.rng.integers(1, 4)))
        self.values.append(("x", self.input))

    def model(self, steps: int) -> onnx.ModelProto:
        moves: list[Callable[[], bool]] = [
            self.reshape,
            self.transpose,
            self.transpose,
            self.conv,
            self.conv,
            self.linear,
            self.matmul,
            self.add,
            self.scale,
            self.activate,
            self.reduce,
            self.concat,
            self.slice,
            self.split,
            self.softmax,
            self.pad,
            self.norm,
            self.product,
            self.token,
        ]
        while len(self.nodes) < steps:
            moves[self.rng.integers(len(moves))]()
        last = self.values[-1][0]
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        return graph(self.nodes, self.input, self.constants)

    def pick(self, rank: int | None = None) -> tuple[str, Shape] | None:
        known = [v for v in self.values if rank is None or len(v[1]) == rank]
        recent = known[-3:]
        return recent[self.rng.integers(len(recent))] if recent else None

    def emit(self, op: str, inputs: list[str], shape: Shape, **attributes: Any) -> bool:
        if math.prod(shape) > 4000:
            return False
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n_{name}", **attributes))
        self.values.append((name, shape))
        return True

    def constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def weights(self, *shape: int) -> str:
        scale = math.sqrt(max(math.prod(shape[1:]), 1))
        return self.constant((self.rng.standard_normal(shape) / scale).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def any(self) -> tuple[str, Shape]:
        found = self.pick()
        assert found is not None
        return found

    def reshape(self) -> bool:
        name, shape = self.any()
        rest, dims = math.prod(shape), []
        while rest > 1 and len(dims) < 3:
            divisors = [d for d in range(1, rest + 1) if rest % d == 0]
            dims.append(divisors[self.rng.integers(len(divisors))])
            rest //= dims[-1]
        dims.append(rest)
        return self.emit("Reshape", [name, self.ints(-1, *dims)], tuple(dims))

    def transpose(self) -> bool:
        name, shape = self.any()
        order = [int(i) for i in self.rng.permutation(len(shape))]
        perm = [0, *(i + 1 for i in order)]
        return self.emit("Transpose", [name], tuple(shape[i] for i in order), perm=perm)

    def conv(self) -> bool:
        found = self.pick(3)
        if found is None:
            return False
        name, (channels, height, width) = found
        units = int(self.rng.integers(1, 6))
        weight, bias = self.weights(units, channels, 3, 3), self.weights(units)
        stride = int(self.rng.integers(1, 3))
        size = tuple((d - 1) // stride + 1 for d in (height, width))
        inputs = [name, weight, bias]
        return self.emit("Conv", inputs, (units, *size), pads=[1] * 4, strides=[stride] * 2)

    def linear(self) -> bool:
        found = self.pick(1)
        if found is None:
            name, shape = self.any()
            return self.emit("Flatten", [name], (math.prod(shape),))
        units = int(self.rng.integers(1, 20))
        inputs = [found[0], self.weights(units, found[1][0]), self.weights(units)]
        return self.emit("Gemm", inputs, (units,), transB=1)

    def matmul(self) -> bool:
        name, shape = self.any()
        units = int(self.rng.integers(1, 9))
        return self.emit("MatMul", [name, self.weights(shape[-1], units)], (*shape[:-1], units))

    def product(self) -> bool:
        name, shape = self.any()
        if len(shape) < 2:
            return False
        perm = [*range(len(shape) - 1), len(shape), len(shape) - 1]
        other = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node("Transpose", [name], [other], perm=perm))
        return self.emit("MatMul", [name, other], (*shape[:-1], shape[-2]))

    def add(self) -> bool:
        name, shape = self.any()
        others = [n for n, s in self.values if s == shape]
        other = others[self.rng.integers(len(others))]
        op = ("Add", "Mul", "Sub", "Max")[self.rng.integers(4)]
        return self.emit(op, [name, other], shape)

    def scale(self) -> bool:
        name, shape = self.any()
        dims = [d if self.rng.random() < 0.5 else 1 for d in shape]
        op = ("Add", "Mul", "Sub", "Div")[self.rng.integers(4)]
        array = self.rng.uniform(0.5, 1.5, dims).astype(np.float32)
        return self.emit(op, [name, self.constant(array)], shape)

    def activate(self) -> bool:
        name, shape = self.any()
        op = ("Relu", "Tanh", "Sigmoid", "HardSwish")[self.rng.integers(4)]
        return self.emit(op, [name], shape)

    def reduce(self) -> bool:
        name, shape = self.any()
        axis = int(self.rng.integers(len(shape)))
        keep = int(self.rng.integers(2)) if len(shape) > 1 else 1
        new = [1 if i == axis else d for i, d in enumerate(shape) if keep or i != axis]
        op = ("ReduceMean", "ReduceMax", "ReduceSum")[self.rng.integers(3)]
        return self.emit(op, [name, self.ints(axis + 1)], tuple(new), keepdims=keep)

    def concat(self) -> bool:
        name, shape = self.any()
        axis = int(self.rng.integers(len(shape)))
        fits = [
            (n, s)
            for n, s in self.values
            if len(s) == len(shape)
            and all(a == b or i == axis for i, (a, b) in enumerate(zip(s, shape, strict=True)))
        ]
        other, other_shape = fits[self.rng.integers(len(fits))]
        new = [d + other_shape[i] if i == axis else d for i, d in enumerate(shape)]
        return self.emit("Concat", [name, other], tuple(new), axis=axis + 1)

    def slice(self) -> bool:
        name, shape = self.any()
        axis = int(self.rng.integers(len(shape)))
        start = int(self.rng.integers(shape[axis]))
        stop = int(self.rng.integers(start, shape[axis])) + 1
        step = int(self.rng.integers(1, 3))
        new = [len(range(start, stop, step)) if i == axis else d for i, d in enumerate(shape)]
        operands = [self.ints(v) for v in (start, stop, axis + 1, step)]
        return self.emit("Slice", [name, *operands], tuple(new))

    def split(self) -> bool:
        name, shape = self.any()
        axis = int(self.rng.integers(len(shape)))
        if shape[axis] < 2:
            return False
        first = int(self.rng.integers(1, shape[axis]))
        parts = (first, shape[axis] - first)
        outputs = [f"s{len(self.nodes)}_{i}" for i in range(2)]
        self.nodes.append(
            helper.make_node("Split", [name, self.ints(*parts)], outputs, axis=axis + 1)
        )
        for output, part in zip(outputs, parts, strict=True):
            self.values.append(
                (output, tuple(part if i == axis else d for i, d in enumerate(shape)))
            )
        return True

    def softmax(self) -> bool:
        name, shape = self.any()
        axis = int(self.rng.integers(len(shape)))
        return self.emit("Softmax", [name], shape, axis=axis + 1)

    def pad(self) -> bool:
        name, shape = self.any()
        amounts = [int(v) for v in self.rng.integers(0, 2, 2 * len(shape))]
        half = len(shape)
        new = tuple(d + amounts[i] + amounts[half + i] for i, d in enumerate(shape))
        pads = self.ints(0, *amounts[:half], 0, *amounts[half:])
        return self.emit("Pad", [name, pads], new)

    def norm(self) -> bool:
        name, shape = self.any()
        inputs = [name, self.weights(shape[-1]), self.weights(shape[-1])]
        return self.emit("LayerNormalization", inputs, shape, epsilon=0.1)

    def token(self) -> bool:
        """A constant repeated for every sample, joined or added to a value."""
        name, shape = self.any()
        step = len(self.nodes)
        batch, target, wide = (f"{part}{step}" for part in ("b", "d", "w"))
        dims = [d if self.rng.random() < 0.7 else 1 for d in shape]
        self.nodes += [
            helper.make_node("Shape", ["x"], [batch], start=0, end=1),
            helper.make_node("Concat", [batch, self.ints(*shape)], [target], axis=0),
            helper.make_node("Expand", [self.weights(1, *dims), target], [wide]),
        ]
        if self.rng.random() < 0.3:
            return self.emit("Add", [wide, name], shape)
        axis = int(self.rng.integers(len(shape)))
        new = tuple(2 * d if i == axis else d for i, d in enumerate(shape))
        pair = [wide, name] if self.rng.random() < 0.5 else [name, wide]
        return self.emit("Concat", pair, new, axis=axis + 1)
