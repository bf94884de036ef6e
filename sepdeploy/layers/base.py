"""What every layer of a structure family offers to training, compression and export."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from sepdeploy.errors import FINITE, BadInput
from sepdeploy.layers.graph import is_tracing, structured
from sepdeploy.layers.initial import RELU_GAIN
from sepdeploy.structures.base import Convolution, Structure


class Structured(nn.Module):
    """A layer of a structure family, linear or convolution.

    Attributes:
        projection_error: Relative error of the projection it was made by, None for a layer made
            from scratch.
        sweep_errors: The same at its start and after each sweep, of a family that iterates.
    """

    projection_error: float | None = None
    sweep_errors: tuple[float, ...] = ()

    @property
    @abstractmethod
    def dense_weights(self) -> int:
        """Weights of the plain layer this one stands for."""

    @property
    @abstractmethod
    def stored_weights(self) -> int:
        """Weights as deployed, bias left out."""

    @property
    def saved_params(self) -> int:
        """How many parameters fewer it stores than the plain layer it stands for."""
        return self.dense_weights - self.stored_weights

    @property
    def folded_params(self) -> int:
        """Parameters that are folded into others where the layer is counted or exported."""
        return 0

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight of the plain layer this one stands for; differentiable."""

    @abstractmethod
    def regularized(self) -> list[Tensor]:
        """The matrices (or stacks of them) that penalties act on, as views."""


