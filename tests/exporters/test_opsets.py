"""Opsets 7 to 24 mean the same in ours, and an If of a known condition is the branch it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_graphs import canonical_of, foreign, onnx_run, stored
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def network(opset: int) -> Any:
    """A small classifier of operators whose inputs and attributes have changed places."""
    weights = {
        "w": floats(4, 3, 3, 3), "s": floats(4) ** 2, "b": floats(4), "m": floats(4),
        "va": floats(4) ** 2 + 1, "fw": floats(5, 4), "fb": floats(5),
    }  # fmt: skip
    made: list[Any] = []

    def add(op: str, x: str, y: str, *more: str, **attributes: Any) -> None:
        made.append(helper.make_node(op, [x, *more], [y], **attributes))

    def number(name: str, value: Any, kind: type = np.int64) -> str:
        weights[name] = np.array(value, kind)
        return name

    sizes = [1.0, 1.0, 2.0, 2.0]
    add("Conv", "image", "c", "w", pads=[1, 1, 1, 1])
    add("BatchNormalization", "c", "bn", "s", "b", "m", "va")
    add("MaxPool", "bn", "p", kernel_shape=[2, 2], strides=[2, 2])
    if opset < 9:
        add("Upsample", "p", "u", scales=sizes)
    elif opset < 11:
        add("Upsample" if opset < 10 else "Resize", "p", "u", number("sc", sizes, np.float32))
    else:
        roi = number("roi", [], np.float32) if opset < 13 else ""
        add("Resize", "p", "u", roi, number("sc", sizes, np.float32))
    if opset < 10:
        add("Slice", "u", "sl", axes=[2], starts=[0], ends=[4])
    else:
        add("Slice", "u", "sl", number("st", [0]), number("en", [4]), number("ax", [2]))
    if opset < 18:
        add("ReduceMean", "sl", "rm", axes=[2, 3])
    else:
        add("ReduceMean", "sl", "rm", number("ra", [2, 3]))
    add("Flatten", "rm", "f")
    if opset < 11:
        add("Clip", "f", "cl", min=-1.0, max=1.0)
    else:
        add("Clip", "f", "cl", number("lo", -1, np.float32), number("hi", 1, np.float32))
    add("Dropout", "cl", "d", **({"ratio": 0.5} if opset < 12 else {}))
    add("Gemm", "d", "g", "fw", "fb", transB=1)
    add("Softmax", "g", "y", axis=1)
    model = foreign(made, weights, opset=opset)
    model.ir_version = 3 if opset < 9 else 8 if opset < 20 else 10
    if opset < 9:  # every weight is an input too
        for item in model.graph.initializer:
            info = helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
            model.graph.input.append(info)
    return model


def agrees(path: Path) -> onnx.ModelProto:
    canonical = canonical_of(path)
    x = RNG.random((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(onnx_run(canonical, x), onnx_run(path, x), rtol=1e-5, atol=1e-6)
    return canonical


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 16, 19, 21, 24])
def test_a_network_of_any_opset_keeps_its_meaning(tmp_path: Path, opset: int) -> None:
    canonical = agrees(stored(tmp_path, network(opset)))
    assert {o.version for o in canonical.opset_import if o.domain == ""} == {20}


def test_a_branch_whose_condition_is_known_is_opened(tmp_path: Path) -> None:
    def branch(op: str) -> Any:  # names that its sibling has too
        nodes = [
            helper.make_node(op, ["image"], ["inner"]),
            helper.make_node("Mul", ["inner", "two"], ["out"]),
        ]
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, op, [], [out], [numpy_helper.from_array(TWO, "two")])

    branches = {"then_branch": branch("Relu"), "else_branch": branch("Neg")}
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["channels"]),
        helper.make_node("Equal", ["channels", "three"], ["yes"]),
        helper.make_node("If", ["yes"], ["a"], **branches),
        helper.make_node("If", ["no"], ["b"], **branches),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    known = {"one": np.array(1), "three": np.array(3), "no": np.array(False)}
    canonical = agrees(stored(tmp_path, foreign(nodes, known)))
    assert "If" not in {n.op_type for n in canonical.graph.node}


TWO = np.float32(2)
