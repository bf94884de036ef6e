"""The Kronecker convolution: a smaller convolution on part of the channels, then a mixing 1×1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, cast

import torch
from torch import Tensor, nn

from sepdeploy.layers.base import StructuredConv2d, finite_weight, mixing, shaped_like
from sepdeploy.layers.energies import lost_energy, spaced
from sepdeploy.structures import KronConvSpec
from sepdeploy.structures.base import MAX_TERMS
from sepdeploy.structures.kron_conv import kron_shapes

SIZES, SHAPES_PER_SIZE = 8, 2  # shapes tried per layer; sizes within a factor of 2


class KronConv2d(StructuredConv2d):
    """A convolution with W[(p,q),(i,j)] = Σ_k A_k[p,i] B_k[q,j] on channels c = (a_in, b_in).

    ``inner`` (k×k, b_in → terms·b_out) holds B and sees every one of the a_in parts of the
    channels as an image of its own; ``outer`` (a_in → a_out, over the terms) holds A. Between
    them channels are only read with other sides, nothing moves.

    Args:
        conv: The plain convolution, for its geometry; nothing is projected.
        spec: The structure.

    Attributes:
        bias: (o,), None for a layer without.
    """

    def __init__(self, conv: nn.Conv2d, spec: KronConvSpec) -> None:
        super().__init__()
        (a_in, b_in), (a_out, b_out), terms = spec.in_shape, spec.out_shape, spec.terms
        self.inner = shaped_like(conv, (b_in, terms * b_out))
        self.outer = mixing(conv, (a_in, a_out), high=terms)
        self.bias = None if conv.bias is None else nn.Parameter(torch.zeros_like(conv.bias))

    @property
    def spec(self) -> KronConvSpec:
        """The structure as a record."""
        return KronConvSpec.from_factors([tuple(p.weight.shape) for p in self._convolutions()])

    def _convolutions(self) -> tuple[nn.Conv2d, nn.Conv2d]:
        return self.inner, self.outer

    def parts(self) -> dict[nn.Module, int]:
        """Both convolutions; the inner one stands for all dense weights."""
        return {self.inner: self.dense_weights, self.outer: 0}

    @property
    def images(self) -> int:
        """One for each of the a_in parts of the channels."""
        return self.outer.in_channels

    @property
    def added_bias(self) -> Tensor | None:
        """The bias, whose channels are not those of ``outer``."""
        return self.bias

    def regularized(self) -> list[Tensor]:
        """Both factors, unfolded to (outputs, rest)."""
        return [part.weight.flatten(1) for part in self._convolutions()]

    @property
    def dense_weights(self) -> int:
        """Weights of the plain convolution this layer stands for."""
        A, B = self.outer.weight, self.inner.weight
        return A[:, :, 0, 0].numel() * B.numel() // A.shape[2]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (N, c, H, W)."""
        (a_in, b_in), (a_out, b_out), terms = self.spec.in_shape, self.spec.out_shape, self.terms
        x = self.inner(x.reshape(-1, b_in, *x.shape[2:]))
        high, wide = x.shape[2:]
        y = self.outer(x.reshape(-1, a_in, terms, b_out * high * wide))
        y = y.reshape(-1, a_out * b_out, high, wide)
        return cast(Tensor, y if self.bias is None else y + self.bias[:, None, None])

    @property
    def terms(self) -> int:
        """Kronecker products that are summed."""
        return self.outer.weight.shape[2]

    def dense_weight(self) -> Tensor:
        """The (o, c, kh, kw) weight this layer stands for; differentiable."""
        A, B = self.outer.weight[..., 0], self.inner.weight
        B = B.reshape(self.terms, -1, *B.shape[1:])
        whole: Tensor = torch.einsum("pik,kqjhw->pqijhw", A, B)
        return whole.flatten(2, 3).flatten(0, 1)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, spec: KronConvSpec) -> Self:
        """A fresh layer of a structure with the geometry of a plain convolution."""
        return cls(conv, spec)

    @classmethod
    def project(cls, conv: nn.Conv2d, spec: KronConvSpec) -> Self:
        """The layer closest to a plain convolution; its bias is copied."""
        layer, weight = cls(conv, spec), finite_weight(conv)
        matrix, terms = _rearranged(weight, spec), spec.terms
        left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
        root = sigma[:terms].sqrt()
        A, B = left[:, :terms] * root, root[:, None] * right[:terms]
        missing = terms - len(root)  # more terms than the kernel has
        with torch.no_grad():
            a_in, a_out = spec.in_shape[0], spec.out_shape[0]
            A = torch.nn.functional.pad(A, (0, missing)).reshape(a_out, a_in, terms, 1)
            layer.outer.weight.copy_(A)
            B = torch.nn.functional.pad(B, (0, 0, 0, missing))
            layer.inner.weight.copy_(B.reshape(layer.inner.weight.shape))
            if conv.bias is not None and layer.bias is not None:
                layer.bias.copy_(conv.bias)
        total = float(sigma.norm())
        layer.projection_error = float(sigma[terms:].norm()) / total if total else 0.0
        return layer

    @classmethod
    def forms(cls, conv: nn.Conv2d) -> Iterator[tuple[KronConvSpec, float]]:
        """Balanced shapes of every size class, with up to as many terms as the kernel has."""
        if conv.groups != 1:
            return
        weight = conv.weight.detach().double()
        for shape in _shapes(conv):
            tail = lost_energy(_rearranged(weight, shape))
            for terms in spaced(min(len(tail) - 1, MAX_TERMS)):
                spec = KronConvSpec(shape.in_shape, shape.out_shape, shape.kernel, terms)
                yield spec, float(tail[terms])

    def extra_repr(self) -> str:
        """Modes for ``print(model)``."""
        return self.spec.text


def _rearranged(weight: Tensor, spec: KronConvSpec) -> Tensor:
    """(a_out·a_in, b_out·b_in·k²): a sum of Kronecker products is a low rank of this matrix."""
    split = weight.reshape(*spec.out_shape, *spec.in_shape, -1)
    return split.transpose(1, 2).flatten(2).flatten(0, 1)


def _shapes(conv: nn.Conv2d) -> list[KronConvSpec]:
    """The shapes of each size class that compute least."""
    classes: dict[int, list[KronConvSpec]] = {}
    shapes = kron_shapes(conv.in_channels, conv.out_channels, tuple(conv.kernel_size))
    for spec in sorted(shapes, key=lambda s: s.macs_at(1, 1)):
        small = spec.params(bias=False) < conv.weight.numel()
        group = classes.setdefault(spec.params(bias=False).bit_length(), [])
        if small and len(group) < SHAPES_PER_SIZE:
            group.append(spec)
    return [spec for size in sorted(classes)[:SIZES] for spec in classes[size]]