class StructuredLinear(Structured):
    """A linear layer y = W x + b of a structure family.

    ``bias`` is the parameter of a bias with a number per output; ``whole_bias()`` is that of any.

    The result has the layout of the input: (N, *in_modes) gives (N, *out_modes) and (…, n_in)
    gives (…, n_out). Where an input fits both readings the first one wins.
    """

    spec: Structure
    bias: Tensor | None
    factors: Callable[[], tuple[Tensor, ...]]
    """The deployed factors, in the layout of the spec's ``factor_shapes``."""

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: Any, bias: bool = True) -> Self:
        """A freshly initialised layer of a structure."""

    @classmethod
    def project(cls, linear: nn.Linear, spec: Structure) -> Self:
        """The layer closest to a dense one in Frobenius norm, with the bias closest to its bias.

        Raises:
            BadInput: The structure does not fit the layer, or its weight is not finite.
        """
        layer = cls.from_spec(spec, linear.bias is not None)
        layer = layer.to(linear.weight.device, linear.weight.dtype)
        projection = spec.project(linear.weight.detach().cpu().double().numpy())
        with torch.no_grad():
            layer.take_factors(tuple(torch.from_numpy(f) for f in projection.factors))
            if linear.bias is not None:
                layer.take_bias(linear.bias)
        layer.projection_error = projection.relative_error
        layer.sweep_errors = projection.sweeps
        return layer

    @classmethod
    def forms(cls, weight: Tensor) -> Iterator[tuple[Structure, float]]:
        """The structures worth a look for a dense weight, and the share of energy each would lose.

        A family without any is only used where its form is written out.

        Args:
            weight: (n_out, n_in), in double precision.
        """
        return iter(())

    @abstractmethod
    def reset_parameters(self, gain: float = RELU_GAIN) -> None:
        """Draw fresh factors that keep the variance of the signal up to gain²; zero the bias."""

    @abstractmethod
    def take_factors(self, factors: tuple[Tensor, ...]) -> None:
        """Copy deployed factors into the parameters."""

    @abstractmethod
    def compute(self, rows: Tensor) -> Tensor:
        """Y for rows x of shape (M, n_in)."""

    @abstractmethod
    def prunable(self) -> Mapping[str, Tensor]:
        """The parameters that masks act on, by their name within the layer."""

    def whole_bias(self) -> Tensor | None:
        """The (n_out,) bias, None for a layer without; differentiable."""
        return self.bias

    def take_bias(self, bias: Tensor) -> None:
        """Copy a bias (n_out,) into the parameters of a layer that has one."""
        if self.bias is not None:
            self.bias.copy_(bias)

    def bias_copies(self) -> Mapping[str, int]:
        """How many outputs each number of a bias is added to, by parameter, where several."""
        return {}

    def dense_weight(self) -> Tensor:
        """The (n_out, n_in) matrix this layer stands for; differentiable."""
        factor = self.factors()[0]
        unit = torch.eye(self.spec.in_features, device=factor.device, dtype=factor.dtype)
        product, bias = self.compute(unit), self.whole_bias()
        return (product if bias is None else product - bias).t()

    def fold(self) -> None:
        """Bring the layer into its deployed form, so that masks act on what is exported."""

    @property
    def dense_weights(self) -> int:
        """n_in · n_out."""
        return self.spec.dense_macs

    @property
    def stored_weights(self) -> int:
        """As the spec counts."""
        return self.spec.weight_params

    @property
    def saved_params(self) -> int:
        """Those of the bias included."""
        bias = self.whole_bias() is not None
        return self.spec.dense_params(bias) - self.spec.params(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; see the class for the layouts."""
        spec = self.spec
        modes = spec.in_modes
        if x.dim() == 1 + len(modes) and x.shape[1:] == modes:
            lead, last = tuple(x.shape[:1]), spec.out_modes
        elif x.dim() and x.shape[-1] == spec.in_features:
            lead, last = tuple(x.shape[:-1]), (spec.out_features,)
        else:
            both = f"(N, {', '.join(map(str, modes))}) or " if len(modes) > 1 else ""
            raise BadInput(
                f"{type(self).__name__} got {tuple(x.shape)}, "
                f"expected {both}(…, {spec.in_features})",
                hint="reshape the input, or build the layer with this in_shape",
            )
        rows = x.reshape(-1, spec.in_features)
        if is_tracing():
            y = structured(rows, list(self.factors()), self.whole_bias(), spec)
        else:
            y = self.compute(rows)
        return y.reshape(*lead, *last)


class StructuredConv2d(Structured):
    """A convolution of a structure family that is made of ordinary layers, one after the other.

    Attributes:
        spread: Bound of the norm of what it does before them without weights, None if unknown.
    """

    spread: float | None = 1.0

    @property
    @abstractmethod
    def spec(self) -> Convolution:
        """The structure as a record."""

    @classmethod
    @abstractmethod
    def from_conv(cls, conv: nn.Conv2d, spec: Any) -> StructuredConv2d:
        """A fresh layer of a structure with the geometry of a plain convolution."""

    @classmethod
    @abstractmethod
    def project(cls, conv: nn.Conv2d, spec: Any) -> StructuredConv2d:
        """The layer closest to a plain convolution; its bias is copied."""

    @classmethod
    def forms(cls, conv: nn.Conv2d) -> Iterator[tuple[Convolution, float]]:
        """The structures worth a look, and the share of energy each would lose."""
        return iter(())

    @abstractmethod
    def parts(self) -> Mapping[nn.Module, int]:
        """The layers it is made of, in order, and how many dense weights each stands for."""

    @property
    def images(self) -> int:
        """How many images a sample is to the part that stands for the dense weights."""
        return 1

    @property
    def added_bias(self) -> Tensor | None:
        """A bias that is added after the parts, None where the last of them has it or none does."""
        return None

    @property
    def stored_weights(self) -> int:
        """Of all parts together."""
        return sum(part.get_parameter("weight").numel() for part in self.parts())


def shaped_like(
    conv: nn.Conv2d, channels: tuple[int, int], *, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A fresh convolution with the kernel, stride, padding … of another, on other channels."""
    return nn.Conv2d(
        *channels,
        cast(tuple[int, int], conv.kernel_size),
        stride=cast(tuple[int, int], conv.stride),
        padding=cast(tuple[int, int], conv.padding),
        dilation=cast(tuple[int, int], conv.dilation),
        groups=groups,
        bias=bias,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )


def mixing(
    conv: nn.Conv2d,
    channels: tuple[int, int],
    *,
    groups: int = 1,
    bias: bool = False,
    high: int = 1,
) -> nn.Conv2d:
    """A fresh ``high``×1 convolution that only mixes channels, where and of the type of another."""
    at = conv.weight
    kernel = (high, 1)
    return nn.Conv2d(*channels, kernel, groups=groups, bias=bias, device=at.device, dtype=at.dtype)


def finite_weight(conv: nn.Conv2d) -> Tensor:
    """The weight that is to be projected, in double precision on the CPU.

    Raises:
        BadInput: It is not finite.
    """
    weight = conv.weight.detach().cpu().double()
    if not bool(torch.isfinite(weight).all()):
        raise BadInput("weight holds NaN or infinite values and cannot be projected", hint=FINITE)
    return weight


class AdaptiveRanks(nn.Module):
    """A layer W = V S Uᵀ (mode by mode) whose ranks may change while it trains.

    Attributes:
        factor_keys: Names of the parameters that hold U, S and V.
        square_core: Whether both bases have the same rank.
        outputs_first: Whether the core is stored with the mode of V first.
    """

    factor_keys: ClassVar[tuple[str, str, str]]
    square_core: ClassVar[bool]
    outputs_first: ClassVar[bool]

    @property
    @abstractmethod
    def ranks(self) -> tuple[int, ...]:
        """The rank, or those of U and V."""

    @abstractmethod
    def set_factors(self, U: Tensor, S: Tensor, V: Tensor) -> None:
        """Put other factors in place; ranks follow them, parameters keep their identity."""
