"""A network together with what its input looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sepdeploy.errors import INPUT_SHAPE, BadInput
from sepdeploy.layers import StructuredLinear, is_structured
from sepdeploy.models.analysis.layer_table import dense_params, deployed_params, layer_records
from sepdeploy.models.analysis.shape_pass import shape_pass
from sepdeploy.records import InputSpec, LayerRecord


class Model(nn.Module):
    """A classifier on inputs in [0, 1]; the normalisation is part of it.

    ``forward`` takes (N, *input.shape), or (N, features), and returns logits (N, classes) =
    net((x − mean)/std). The state dict holds the parameters of ``net`` only.

    Layer names, wherever they appear (``structured_layers``, ``layer_records``, graph nodes,
    tables), are paths inside ``net`` without a prefix: "fc1", not "net.fc1". A ``net`` that is
    itself one layer is called "net".

    Attributes:
        net: The network proper.
        input: Shape, normalisation and class names.
        arch: Name in ``ARCHITECTURES``, "package.module:factory" of a user, or "" if unknown.
        arch_kwargs: What the architecture was made with, plain JSON values.
        provenance: How the model came to be (data, attack, ε, tool version), plain JSON values.

    Raises:
        BadInput: mean or std do not fit the input shape.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        input: InputSpec,
        *,
        arch: str = "",
        arch_kwargs: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.input = input
        self.arch = arch
        self.arch_kwargs: dict[str, Any] = dict(arch_kwargs or {})
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.normalises = any(m != 0 for m in input.mean) or any(s != 1 for s in input.std)
        self.register_buffer("mean", _per_channel(input.mean, input, "mean"), persistent=False)
        self.register_buffer("std", _per_channel(input.std, input, "std"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of a batch (N, *input.shape) or (N, features)."""
        shape = self.input.shape
        if tuple(x.shape[1:]) != shape:
            if x.dim() != 2 or x.shape[1] != self.input.features:
                raise BadInput(
                    f"model got input {tuple(x.shape)}, expected (N, {', '.join(map(str, shape))})",
                    hint=INPUT_SHAPE,
                )
            x = x.reshape(-1, *shape)
        if self.normalises:
            x = (x - self.mean) / self.std
        return cast(Tensor, self.net(x))

    def structured_layers(self) -> dict[str, StructuredLinear]:
        """Every layer of a structure family (dense ones left out), by name."""
        return {
            name or "net": module
            for name, module in self.net.named_modules()
            if is_structured(module)
        }

    def layer_records(self) -> tuple[LayerRecord, ...]:
        """One record per weight-carrying layer (linear, convolution, structured), in call order."""
        return layer_records(self.net, self.input)

    @property
    def classes(self) -> int:
        """Number of logits.

        Raises:
            BadInput: The network does not give logits (N, classes) for its input shape.
        """
        shape = tuple(shape_pass(self.net, self.input, {}).shape)
        if len(shape) != 2 or shape[0] != 1:
            raise BadInput(
                f"the network returns {shape} for one sample, expected logits (1, classes)",
                hint="add nn.Flatten(), or a module that returns the logits only",
            )
        return shape[1]

    @property
    def params(self) -> int:
        """Parameters as deployed (low-rank cores folded)."""
        return deployed_params(self.net)

    @property
    def params_dense(self) -> int:
        """Parameters of the same network with every structured layer dense."""
        return dense_params(self.net)


def _per_channel(values: tuple[float, ...], input: InputSpec, what: str) -> Tensor:
    channels = input.shape[0]
    if len(values) not in (1, channels):
        raise BadInput(
            f"input {what} has {len(values)} values for {channels} channels",
            hint="give one value, or one for each channel",
        )
    shape = (len(values),) + (1,) * (len(input.shape) - 1)
    return torch.tensor(values, dtype=torch.float32).reshape(shape)
