"""A family of convolutions is a spec, a layer and a row in two tables: here all of it is a toy.

The toy splits a kernel into a column and a row: W[o,c,h,w] = Σ_r B[o,r,w] A[r,c,h].
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

import sepdeploy as sd
from sepdeploy.layers import CONVOLUTION_LAYERS
from sepdeploy.layers.base import StructuredConv2d
from sepdeploy.models import create
from sepdeploy.records import InputSpec
from sepdeploy.structures import CONVOLUTIONS
from sepdeploy.structures.base import Convolution


@dataclass(frozen=True)
class CrossSpec(Convolution):
    """A column of R kernels h×1, then a row of 1×w."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    rank: int
    structure: ClassVar[str] = "cross"
    grammar: ClassVar[tuple[str, ...]] = ("cross:4",)

    @classmethod
    def parse(cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> Self:
        return cls(in_channels, out_channels, kernel, int(text.partition(":")[2]))

    @classmethod
    def from_factors(cls, shapes: Sequence[tuple[int, ...]]) -> Self:
        (rank, into, high, _), (out, _, _, wide) = shapes
        return cls(into, out, (high, wide), rank)

    @property
    def text(self) -> str:
        return f"cross:{self.rank}"

    @property
    def weights(self) -> int:
        high, wide = self.kernel
        return self.rank * (self.in_channels * high + self.out_channels * wide)

    def params(self, bias: bool) -> int:
        return self.weights + (self.out_channels if bias else 0)

    def macs_at(self, inputs: int, outputs: int) -> int:
        return outputs * self.weights


def split(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The column (c·h, k), the squares of the k singular values, and the row (k, o·w)."""
    matrix = W.detach().double().permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    U, s, Vt = torch.linalg.svd(matrix, full_matrices=False)
    return U * s, s.square(), Vt


class CrossConv2d(StructuredConv2d):
    def __init__(self, conv: nn.Conv2d, rank: int) -> None:
        super().__init__()
        (high, wide), (down, right) = conv.kernel_size, conv.padding
        self.column = nn.Conv2d(conv.in_channels, rank, (high, 1), padding=(down, 0), bias=False)
        self.row = nn.Conv2d(
            rank, conv.out_channels, (1, wide), padding=(0, right), bias=conv.bias is not None
        )

    @property
    def spec(self) -> CrossSpec:
        return CrossSpec.from_factors([tuple(m.weight.shape) for m in self.parts()])

    def dense_weight(self) -> torch.Tensor:
        return torch.einsum("rchx,orxw->ochw", self.column.weight, self.row.weight)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, spec: CrossSpec) -> Self:
        return cls(conv, spec.rank)

    @classmethod
    def project(cls, conv: nn.Conv2d, spec: CrossSpec) -> Self:
        layer = cls(conv, spec.rank)
        column, squares, row = split(conv.weight)
        r, (high, wide) = spec.rank, spec.kernel
        with torch.no_grad():
            layer.column.weight.copy_(column[:, :r].t().reshape(r, -1, high, 1))
            by_output = row[:r].reshape(r, conv.out_channels, 1, wide)
            layer.row.weight.copy_(by_output.transpose(0, 1))
            layer.row.bias.copy_(conv.bias)
        layer.projection_error = float((squares[r:].sum() / squares.sum()).sqrt())
        return layer

    @classmethod
    def forms(cls, conv: nn.Conv2d) -> Iterator[tuple[CrossSpec, float]]:
        _, squares, _ = split(conv.weight)
        for rank in range(len(squares), 0, -1):
            spec = CrossSpec(conv.in_channels, conv.out_channels, conv.kernel_size, rank)
            yield spec, float(squares[rank:].sum() / squares.sum())

    def parts(self) -> dict[nn.Module, int]:
        return {self.column: 0, self.row: self.dense_weights}

    @property
    def dense_weights(self) -> int:
        high, wide = self.column.kernel_size[0], self.row.kernel_size[1]
        return self.column.in_channels * self.row.out_channels * high * wide

    def regularized(self) -> list[Tensor]:
        return [self.row.weight.flatten(1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.row(self.column(x))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(CONVOLUTIONS, "cross", CrossSpec)
    monkeypatch.setitem(CONVOLUTION_LAYERS, "cross", CrossConv2d)
    torch.manual_seed(0)
    sd.save(create("lenet", InputSpec((1, 8, 8)), 10).eval(), tmp_path / "dense.pt")
    return tmp_path


@pytest.mark.slow
def test_a_new_family_of_convolutions_goes_the_whole_way(folder: Path, call) -> None:
    small = folder / "small.pt"
    got = call("compress", folder / "dense.pt", "--structure", "conv2=cross:5", "-o", small)
    assert got.code == 0, got.err
    assert call("export", small, "--no-eval").code == 0
    for name in ("small.pt", "small.onnx", "small.tflite"):
        got = call("inspect", folder / name, "--json")
        assert got.code == 0, got.err
        layer = next(x for x in json.loads(got.out)["layers"] if x["name"] == "conv2")
        assert (layer["structure"], layer["spec"]["rank"]) == ("cross", 5), name
        assert layer["params"] == 5 * (8 * 3 + 16 * 3) + 16
        assert layer["params_dense"] == 16 * 8 * 9 + 16
        assert layer["macs"] == 16 * 5 * (8 * 3 + 16 * 3)  # at 4×4 places
    x = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    logits = ort.InferenceSession(folder / "small.onnx").run(None, {"input": x})[0]
    with torch.no_grad():
        expected = sd.load(small).net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert call("bench", folder / "small.onnx", "-q").code == 0


def test_a_budget_chooses_its_rank(folder: Path, call) -> None:
    target = sd.load(folder / "dense.pt").params - 300
    words = ["--structure", "cross", "--target", target, "-o", folder / "s.pt", "--json"]
    got = call("compress", folder / "dense.pt", *words)
    assert got.code == 0, got.err
    found = json.loads(got.out)
    assert found["params"] <= target
    ranks = {x["name"]: x["structure"] for x in found["layers"] if x["structure"] != "dense"}
    assert ranks
    assert all(text.startswith("cross:") for text in ranks.values())


def test_an_unknown_family_is_told_the_known_ones(folder: Path, call) -> None:
    got = call("compress", folder / "dense.pt", "--structure", "conv2=crass:5", "--dry-run")
    assert got.code == 2
    assert "cross:4" in got.err
