"""Learning rates in proportion: a factor steps as far, for its size, as a dense weight does.

An adaptive optimiser moves every entry by about the learning rate, whatever the entry's size. The
default rate suits the entries of dense layers; those of a Kronecker factor are 5 to 10 times
larger and then hardly train. Plain gradient descent has the opposite trouble: the gradient of a
factor grows with the norms of all others.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers.base import AdaptiveRanks, Structured, StructuredLinear

# The root mean square of the entries that a learning rate is meant for: with the default 4e-3 of
# AdamW a step then moves entries by a fifth of their size. Measured on MNIST from 31 to 214 times
# fewer parameters: within 0.6 points of each net's own best rate.
USUAL_ENTRY = 0.02
USUAL_SIDE = 34  # of a factor, up to which that share was measured
WARM_UP = 0.05  # share of a training in which larger steps set in
DIGITS = 3  # of a scale: tensors of equal ones share a group


def learning_scales(
    net: nn.Module, overrides: Mapping[str, float], *, adaptive: bool, dynamic: bool = False
) -> dict[str, float]:
    """Return by what the learning rate of each parameter is multiplied where that is not 1.

    Args:
        net: With the weights that it starts from.
        overrides: Pattern of parameter names -> scale; the last that matches counts.
        adaptive: As of ``OptimizerChoice``.
        dynamic: Whether ranks adapt, which scales the rates of such layers by a rule of its own.

    Raises:
        BadInput: A pattern that matches nothing, or only cores whose ranks adapt.
    """
    scales = {name: 1.0 for name, _ in net.named_parameters()}
    for name, layer, factor in _factors(net):
        if not (dynamic and isinstance(layer, AdaptiveRanks)):
            scales[name] = _rounded(_of_adaptive(factor) if adaptive else _of_plain(layer, factor))
    if not adaptive:
        scales |= {name: _rounded(1 / math.sqrt(copies)) for name, copies in _bias_copies(net)}
    cores = set(_cores(net)) if dynamic else set()
    for pattern, scale in overrides.items():
        found = fnmatch.filter(scales, pattern)
        if not found:
            raise BadInput(
                f"recipe: lr_scale names '{pattern}', which no parameter matches",
                hint=f"they are {', '.join(list(scales)[:6])} …",
            )
        if cores.issuperset(found):
            raise BadInput(
                f"recipe: lr_scale names '{pattern}', whose rate follows its rank",
                hint="leave it out, or rank_tolerance",
            )
        scales |= dict.fromkeys(found, scale)
    return {name: scale for name, scale in scales.items() if scale != 1.0}


def warmed_up(scale: float, done: float) -> float:
    """Return a scale after a share of the training: from 1 to itself in the first 5 %.

    The first steps of an adaptive optimiser know gradients of a step or two only; large ones then
    diverge where the schedule does not rise.
    """
    return 1 + (scale - 1) * min(1.0, done / WARM_UP) if scale > 1 else scale


def _of_adaptive(factor: Tensor) -> float:
    """Return RMS(factor) over that of the entries that the rate is meant for, less for large ones.

    A step of equal entries has a spectral norm that grows with the side of the matrix, the factor
    one that grows with its root: without the root of their ratio nets of 64×64 factors diverge.
    """
    matrix = factor.flatten(1) if factor.dim() > 3 else factor  # (terms, o, i), or a convolution
    side = math.sqrt(math.prod(matrix.shape[-2:]))
    return _rms(factor) / USUAL_ENTRY * math.sqrt(USUAL_SIDE / max(USUAL_SIDE, side))


def _of_plain(layer: Structured, factor: Tensor) -> float:
    """Return RMS(factor) / (RMS(W) · RMS(∂⟨W, R⟩/∂factor)) for random signs R.

    Gradients of W whose entries are as good as independent then move W, by each of its factors,
    as far as a step of W itself would.
    """
    with torch.enable_grad():
        W = layer.dense_weight()
        signs = torch.randint(0, 2, W.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        (gradient,) = torch.autograd.grad((W * signs.to(W)).sum(), factor)
    least = torch.finfo(torch.float32).tiny
    return _rms(factor) / max(_rms(W) * _rms(gradient), least)


def _factors(net: nn.Module) -> Iterator[tuple[str, Structured, nn.Parameter]]:
    """Yield the factors of structured layers with their names; biases are none.

    Nor is the core between two bases, which holds the size of W alone: at a fifth of its own size
    a step (`lr_scale = "*.S=90"`) low-rank nets from scratch end far lower (MNIST, 17 times
    smaller, one epoch: 55 % robust in place of 83 %).
    """
    cores = set(_cores(net))
    for prefix, layer in net.named_modules():
        if isinstance(layer, Structured):
            for key, parameter in layer.named_parameters():
                name = f"{prefix}.{key}".lstrip(".")
                if parameter.dim() > 1 and name not in cores:
                    yield name, layer, parameter


def _bias_copies(net: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield biases that are sums by name, and to how many outputs each of their numbers is added.

    Its gradient is a sum over so many independent ones; the root of that moves each output as far
    as a step of its own bias would. An adaptive step is as long either way.
    """
    for prefix, layer in net.named_modules():
        if isinstance(layer, StructuredLinear):
            for key, copies in layer.bias_copies().items():
                yield f"{prefix}.{key}".lstrip("."), copies


def _cores(net: nn.Module) -> Iterator[str]:
    """Yield the names of the cores between two bases."""
    for prefix, layer in net.named_modules():
        if isinstance(layer, AdaptiveRanks):
            yield f"{prefix}.{layer.factor_keys[1]}".lstrip(".")


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def _rounded(scale: float) -> float:
    """Return a scale with few digits; 1 for factors of zeros, which have no size to go by."""
    return float(f"{scale:.{DIGITS}g}") if 0 < scale < math.inf else 1.0
