"""The forms one layer could take, with their cost and the energy they would lose.

Errors come from singular values alone, so that hundreds of forms of a layer are compared for the
price of a few decompositions; nothing is projected before the plan is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sepdeploy.compression.places import Places
from sepdeploy.errors import BadInput
from sepdeploy.layers import LowRankConv2d
from sepdeploy.structures import KronSpec, LowRankSpec, parse_structure, suggest_shapes

Values = npt.NDArray[np.float64]

CLASSES, SHAPES_PER_CLASS = 8, 2  # Kronecker shapes tried per layer; sizes within a factor of 2
LARGE_CLASSES = 2  # of layers whose decompositions take seconds each
LARGE = 1 << 22
MAX_TERMS = 256
DOUBLE_SPECTRUM = 1500  # smaller side up to which all singular values are computed
SINGLE_SPECTRUM = 4600  # the same in single precision, good to 1e-3 of the largest: for ranking
LEADING, SPARE, POWERS = 40, 8, 2  # otherwise so many, by a randomised range finder
ROUNDING = 1e-12  # share of energy that is none
STEPS = 64  # ranks tried per layer
LEAST_KEPT = 1e-9  # share of energy


@dataclass(frozen=True)
class Candidate:
    """One form of a layer.

    Attributes:
        structure: "kron:8x8-16x16*2", "lowrank:40", "lowrank:24x32" (channel ranks of a
            convolution), "dense".
        params: Numbers stored, bias included.
        macs: Multiply-accumulates per sample.
        lost: Share of the squared Frobenius norm that is lost, 0 … 1 (for convolutions a little
            more than the projection will lose).
    """

    structure: str
    params: int
    macs: int
    lost: float

    @property
    def penalty(self) -> float:
        """−log of the share that is kept."""
        return -math.log(max(LEAST_KEPT, 1 - self.lost))


def dense_candidate(layer: nn.Module, places: Places) -> Candidate:
    """The layer as it is."""
    weight = layer.get_parameter("weight")
    macs = places.outputs * weight.numel()
    return Candidate("dense", weight.numel() + bias_params(layer), macs, 0.0)


def candidates(layer: nn.Linear | nn.Conv2d, family: str, places: Places) -> list[Candidate]:
    """The forms of a family that store less than the layer without computing more.

    Args:
        layer: A plain linear layer or convolution.
        family: A structure string; "kron", "lowrank" and (of convolutions) "tucker" leave shapes,
            terms and ranks open.
        places: How often the layer meets one sample.

    Raises:
        BadInput: A structure that does not fit the layer, or a weight that is not finite.
    """
    if not bool(torch.isfinite(layer.weight).all()):
        raise BadInput(
            "its weight holds NaN or infinite values", hint="train the model to a finite loss first"
        )
    if isinstance(layer, nn.Conv2d):
        if family not in ("kron", "lowrank", "tucker"):
            return [_named_convolution(layer, family, places)]
        found = _convolution(layer, family, places)
    elif family == "kron":
        found = _kron(layer, places)
    elif family == "lowrank":
        found = _lowrank(layer, places)
    else:
        found = iter([_named(layer, family, places)])
        return list(found)
    dense = dense_candidate(layer, places)
    return [c for c in found if c.params < dense.params and c.macs <= dense.macs]


def bias_params(layer: nn.Module) -> int:
    """Numbers in a layer's bias."""
    bias = getattr(layer, "bias", None)
    return bias.numel() if isinstance(bias, Tensor) else 0


def _named(layer: nn.Linear, text: str, places: Places) -> Candidate:
    spec = parse_structure(text, (layer.in_features,), layer.out_features)
    lost = spec.project(_array(layer.weight)).relative_error ** 2
    written = _kron_text(spec) if isinstance(spec, KronSpec) else text.strip()
    return Candidate(written, spec.params(bias_params(layer) > 0), places.outputs * spec.macs, lost)


def channel_ranks(text: str) -> tuple[int, int]:
    """Read the form of a convolution: "lowrank:24x32" is q = 24, p = 32; one number is both.

    "tucker:24x32" is another name of it: a Tucker factorisation of the two channel modes.

    Raises:
        BadInput: Anything else.
    """
    name, _, ranks = text.strip().partition(":")
    parts = ranks.split("x")
    whole = all(r.isdecimal() and len(r) < 7 for r in parts)
    if name not in ("lowrank", "tucker") or len(parts) > 2 or not whole:
        raise BadInput(
            f"structure '{text[:60]}' is no form of a convolution",
            hint="for example lowrank:24x32, which is the same as tucker:24x32",
        )
    return int(parts[0]), int(parts[-1])


def _named_convolution(conv: nn.Conv2d, text: str, places: Places) -> Candidate:
    layer = LowRankConv2d.from_dense(conv, channel_ranks(text))
    q, p = layer.ranks
    params, macs = _convolution_cost(conv, q, p, places)
    return Candidate(f"lowrank:{q}x{p}", params, macs, (layer.projection_error or 0.0) ** 2)


def _convolution_cost(conv: nn.Conv2d, q: int, p: int, places: Places) -> tuple[int, int]:
    """Parameters with the bias, and multiply-accumulates; ``reduce`` sees the layer's input."""
    first, core = conv.in_channels * q, math.prod(conv.kernel_size) * q * p
    last = p * conv.out_channels
    macs = places.inputs * first + places.outputs * (core + last)
    return first + core + last + bias_params(conv), macs


def _lowrank(layer: nn.Linear, places: Places) -> Iterator[Candidate]:
    tail = _tail(_squares(layer.weight.detach().double()))
    for rank in _spaced(len(tail) - 1):
        spec = LowRankSpec(layer.in_features, layer.out_features, rank)
        params = spec.params(bias_params(layer) > 0)
        yield Candidate(f"lowrank:{rank}", params, places.outputs * spec.macs, float(tail[rank]))


