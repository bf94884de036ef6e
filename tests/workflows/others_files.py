"""Files as others write them, made with onnx.helper alone: each shows one thing that ours lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL, UINT8 = (getattr(TensorProto, n) for n in ("FLOAT", "INT64", "BOOL", "UINT8"))
_RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def save(path: Path, nodes, inputs, outputs, weights, opset: int = 17, ir: int = 8) -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, i, o, **attributes) for op, i, o, attributes in nodes],
        "g",
        [helper.make_tensor_value_info(*info) for info in inputs],
        [helper.make_tensor_value_info(*info) for info in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    ids = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=ids, ir_version=ir, producer_name="elsewhere")
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def two_in_two_out(path: Path) -> Path:
    """y = a·w + b, s = Σ y, a rank-0 output without a batch."""
    nodes = [
        ("MatMul", ["a", "w"], ["p"], {}),
        ("Add", ["p", "b"], ["y"], {}),
        ("ReduceSum", ["y"], ["s"], {"keepdims": 0}),
    ]
    inputs = [("a", FLOAT, ["N", 6]), ("b", FLOAT, ["N", 4])]
    outputs = [("y", FLOAT, ["N", 4]), ("s", FLOAT, [])]
    return save(path, nodes, inputs, outputs, {"w": numbers(6, 4)})


def open_sizes(path: Path) -> Path:
    """A convolution over images of any size, pooled to five logits."""
    nodes = [
        ("Conv", ["images", "w"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("GlobalAveragePool", ["c"], ["g"], {}),
        ("Flatten", ["g"], ["logits"], {}),
    ]
    inputs = [("images", FLOAT, ["batch", 3, "h", "w"])]
    return save(path, nodes, inputs, [("logits", FLOAT, ["batch", 5])], {"w": numbers(5, 3, 3, 3)})


def tokens(path: Path) -> Path:
    """Indices and a mask of booleans, two open sizes."""
    nodes = [
        ("Gather", ["table", "ids"], ["x"], {}),
        ("Cast", ["mask"], ["m"], {"to": FLOAT}),
        ("Unsqueeze", ["m", "last"], ["mu"], {}),
        ("Mul", ["x", "mu"], ["xm"], {}),
        ("MatMul", ["xm", "w"], ["y"], {}),
    ]
    inputs = [("ids", INT64, ["b", "seq"]), ("mask", BOOL, ["b", "seq"])]
    weights = {"table": numbers(10, 4), "w": numbers(4, 3), "last": np.array([2])}
    return save(path, nodes, inputs, [("y", FLOAT, ["b", "seq", 3])], weights)


def bytes_in(path: Path) -> Path:
    """An image of bytes, N,H,W,C, batch 1 alone."""
    nodes = [
        ("Cast", ["image"], ["f"], {"to": FLOAT}),
        ("Transpose", ["f"], ["t"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", "w"], ["y"], {}),
    ]
    outputs = [("y", FLOAT, [1, 4, 6, 6])]
    return save(path, nodes, [("image", UINT8, [1, 8, 8, 3])], outputs, {"w": numbers(4, 3, 3, 3)})


def quantised(path: Path) -> Path:
    """Weights of int8 with a scale per channel, batch 2 alone."""
    nodes = [
        ("DequantizeLinear", ["wq", "ws", "wz"], ["w"], {"axis": 0}),
        ("Conv", ["x", "w"], ["y"], {}),
    ]
    weights = {
        "wq": _RNG.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
    }
    return save(path, nodes, [("x", FLOAT, [2, 3, 8, 8])], [("y", FLOAT, [2, 4, 6, 6])], weights)


def recurrent(path: Path) -> Path:
    """An LSTM over seven steps of one sequence, three outputs."""
    weights = {"W": numbers(1, 20, 3), "R": numbers(1, 20, 5), "B": numbers(1, 40)}
    nodes = [("LSTM", ["x", "W", "R", "B"], ["y", "h", "c"], {"hidden_size": 5})]
    outputs = [(n, FLOAT, [1, 1, 5]) for n in ("h", "c")]
    return save(
        path, nodes, [("x", FLOAT, [7, 1, 3])], [("y", FLOAT, [7, 1, 1, 5]), *outputs], weights
    )


def weights_as_inputs(path: Path) -> Path:
    """Opset 9 and IR 3, in which every weight is an input too."""
    nodes = [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w", "b"], ["y"], {})]
    inputs = [("x", FLOAT, ["N", 1, 4, 4]), ("w", FLOAT, [16, 3]), ("b", FLOAT, [3])]
    weights = {"w": numbers(16, 3), "b": numbers(3)}
    return save(path, nodes, inputs, [("y", FLOAT, ["N", 3])], weights, opset=9, ir=3)


def single_number(path: Path) -> Path:
    """Rank 0 in, rank 0 out."""
    nodes = [("Add", ["t", "one"], ["u"], {})]
    return save(path, nodes, [("t", FLOAT, [])], [("u", FLOAT, [])], {"one": np.float32(1)})


def three_heads(path: Path) -> Path:
    """Labels as integers first, then probabilities and a map of the image."""
    nodes = [
        ("Conv", ["x", "w"], ["map"], {"pads": [1, 1, 1, 1]}),
        ("GlobalAveragePool", ["map"], ["g"], {}),
        ("Flatten", ["g"], ["f"], {}),
        ("MatMul", ["f", "fc"], ["scores"], {}),
        ("Softmax", ["scores"], ["probs"], {}),
        ("ArgMax", ["probs"], ["label"], {"axis": 1, "keepdims": 0}),
    ]
    outputs = [
        ("label", INT64, ["N"]),
        ("probs", FLOAT, ["N", 5]),
        ("map", FLOAT, ["N", 6, 8, 8]),
    ]
    weights = {"w": numbers(6, 3, 3, 3), "fc": numbers(6, 5)}
    return save(path, nodes, [("x", FLOAT, ["N", 3, 8, 8])], outputs, weights)
