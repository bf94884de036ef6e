"""Kronecker and low-rank layers in .tflite files, against their dense matrices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from flatbuffers import flexbuffers
from onnx import helper
from tflite_oracles import DOMAIN, INTERPRETERS, Array, check, graph, kron_matrix, run

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file import read_tflite
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.records import LoweringChoice

pytestmark = pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed")

SHAPES = [
    ((28, 28), (64, 32), 1),
    ((28, 28), (64, 32), 3),
    ((4, 7, 28), (4, 8, 16), 1),
    ((4, 7, 28), (4, 8, 16), 2),
    ((2, 3, 4, 5), (3, 2, 2, 6), 1),
    ((1, 12), (5, 1), 2),
    ((64, 2), (2, 64), 1),
]


def weights(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)


def kron_node(
    name: str, x: str, y: str, i: tuple[int, ...], o: tuple[int, ...], terms: int
) -> helper.NodeProto:
    factors = [f"{name}.factors.{k}" for k in range(len(i))]
    return helper.make_node(
        "KronLinear",
        [x, *factors, f"{name}.bias"],
        [y],
        name=name,
        domain=DOMAIN,
        in_shape=i,
        out_shape=o,
        terms=terms,
    )


def kron_weights(
    rng: np.random.Generator, name: str, i: tuple[int, ...], o: tuple[int, ...], terms: int
) -> dict[str, Array]:
    pairs = zip(o, i, strict=True)
    factors = {f"{name}.factors.{k}": weights(rng, terms, a, b) for k, (a, b) in enumerate(pairs)}
    return factors | {f"{name}.bias": weights(rng, math.prod(o))}


def dense(constants: dict[str, Array], name: str, x: Array) -> Array:
    factors = [v for k, v in constants.items() if k.startswith(f"{name}.factors")]
    return x @ kron_matrix(factors).T + constants[f"{name}.bias"]


@pytest.mark.parametrize(("i", "o", "terms"), SHAPES)
@pytest.mark.parametrize("form", ["fc_t", "fc_bmm", "dense"])
def test_a_kronecker_layer_is_its_dense_matrix(
    tmp_path: Path, i: tuple[int, ...], o: tuple[int, ...], terms: int, form: str
) -> None:
    constants = kron_weights(np.random.default_rng(1), "net.0", i, o, terms)
    model = graph([kron_node("net.0", "x", "y", i, o, terms)], [math.prod(i)], constants)
    choice = LoweringChoice("net.0", "kron", form)
    file = check(
        model,
        [math.prod(i)],
        tmp_path,
        oracle=lambda x: [dense(constants, "net.0", x)],
        choices=(choice,),
    )
    if form == "dense":
        assert file.op_counts() == {"FULLY_CONNECTED": 1}
    elif form == "fc_bmm":
        assert file.op_counts()["TRANSPOSE"] == 0
    elif len(i) == 2:
        assert file.op_counts()["FULLY_CONNECTED"] == 2


def test_no_constant_of_a_kronecker_layer_is_larger_than_its_parts(tmp_path: Path) -> None:
    constants = kron_weights(np.random.default_rng(1), "a", (64, 64), (64, 64), 1)
    model = graph([kron_node("a", "x", "y", (64, 64), (64, 64), 1)], [4096], constants)
    write_tflite(model, tmp_path / "m.tflite")
    parts = sum(v.nbytes for v in constants.values())
    size = (tmp_path / "m.tflite").stat().st_size
    assert size <= parts + 4096


def test_a_zero_bias_costs_no_operator(tmp_path: Path) -> None:
    constants = kron_weights(np.random.default_rng(1), "a", (8, 6), (4, 5), 1)
    constants["a.bias"][:] = 0
    model = graph([kron_node("a", "x", "y", (8, 6), (4, 5), 1)], [48], constants)
    file = check(model, [48], tmp_path, oracle=lambda x: [dense(constants, "a", x)])
    assert file.op_counts()["ADD"] == 0


def test_between_two_kronecker_layers_memory_order_is_handed_on(tmp_path: Path) -> None:
    """The second layer starts with the mode that the first one left last: no transpose between."""
    rng = np.random.default_rng(2)
    constants = kron_weights(rng, "a", (64, 64), (64, 64), 1)
    constants |= kron_weights(rng, "b", (64, 64), (64, 64), 1)
    nodes = [
        kron_node("a", "x", "h", (64, 64), (64, 64), 1),
        helper.make_node("Relu", ["h"], ["r"]),
        kron_node("b", "r", "y", (64, 64), (64, 64), 1),
    ]

    def oracle(x: Array) -> list[Array]:
        return [dense(constants, "b", np.maximum(dense(constants, "a", x), 0))]

    file = check(graph(nodes, [4096], constants), [4096], tmp_path, oracle=oracle)
    assert file.op_counts()["TRANSPOSE"] == 2
    assert file.op_counts()["RELU"] == 0


@pytest.mark.parametrize(
    ("image", "modes"),
    [((1, 28, 28), (28, 28)), ((3, 8, 6), (24, 6)), ((4, 5, 6), (4, 30)), ((2, 3, 4), (2, 3, 4))],
)
@pytest.mark.parametrize("terms", [1, 2])
def test_an_image_enters_channels_last(
    tmp_path: Path, image: tuple[int, ...], modes: tuple[int, ...], terms: int
) -> None:
    out = (3, 4, 2)[: len(modes)]
    constants = kron_weights(np.random.default_rng(3), "a", modes, out, terms)
    constants["shape"] = np.array([-1, math.prod(image)], np.int64)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["f"]),
        kron_node("a", "f", "y", modes, out, terms),
    ]
    check(
        graph(nodes, image, constants),
        image,
        tmp_path,
        oracle=lambda x: [dense(constants, "a", x.reshape(len(x), -1))],
    )


@pytest.mark.parametrize("form", ["fc", "dense"])
def test_a_low_rank_layer_is_its_dense_matrix(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(4)
    constants = {"u": weights(rng, 20, 3), "v": weights(rng, 15, 3), "b": weights(rng, 15)}
    node = helper.make_node("LowRankLinear", ["x", "u", "v", "b"], ["y"], name="low", domain=DOMAIN)
    file = check(
        graph([node], [20], constants),
        [20],
        tmp_path,
        oracle=lambda x: [x @ (constants["v"] @ constants["u"].T).T + constants["b"]],
        choices=(LoweringChoice("low", "lowrank", form),),
    )
    assert file.op_counts() == {"FULLY_CONNECTED": 2 if form == "fc" else 1}
    assert any(t.constant_bytes > 0 for t in file.tensors if t.name.startswith("low/"))


@pytest.mark.parametrize("structure", ["kron", "lowrank", "gemm"])
def test_input_normalisation_becomes_part_of_the_first_layer(
    tmp_path: Path, structure: str
) -> None:
    rng = np.random.default_rng(5)
    constants = {
        "mean": np.array([0.13], np.float32),
        "std": np.array([0.31], np.float32),
        "shape": np.array([-1, 48], np.int64),
    }
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["c"]),
        helper.make_node("Div", ["c", "std"], ["n"]),
        helper.make_node("Reshape", ["n", "shape"], ["f"]),
    ]
    if structure == "kron":
        constants |= kron_weights(rng, "a", (6, 8), (3, 4), 2)
        nodes.append(kron_node("a", "f", "y", (6, 8), (3, 4), 2))
        matrix = kron_matrix([constants["a.factors.0"], constants["a.factors.1"]])
        bias = constants["a.bias"]
    else:
        bias = weights(rng, 12)
        u, v = weights(rng, 48, 3), weights(rng, 12, 3)
        matrix = (v @ u.T).astype(np.float64)
        if structure == "gemm":
            constants |= {"w": matrix.astype(np.float32), "b": bias}
            nodes.append(helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1))
        else:
            constants |= {"u": u, "v": v, "b": bias}
            nodes.append(
                helper.make_node("LowRankLinear", ["f", "u", "v", "b"], ["y"], domain=DOMAIN)
            )

    def oracle(x: Array) -> list[Array]:
        normal = (x.astype(np.float64) - 0.13) / 0.31
        return [normal.reshape(len(x), -1) @ matrix.T + bias]

    file = check(graph(nodes, [1, 6, 8], constants), [1, 6, 8], tmp_path, oracle=oracle)
    assert not {"SUB", "MUL", "DIV"} & set(file.op_counts())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"in_shape": (8, 7)}, "expected constants of"),
        ({"out_shape": (4, 5, 1)}, "the same number of modes"),
        ({"terms": 2}, "expected constants of"),
        ({"in_shape": (48,), "out_shape": (20,)}, "must list 2"),
    ],
)
def test_factors_that_contradict_the_attributes_are_refused(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    constants = kron_weights(np.random.default_rng(1), "a", (8, 6), (4, 5), 1)
    attributes: dict[str, object] = {"in_shape": (8, 6), "out_shape": (4, 5), "terms": 1}
    names = ["x", "a.factors.0", "a.factors.1", "a.bias"]
    node = helper.make_node(
        "KronLinear", names, ["y"], name="a", domain=DOMAIN, **attributes | change
    )
    with pytest.raises(BadInput, match=says) as caught:
        write_tflite(graph([node], [48], constants), tmp_path / "m.tflite")
    assert "'a'" in caught.value.message
    assert not list(tmp_path.iterdir())


def test_an_unknown_form_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    constants = kron_weights(np.random.default_rng(1), "a", (8, 6), (4, 5), 1)
    model = graph([kron_node("a", "x", "y", (8, 6), (4, 5), 1)], [48], constants)
    with pytest.raises(BadInput, match="fc_t"):
        write_tflite(model, tmp_path / "m.tflite", choices=(LoweringChoice("a", "kron", "fc_tt"),))


def test_the_custom_flavour_keeps_layers_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    constants = kron_weights(rng, "a", (6, 8), (3, 4), 2)
    constants |= {"u": weights(rng, 12, 3), "v": weights(rng, 5, 3), "b": weights(rng, 5)}
    nodes = [
        kron_node("a", "x", "h", (6, 8), (3, 4), 2),
        helper.make_node("LowRankLinear", ["h", "u", "v", "b"], ["y"], name="l", domain=DOMAIN),
    ]
    path = tmp_path / "m.tflite"
    write_tflite(graph(nodes, [48], constants), path, flavour="custom")
    file = read_tflite(path)
    assert [(op.kind, op.custom) for op in file.ops] == [
        ("KronLinear", True),
        ("LowRankLinear", True),
    ]
    shapes = [[file.tensors[i].shape for i in op.inputs] for op in file.ops]
    assert shapes == [[(-1, 48), (2, 3, 6), (2, 4, 8), (12,)], [(-1, 12), (12, 3), (5, 3), (5,)]]
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    options = [bytes(op.customOptions) for op in model.subgraphs[0].operators]
    assert flexbuffers.Loads(options[0]) == {"in_shape": [6, 8], "out_shape": [3, 4], "terms": 2}
    assert flexbuffers.Loads(options[1]) == {}
    for runtime in INTERPRETERS:
        with pytest.raises(RuntimeError, match="KronLinear"):
            run(path, np.zeros((1, 48), np.float32), runtime)
