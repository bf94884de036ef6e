"""Whole networks: agreement with ONNX Runtime, and which operators they take."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from op_cases import ints, rand
from tflite_oracles import INTERPRETERS, Array, check, graph

pytestmark = pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed")


class Net:
    """Writes a network node by node, the way an exporter would."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def op(self, op: str, *inputs: str | Array, **attributes: object) -> str:
        names = []
        for item in inputs:
            if isinstance(item, str):
                names.append(item)
            else:
                names.append(f"c{len(self.constants)}")
                self.constants[names[-1]] = item
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], name=f"n{out}", **attributes))
        return out

    def conv(self, x: str, units: int, channels: int, stride: int = 1, kernel: int = 3) -> str:
        weight = rand(units, channels, kernel, kernel) / np.sqrt(channels * kernel**2)
        pads = [kernel // 2] * 4
        y = self.op("Conv", x, weight.astype(np.float32), pads=pads, strides=[stride, stride])
        return self.norm(y, units)

    def norm(self, x: str, units: int) -> str:
        variance = np.abs(rand(units)) + 0.5
        return self.op("BatchNormalization", x, rand(units), rand(units), rand(units), variance)

    def linear(self, x: str, units: int, width: int) -> str:
        weight = (rand(units, width) / np.sqrt(width)).astype(np.float32)
        return self.op("Gemm", x, weight, rand(units), transB=1)

    def check(self, last: str, shape: tuple[int, ...], folder: Path) -> Counter[str]:
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        return check(graph(self.nodes, shape, self.constants), shape, folder).op_counts()


def test_a_vgg_has_no_transpose_and_no_batch_norm(tmp_path: Path) -> None:
    net, x, channels = Net(), "x", 3
    for units in (8, 12, 16):
        x = net.op("Relu", net.conv(x, units, channels))
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        channels = units
    x = net.op("Flatten", x)
    x = net.op("Relu", net.linear(x, 20, 16 * 9))
    counts = net.check(net.linear(x, 10, 20), (3, 24, 24), tmp_path)
    assert counts == {"CONV_2D": 3, "MAX_POOL_2D": 3, "RESHAPE": 1, "FULLY_CONNECTED": 2}


def test_a_residual_network_pads_only_where_strides_need_it(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Relu", net.conv("x", 8, 3))
    for units, channels, stride in ((8, 8, 1), (16, 8, 2)):
        y = net.op("Relu", net.conv(x, units, channels, stride))
        y = net.conv(y, units, units)
        shortcut = x if stride == 1 else net.conv(x, units, channels, stride, kernel=1)
        x = net.op("Relu", net.op("Add", y, shortcut))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    counts = net.check(net.linear(x, 10, 16), (3, 16, 16), tmp_path)
    assert counts == {"CONV_2D": 6, "PAD": 1, "ADD": 2, "MEAN": 1, "FULLY_CONNECTED": 1}


def test_a_dense_network_joins_channels_without_transposes(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Relu", net.conv("x", 6, 3))
    y = net.op("Relu", net.conv(x, 4, 6))
    x = net.op("Concat", x, y, axis=1)
    x = net.op("Relu", net.norm(x, 10))
    y = net.op("Relu", net.conv(x, 4, 10))
    x = net.op("AveragePool", net.op("Concat", x, y, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    counts = net.check(net.linear(net.op("Flatten", x), 5, 14 * 25), (3, 10, 10), tmp_path)
    assert counts["TRANSPOSE"] == 0
    assert counts["CONCATENATION"] == 2


def test_an_encoder_and_decoder_upsample_without_transposes(tmp_path: Path) -> None:
    net = Net()
    a = net.op("Relu", net.conv("x", 6, 3))
    b = net.op("Relu", net.conv(a, 8, 6, 2))
    up = net.op("ConvTranspose", b, rand(8, 6, 2, 2), rand(6), strides=[2, 2])
    up = net.op("Relu", net.norm(up, 6))
    both = net.op("Concat", a, up, axis=1)
    far = net.op(
        "Resize", b, np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32), mode="linear"
    )
    out = net.conv(net.op("Concat", both, far, axis=1), 4, 20)
    counts = net.check(net.op("ReduceMean", out, ints(2, 3), keepdims=0), (3, 12, 12), tmp_path)
    assert counts["TRANSPOSE"] == 0
    assert counts["RELU"] == 0


def test_a_squeeze_and_excitation_block_broadcasts_without_reshapes(tmp_path: Path) -> None:
    net = Net()
    x = net.op("HardSwish", net.conv("x", 8, 3))
    gate = net.op("GlobalAveragePool", x)
    gate = net.op("Relu", net.op("Conv", gate, rand(2, 8, 1, 1), rand(2)))
    gate = net.op("HardSigmoid", net.op("Conv", gate, rand(8, 2, 1, 1), rand(8)))
    x = net.op("Mul", x, gate)
    weight = rand(8, 1, 5, 5)
    x = net.op("Conv", x, weight, pads=[2] * 4, group=8)
    counts = net.check(net.op("ReduceMean", x, ints(2, 3), keepdims=0), (3, 12, 12), tmp_path)
    assert not {"TRANSPOSE", "RESHAPE"} & set(counts)


def attention(net: Net, x: str, tokens: int, width: int, heads: int) -> str:
    """Query, key and value by one product, cut apart behind a permutation."""
    both = net.op("MatMul", x, (rand(width, 3 * width) / np.sqrt(width)).astype(np.float32))
    both = net.op("Add", both, rand(3 * width))
    both = net.op("Reshape", both, ints(-1, tokens, 3, heads, width // heads))
    both = net.op("Transpose", both, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", both, np.int64(i), axis=0) for i in range(3))
    scale = np.array((width // heads) ** -0.25, np.float32)
    keys = net.op("Transpose", net.op("Mul", k, scale), perm=[0, 1, 3, 2])
    scores = net.op("MatMul", net.op("Mul", q, scale), keys)
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    mixed = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = net.op("Reshape", mixed, ints(-1, tokens, width))
    return net.op("MatMul", mixed, (rand(width, width) / np.sqrt(width)).astype(np.float32))


def test_a_vision_transformer(tmp_path: Path) -> None:
    net, width, tokens = Net(), 16, 17
    x = net.op("Conv", "x", rand(width, 3, 4, 4) / 7, rand(width), strides=[4, 4])
    x = net.op("Reshape", x, ints(0, width, 16))
    x = net.op("Transpose", x, perm=[0, 2, 1])
    batch = net.op("Shape", x, start=0, end=1)
    target = net.op("Concat", batch, ints(1, width), axis=0)
    x = net.op("Concat", net.op("Expand", rand(1, 1, width), target), x, axis=1)
    x = net.op("Add", x, rand(1, tokens, width))
    y = net.op("LayerNormalization", x, rand(width), rand(width))
    x = net.op("Add", x, attention(net, y, tokens, width, 4))
    y = net.op("LayerNormalization", x, rand(width), rand(width))
    y = net.op("Add", net.op("MatMul", y, rand(width, 32) / 4), rand(32))
    y = net.op("MatMul", net.op("Gelu", y), rand(32, width) / 6)
    x = net.op("Add", x, y)
    head = net.op("Gather", x, np.int64(0), axis=1)
    counts = net.check(net.linear(head, 5, width), (3, 16, 16), tmp_path)
    # Patches, token and position; then per norm two means; scales and biases are in the layers,
    # query, key and value have a layer each and nothing is cut apart at run time.
    assert counts["FULLY_CONNECTED"] == 7
    assert counts["TRANSPOSE"] == 4
    assert counts["MUL"] == 4
    assert counts["STRIDED_SLICE"] == 1
    assert counts["BATCH_MATMUL"] == 2


def test_a_mixer_moves_tokens_only_between_its_two_products(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Transpose", net.op("Reshape", "x", ints(0, 6, 20)), perm=[0, 2, 1])
    y = net.op("Transpose", x, perm=[0, 2, 1])
    y = net.op("Gelu", net.op("MatMul", y, rand(20, 12) / 4))
    y = net.op("Transpose", net.op("MatMul", y, rand(12, 20) / 4), perm=[0, 2, 1])
    x = net.op("Add", x, y)
    x = net.op("MatMul", x, rand(6, 6) / 2)
    counts = net.check(net.op("ReduceMean", x, ints(1), keepdims=0), (6, 4, 5), tmp_path)
    assert counts["TRANSPOSE"] == 2
