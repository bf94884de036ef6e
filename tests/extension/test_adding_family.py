"""A structure family is three files and a row in three tables: here all of it stands in a test.

The toy is a diagonal layer y = d ⊙ x: a spec, a layer, and what the exporters need to know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import Family, Form, Shape, never
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.values.context import Context
from sepdeploy.exporters.tflite_file.values.elementwise import add_constant, binary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value
from sepdeploy.layers import LAYERS
from sepdeploy.layers.base import StructuredLinear
from sepdeploy.structures import STRUCTURES
from sepdeploy.structures.base import Linear, Projection, Spectrum, check_factors, check_weight
from sepdeploy.structures.spectra import full_rank_spectrum


@dataclass(frozen=True)
class DiagonalSpec(Linear):
    """W = diag(d)."""

    features: int
    structure: ClassVar[str] = "diagonal"
    grammar: ClassVar[tuple[str, ...]] = ("diagonal",)

    @classmethod
    def parse(cls, options: str, in_shape: Sequence[int], out_features: int) -> Self:
        if options or math.prod(in_shape) != out_features:
            raise BadInput("a diagonal keeps its features and has no options", hint="diagonal")
        return cls(out_features)

    @property
    def text(self) -> str:
        return self.structure

    @property
    def in_features(self) -> int:
        return self.features

    @property
    def out_features(self) -> int:
        return self.features

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.features,),)

    @property
    def weight_params(self) -> int:
        return self.features

    @property
    def macs(self) -> int:
        return self.features

    def to_json(self) -> dict[str, Any]:
        return {"structure": self.structure, "features": self.features}

    def dense_matrix(self, factors: Sequence[Array]) -> Array:
        return np.diag(*check_factors(self, factors))

    def apply(self, x: Array, factors: Sequence[Array]) -> Array:
        return x * factors[0]

    def project(self, weight: Array) -> Projection:
        matrix = check_weight(self, weight)
        rest = matrix - np.diag(np.diag(matrix))
        return Projection((np.diag(matrix),), np.linalg.norm(rest) / np.linalg.norm(matrix))

    def spectrum(self, factors: Sequence[Array]) -> Spectrum:
        return full_rank_spectrum(np.sort(np.abs(factors[0]))[::-1])


class DiagonalLinear(StructuredLinear):
    spec: DiagonalSpec

    def __init__(self, spec: DiagonalSpec, bias: bool = True) -> None:
        super().__init__()
        self.spec = spec
        self.d = nn.Parameter(torch.empty(spec.features))
        self.bias = nn.Parameter(torch.empty(spec.features)) if bias else None
        self.reset_parameters()

    @classmethod
    def from_spec(cls, spec: DiagonalSpec, bias: bool = True) -> Self:
        return cls(spec, bias)

    def reset_parameters(self, gain: float = 1.0) -> None:
        nn.init.constant_(self.d, gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def factors(self) -> tuple[Tensor, ...]:
        return (self.d,)

    def take_factors(self, factors: tuple[Tensor, ...]) -> None:
        self.d.copy_(factors[0])

    def compute(self, rows: Tensor) -> Tensor:
        y = rows * self.d
        return y if self.bias is None else y + self.bias

    def regularized(self) -> list[Tensor]:
        return [torch.diag(self.d)]

    def prunable(self) -> dict[str, Tensor]:
        return {"d": self.d}


def read(attributes: Mapping[str, Any], shapes: Sequence[Shape]) -> DiagonalSpec:
    return DiagonalSpec(shapes[0][0])


def onnx_mul(e: Emitter, spec: Any, x: str, factors: Sequence[Weight], bias: Weight) -> str:
    return e.node("Add", e.node("Mul", x, e.use(factors[0])), e.use(bias))


def tflite_mul(ctx: Context, spec: Any, x: Value, factors: Sequence[Array], bias: Array) -> Value:
    y = binary(ctx.b, "MUL", x, Constant(factors[0], factors[0].shape))
    return add_constant(ctx.b, y, bias, "bias")


def size(spec: DiagonalSpec) -> int:
    return spec.weight_params


DIAGONAL = Family(
    structure="diagonal",
    op_type="DiagonalLinear",
    doc="y = d ⊙ x + b.",
    read=read,
    onnx=(Form("mul", never, size, size, onnx_mul, "one product by element"),),
    tflite=(Form("mul", never, size, size, tflite_mul, "one product by element"),),
    roles=lambda spec: ("d",),
)


@pytest.fixture
def diagonal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(STRUCTURES, "diagonal", DiagonalSpec)
    monkeypatch.setitem(LAYERS, "diagonal", DiagonalLinear)
    monkeypatch.setitem(FAMILIES, "diagonal", DIAGONAL)
    monkeypatch.chdir(tmp_path)  # where no project has rules for its check
    return tmp_path


@pytest.mark.slow
def test_a_new_family_goes_the_whole_way(diagonal: Path, call) -> None:
    model = diagonal / "d.pt"
    net = ["--arch", "mlp", "--hidden", "64,64", "--structure", "dense,diagonal"]
    train = ["--data", "digits", *net, "--objective", "natural", "--epochs", "8"]
    got = call("train", *train, "--condition", "0.001", "-o", model)
    assert got.code == 0, got.err
    got = call("export", model)
    assert got.code == 0, got.err
    graph = onnx.load(diagonal / "d.onnx").graph
    assert [n.op_type for n in graph.node if n.name.startswith("fc2/mul/")] == ["Mul", "Add"]
    for name in ("d.pt", "d.onnx", "d.tflite"):
        got = call("inspect", diagonal / name, "--json")
        layers = {x["name"]: x for x in json.loads(got.out)["layers"]}
        assert layers["fc2"]["structure"] == "diagonal", name
        assert (layers["fc2"]["params"], layers["fc2"]["macs"]) == (128, 64)
        assert layers["fc2"]["params_dense"] == 64 * 64 + 64
    bench = ["bench", diagonal / "d.onnx", diagonal / "d.tflite", "--json", diagonal / "b.json"]
    got = call(*bench)
    assert got.code == 0, got.err
    report = json.loads((diagonal / "b.json").read_text())
    for result in report["results"]:
        clean = next(m for m in result["measurements"] if m["metric"] == "clean_accuracy")
        assert clean["value"] > 0.8
        timeless = [m for m in result["measurements"] if m["kind"] != "HOST"]
        result["measurements"] = timeless  # the machine may be too busy for its clock
    (diagonal / "b.json").write_text(json.dumps(report))
    update = ["baseline", "update", diagonal / "b.json", "--baseline", diagonal / "base.json"]
    assert call(*update).code == 0
    got = call("check", diagonal / "b.json", "--baseline", diagonal / "base.json")
    assert got.code == 0, got.out + got.err


@pytest.mark.slow
def test_its_custom_file_keeps_the_op_with_a_body(diagonal: Path, call) -> None:
    net = ["--arch", "mlp", "--hidden", "64,64", "--structure", "dense,diagonal"]
    train = ["--data", "digits", *net, "--objective", "natural", "--epochs", "1"]
    assert call("train", *train, "-o", diagonal / "d.pt").code == 0
    got = call("export", diagonal / "d.pt", "-f", "onnx", "--flavour", "custom", "--no-eval")
    assert got.code == 0, got.err  # the export proves that the file computes what the model does
    model = onnx.load(diagonal / "d.onnx")
    assert [n.name for n in model.graph.node if n.domain == DOMAIN] == ["fc2"]
    assert [f.name for f in model.functions if f.domain == DOMAIN] == ["DiagonalLinear"]


def test_an_unknown_family_is_told_the_known_ones(diagonal: Path, call) -> None:
    got = call("train", "--data", "digits", "--structure", "diagnal", "-o", diagonal / "m.pt")
    assert got.code == 2
    assert "diagonal" in got.err
