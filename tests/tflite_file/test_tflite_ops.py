"""Every ONNX operator that has a converter, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from op_cases import CASES, IMAGE, Case, ints, rand
from tflite_oracles import INTERPRETERS, Array, check, graph

from sepdeploy.exporters.tflite_file.ops import CONVERTERS

pytestmark = pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed")

# Operators that other tests of this folder cover, because they need two computed inputs, another
# input type, a newer opset than the oracle knows.
ELSEWHERE = {"And", "Or", "Not", "Cast", "Concat", "Dropout", "Einsum", "GatherND", "Swish"}
ELSEWHERE |= {"RMSNormalization", "GatherElements", "ScatterElements", "ScatterND", "OneHot"}
ELSEWHERE |= {"GridSample", "Xor", "QuantizeLinear", "DequantizeLinear"}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}  # of recurrent layers, below


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}-{c.label}")
def test_an_operator_computes_what_onnxruntime_computes(case: Case, tmp_path: Path) -> None:
    node, constants = case.node()
    model = graph([node], case.shape, constants, opset=case.opset, outputs=list(node.output))
    check(model, case.shape, tmp_path, low=case.low, high=case.high)


def test_every_converter_has_a_case() -> None:
    tested = {case.op for case in CASES} | ELSEWHERE | set(GATES)
    assert set(CONVERTERS) == tested


def n(op: str, inputs: str, output: str, **attributes: object) -> helper.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_recurrent_layers(op: str, direction: str, tmp_path: Path) -> None:
    ways, rows = 1 + (direction == "bidirectional"), 5 * GATES[op]
    weights = {"w": rand(ways, rows, 6), "r": rand(ways, rows, 5), "b": rand(ways, 2 * rows)}
    nodes = [
        n("Transpose", "x", "t", perm=[1, 0, 2]),  # the steps come first
        n(op, "t w r b", "s", hidden_size=5, direction=direction),
        n("Transpose", "s", "y", perm=[2, 0, 1, 3]),
    ]
    check(graph(nodes, (4, 6), weights), (4, 6), tmp_path)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_values_of_different_layouts_are_joined(axis: int, tmp_path: Path) -> None:
    size = [1, 4, 12, 10]
    size[axis] = 2
    nodes = [
        n("Transpose", "x", "t", perm=[0, 1, 3, 2]),
        n("Relu", "t", "r"),
        n("Transpose", "r", "u", perm=[0, 1, 3, 2]),
        n("ReduceMean", "x axis", "mean", keepdims=1),
        # A constant has no batch of its own; a value of the batch gives it one.
        n("Mul", "mean zero", "none"),
        n("Add", "none k", "f"),
        n("Concat", "x u f mean", "y", axis=axis),
    ]
    constants = {"k": rand(*size), "axis": ints(axis), "zero": np.zeros(1, np.float32)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)


def test_a_class_token_is_added_to_padding(tmp_path: Path) -> None:
    nodes = [
        n("Shape", "x", "s", start=0, end=1),
        n("Concat", "s tail", "target", axis=0),
        n("Expand", "token target", "t"),
        n("Concat", "t x", "y", axis=1),
    ]
    constants = {"tail": ints(2, 6), "token": rand(1, 2, 6)}
    file = check(graph(nodes, (5, 6), constants), (5, 6), tmp_path)
    assert file.op_counts() == {"PAD": 1, "ADD": 1}


def test_shape_arithmetic_leaves_nothing_behind(tmp_path: Path) -> None:
    nodes = [
        n("Shape", "x", "s"),
        n("Gather", "s zero", "b", axis=0),
        n("Gather", "s one", "c", axis=0),
        n("Mul", "b c", "bc"),
        n("Unsqueeze", "bc zeros", "bcu"),
        n("Concat", "bcu rest", "target", axis=0),
        n("Reshape", "x target", "y"),
    ]
    constants = {"zero": np.int64(0), "one": np.int64(1), "zeros": ints(0), "rest": ints(120)}
    file = check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)
    assert set(file.op_counts()) == {"TRANSPOSE", "RESHAPE"}


def test_logic_and_casts(tmp_path: Path) -> None:
    nodes = [
        n("Greater", "x low", "a"),
        n("Less", "x high", "b"),
        n("And", "a b", "ab"),
        n("Not", "ab", "not"),
        n("Or", "not a", "or"),
        n("Xor", "or b", "xor"),
        n("Cast", "xor", "i", to=TensorProto.INT64),
        n("Cast", "i", "f", to=TensorProto.FLOAT),
        n("Mul", "f x", "y"),
    ]
    constants = {"low": np.float32(-0.2), "high": np.float32(0.3)}
    check(graph(nodes, (9,), constants), (9,), tmp_path)


def test_embedding_and_integer_inputs(tmp_path: Path) -> None:
    nodes = [n("Gather", "w x", "e"), n("ReduceMean", "e one", "y", keepdims=0)]
    constants = {"w": rand(9, 6), "one": ints(1)}
    model = graph(nodes, (5,), constants, dtype=TensorProto.INT64)
    check(model, (5,), tmp_path, dtype=np.int64, low=0, high=9)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ni,oi->no", [(3, 6)]),
        ("nij,ai,bj->nab", [(3, 5), (4, 6)]),
        ("nij,nkj->nik", [None]),
        ("nij->nji", []),
        ("nij->ni", []),
        ("nij,j->nij", [(6,)]),
        ("nij,kjo->niko", [(2, 6, 3)]),
        ("nij,nij->ni", [None]),
        ("i,nij->nj", [(5,)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...] | None], tmp_path: Path) -> None:
    shape = (6,) if equation.startswith("ni,") else (5, 6)
    names = ["x" if s is None else f"c{i}" for i, s in enumerate(shapes)]
    constants = {f"c{i}": rand(*s) for i, s in enumerate(shapes) if s is not None}
    operands = [*names, "x"] if equation.startswith("i,") else ["x", *names]
    node = helper.make_node("Einsum", operands, ["y"], equation=equation)
    check(graph([node], shape, constants), shape, tmp_path)


def test_gather_nd_with_known_coordinates(tmp_path: Path) -> None:
    nodes = [
        n("Transpose", "x", "t", perm=[2, 3, 0, 1]),
        n("GatherND", "t places", "g"),
        n("Transpose", "g", "y", perm=[1, 2, 0]),
    ]
    constants = {"places": np.array([[0, 1], [11, -1], [3, 4]], np.int64)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_constant_is_repeated_for_every_sample(axis: int, tmp_path: Path) -> None:
    """One row per sample (a query), or several (a tiled mask), as real numbers or integers."""
    nodes = [
        n("Shape", "x", "n", start=0, end=1),
        n("Concat", "n ones", "times", axis=0),
        n("Tile", "mask times", "masks"),
        n("Reshape", "masks rows", "tiled"),
        n("Cast", "tiled", "whole", to=TensorProto.INT64),
        n("Cast", "whole", "back", to=TensorProto.FLOAT),
        n("Concat", "x tiled back", "y", axis=1),
    ]
    mask = np.arange(12, dtype=np.float32).reshape((2, 6) if axis == 0 else (1, 12)) - 5
    rows = np.array([-1, 2, 6] if axis == 0 else [-1, 3, 4])
    shape = (4, 6) if axis == 0 else (2, 4)
    constants = {"ones": np.array([1]), "mask": mask, "rows": rows}
    check(graph(nodes, shape, constants), shape, tmp_path)


def test_a_slice_to_a_far_end_takes_the_whole_batch(tmp_path: Path) -> None:
    constants = {"starts": np.array([0, 1]), "ends": np.array([10**9, 10**9])}
    check(graph([n("Slice", "x starts ends", "y")], (6,), constants), (6,), tmp_path)


def test_newer_activations_and_norms_against_numpy(tmp_path: Path) -> None:
    scale = rand(6)
    nodes = [n("Swish", "x", "s", alpha=0.5), n("RMSNormalization", "s scale", "y", epsilon=1e-3)]
    model = graph(nodes, (5, 6), {"scale": scale}, opset=24)

    def oracle(x: Array) -> list[Array]:
        s = x / (1 + np.exp(-0.5 * x))
        return [s / np.sqrt((s * s).mean(-1, keepdims=True) + 1e-3) * scale]

    check(model, (5, 6), tmp_path, oracle=oracle)


@pytest.mark.parametrize("half_first", ["x", "end", "middle"])
def test_a_spelled_out_gelu_becomes_one_operator(half_first: str, tmp_path: Path) -> None:
    nodes = [
        n("Div", "x root", "d"),
        n("Erf", "d", "e"),
        n("Add", "e one", "p"),
    ]
    if half_first == "x":
        nodes += [n("Mul", "x half", "h"), n("Mul", "h p", "y")]
    elif half_first == "end":
        nodes += [n("Mul", "x p", "q"), n("Mul", "q half", "y")]
    else:
        nodes += [n("Mul", "p half", "q"), n("Mul", "x q", "y")]
    constants = {
        "root": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    file = check(graph(nodes, (7,), constants), (7,), tmp_path, low=-4, high=4)
    assert file.op_counts() == {"GELU": 1}


def test_a_gate_of_another_slope_is_not_taken_for_hard_swish(tmp_path: Path) -> None:
    for slope, operators in ((1 / 6, {"HARD_SWISH"}), (0.2, {"MUL", "ADD"})):
        nodes = [n("HardSigmoid", "x", "g", alpha=slope, beta=0.5), n("Mul", "x g", "y")]
        file = check(graph(nodes, (7,)), (7,), tmp_path, low=-4, high=4)
        assert set(file.op_counts()) == operators


def test_computed_operands_with_different_layouts_and_broadcasts(tmp_path: Path) -> None:
    """Squeeze-and-excite, an outer product, and a transposed operand, all computed."""
    nodes = [
        n("ReduceMean", "x space", "m", keepdims=1),
        n("Mul", "x m", "gated"),
        n("Transpose", "gated", "t", perm=[0, 1, 3, 2]),
        n("Transpose", "x", "u", perm=[0, 1, 3, 2]),
        n("Add", "t u", "sum"),
        n("ReduceMax", "sum last", "rows", keepdims=1),
        n("ReduceMax", "sum height", "columns", keepdims=1),
        n("Mul", "rows columns", "outer"),
        n("Sub", "outer sum", "y"),
    ]
    constants = {"space": ints(2, 3), "last": ints(3), "height": ints(2)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)


def test_gemm_of_two_computed_matrices(tmp_path: Path) -> None:
    nodes = [
        n("Transpose", "x", "t", perm=[1, 0]),
        n("Gemm", "t x c", "y", alpha=0.5, beta=2.0),
    ]
    check(graph(nodes, (6,), {"c": rand(6)}), (6,), tmp_path)


def test_dropout_and_identity_cost_nothing(tmp_path: Path) -> None:
    nodes = [n("Dropout", "x", "d"), n("Identity", "d", "i"), n("Relu", "i", "y")]
    file = check(graph(nodes, (6,)), (6,), tmp_path)
    assert file.op_counts() == {"RELU": 1}


def test_a_model_that_returns_its_input_and_one_value_twice(tmp_path: Path) -> None:
    nodes = [n("Relu", "x", "r"), n("Identity", "r", "a"), n("Identity", "r", "b")]
    nodes.append(n("Identity", "x", "c"))
    check(graph(nodes, (6,), outputs=("a", "b", "c")), (6,), tmp_path)


def test_six_dimensions_are_merged_where_a_kernel_takes_fewer(tmp_path: Path) -> None:
    nodes = [
        n("Reshape", "x six", "r"),
        n("ReduceMean", "r axes", "m", keepdims=1),
        n("Mul", "r m", "p"),
        n("Slice", "r from to at", "s"),
        n("Sub", "p s", "d"),
        n("Slice", "d from to five", "y"),
    ]
    constants = {"six": ints(-1, 2, 2, 3, 4, 10), "axes": ints(2, 4), "from": ints(1)}
    constants |= {"to": ints(2), "at": ints(2), "five": ints(5)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)
