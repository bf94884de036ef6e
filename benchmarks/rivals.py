"""The same networks through other exporters, to be measured beside ours."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sepdeploy as sd
from sepdeploy.layers import KronLinear
from sepdeploy.models import Model, create
from sepdeploy.records import InputSpec

IMAGE = InputSpec((3, 32, 32))
NETWORKS: dict[str, tuple[str, InputSpec, str | None, dict[str, Any]]] = {
    "mlp": ("mlp", InputSpec((1, 28, 28)), None, {}),
    "lenet": ("lenet", InputSpec((1, 28, 28)), None, {}),
    "vgg16_bn": ("vgg16_bn", IMAGE, None, {}),
    "vit_tiny": ("vit_tiny", IMAGE, None, {}),
    "Kronecker mlp": ("mlp", InputSpec((64, 64)), "kron", {"hidden": (4096, 4096)}),
}


class EinsumKron(nn.Module):
    """A Kronecker layer as one would write it without thinking of the exporter."""

    def __init__(self, layer: KronLinear) -> None:
        super().__init__()
        self.in_shape = layer.spec.in_shape
        self.factors = nn.ParameterList(layer.factors())
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, n_in) or (N, *in_shape) to (N, n_out)."""
        x = x.reshape(-1, *self.in_shape)
        a, b = (f[0] for f in self.factors)
        y = torch.einsum("nij,oi,pj->nop", x, a, b).flatten(1)
        return y if self.bias is None else y + self.bias


def network_pair(name: str) -> tuple[Model, nn.Module]:
    """Return a network and the same one for a plain exporter (Kronecker layers by einsum)."""
    arch, spec, structure, options = NETWORKS[name]
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(_as_if_trained(create(arch, spec, 10, structure=structure, **options)))
    model, rival = made
    for path, layer in list(rival.named_modules()):
        if isinstance(layer, KronLinear):
            parent, _, attribute = path.rpartition(".")
            setattr(rival.get_submodule(parent), attribute, EinsumKron(layer))
    sample = torch.rand(2, *spec.shape)
    with torch.no_grad():
        torch.testing.assert_close(model(sample), rival(sample), rtol=1e-3, atol=1e-4)
    return model, rival


def _as_if_trained(model: Model) -> Model:
    """Move biases and norms off their first values: a writer may drop zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def ours(model: Model, stem: Path, **options: Any) -> dict[str, Path]:
    """Export with the product; return the files by format."""
    with _silence():
        manifest = sd.export(model, stem, eval_pack=False, **options)
    return {a.format: stem.parent / a.path for a in manifest.artifacts}


def plain_onnx(module: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """Export with torch alone, dynamic batch."""
    batch = torch.export.Dim("batch")
    with _silence():
        torch.onnx.export(
            module,
            (torch.rand(2, *shape),),
            str(path),
            dynamo=True,
            external_data=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
        )
    return path


def int8_files(folder: Path, format: str) -> dict[str, Path]:
    """Write a dense layer of 4096×4096 with the product: float, and quantised in both ways.

    And, as "kron", the Kronecker layer of 64×64 ⊗ 64×64 on the same input.
    """
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(4096, 4096))
    kron = nn.Sequential(nn.Flatten(), KronLinear((64, 64), (64, 64)))
    images = np.random.default_rng(0).integers(0, 256, (64, 1, 64, 64), dtype=np.uint8)
    labels = np.arange(64)
    data = folder / "uniform.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    small = sd.wrap(kron, (1, 64, 64)).eval()
    found = {"kron": ours(small, folder / "kron", formats=(format,))[format]}
    for mode in ("none", "dynamic", "static"):
        model = sd.wrap(layer, (1, 64, 64)).eval()
        options = {"quantize": mode, "data": str(data)} if mode != "none" else {}
        found[mode] = ours(model, folder / mode, formats=(format,), **options)[format]
    return found


def quantized_dense(path: Path, mode: str) -> Path:
    """Quantise the dense layer of `int8_files` with ONNX Runtime's own tool."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Uniform(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.left = [rng.random((1, 1, 64, 64), dtype=np.float32) for _ in range(4)]

        def get_next(self) -> dict[str, Any] | None:
            return {"input": self.left.pop()} if self.left else None

    target = path.with_suffix(f".{mode}.onnx")
    with _silence():
        if mode == "dynamic":
            quantize_dynamic(path, target, weight_type=QuantType.QInt8)
        else:
            quantize_static(path, target, Uniform(), weight_type=QuantType.QInt8)
    return target


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what exporters print and warn about out of the table."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