def _kron(layer: nn.Linear, places: Places) -> Iterator[Candidate]:
    W = layer.weight.detach().double()
    for shape in _shapes(layer):
        (a_out, b_out), (a_in, b_in) = shape.out_shape, shape.in_shape
        rearranged = W.reshape(a_out, b_out, a_in, b_in).transpose(1, 2)
        tail = _tail(_squares(rearranged.reshape(a_out * a_in, b_out * b_in)))
        for terms in _spaced(min(len(tail) - 1, MAX_TERMS)):
            spec = KronSpec(shape.in_shape, shape.out_shape, terms)
            params = spec.params(bias_params(layer) > 0)
            yield Candidate(
                _kron_text(spec), params, places.outputs * spec.macs, float(tail[terms])
            )


def _shapes(layer: nn.Linear) -> list[KronSpec]:
    """The most balanced shapes of each size class, smallest first."""
    large = layer.in_features * layer.out_features > LARGE
    classes: dict[int, list[KronSpec]] = {}
    for spec in suggest_shapes(layer.in_features, layer.out_features):
        if spec.weight_params < spec.dense_macs and spec.macs <= spec.dense_macs:
            group = classes.setdefault(spec.weight_params.bit_length(), [])
            if len(group) < (1 if large else SHAPES_PER_CLASS):
                group.append(spec)
    sizes = sorted(classes)[: LARGE_CLASSES if large else CLASSES]
    return [spec for size in sizes for spec in classes[size]]


def _convolution(conv: nn.Conv2d, family: str, places: Places) -> Iterator[Candidate]:
    if family == "kron" or conv.groups != 1 or max(conv.kernel_size) == 1:
        return
    into, out, kept = _channel_energy(conv.weight.detach().double())
    seen = set()
    for step in range(1, STEPS + 1):
        wanted = (1 - step / STEPS) ** 2  # share of energy that either mode may lose
        q, p = (max(1, int(np.argmax(tail <= wanted + 1e-12))) for tail in (into, out))
        if (q, p) in seen:
            continue
        seen.add((q, p))
        lost = max(0.0, 1.0 - float(kept[p - 1, q - 1]))
        lost = lost if lost > ROUNDING else 0.0
        yield Candidate(f"lowrank:{q}x{p}", *_convolution_cost(conv, q, p, places), lost)


def _channel_energy(W: Tensor) -> tuple[Values, Values, Values]:
    """What a higher-order SVD of a kernel's channels keeps.

    Returns:
        Shares lost by the first 0, 1, 2 … directions of the input channels and of the output
        channels alone, and the share kept by the first p + 1 and q + 1 of both, at [p, q].
    """
    core, tails = W, []
    for mode in (0, 1):
        unfolded = W.transpose(0, mode).flatten(1)
        squares, vectors = torch.linalg.eigh(unfolded @ unfolded.t())
        tails.append(_tail(np.append(squares.flip(0).clamp_min(0).numpy(), 0.0)))
        core = torch.tensordot(vectors.flip(1), core, dims=([0], [mode])).transpose(0, mode)
    energy = core.square().sum((2, 3))
    kept = energy.cumsum(0).cumsum(1) / energy.sum().clamp_min(torch.finfo(torch.double).tiny)
    return tails[1], tails[0], np.asarray(kept.numpy())


def _squares(matrix: Tensor) -> Values:
    """Squared singular values, largest first, and what is left of the squared norm, last."""
    total = float(matrix.square().sum())
    small = min(matrix.shape)
    if small > SINGLE_SPECTRUM:
        squares = _leading_squares(matrix.float())
    else:
        M = matrix if small <= DOUBLE_SPECTRUM else matrix.float()
        G = M @ M.t() if M.shape[0] <= M.shape[1] else M.t() @ M
        squares = torch.linalg.eigvalsh(G).flip(0).clamp_min(0)
    found = squares.double().numpy()
    rest = max(0.0, total - float(found.sum())) if len(found) < small else 0.0
    return np.append(found, rest)


def _leading_squares(matrix: Tensor) -> Tensor:
    """A few squared singular values, from below, by subspace iteration with a fixed start."""
    start = torch.Generator().manual_seed(0)
    basis = torch.randn(matrix.shape[1], LEADING + SPARE, generator=start)
    for _ in range(POWERS):
        basis = torch.linalg.qr(matrix.t() @ (matrix @ basis)).Q
    squares: Tensor = torch.linalg.svdvals(matrix @ basis)[:LEADING].square()
    return squares


def _tail(
    squares: Values,
) -> Values:
    """Share of energy lost when the first 0, 1, 2 … values are kept."""
    total = float(squares.sum()) or 1.0
    shares = np.cumsum(squares[::-1])[::-1] / total
    return np.where(shares > ROUNDING, shares, 0.0)


def _spaced(largest: int) -> list[int]:
    """Whole numbers from 1 to ``largest``, all of the small ones and ever fewer of the others."""
    steps = np.geomspace(1, max(1, largest), STEPS).round().astype(int)
    return sorted({int(n) for n in steps} | set(range(1, min(largest, 8) + 1)))


def _kron_text(spec: KronSpec) -> str:
    sides = "-".join("x".join(map(str, s)) for s in (spec.in_shape, spec.out_shape))
    return f"kron:{sides}" + (f"*{spec.terms}" if spec.terms > 1 else "")


def _array(weight: Tensor) -> Values:
    return np.asarray(weight.detach().cpu().double().numpy())
