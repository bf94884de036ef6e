"""Which matrices of a network the penalties act on."""

from __future__ import annotations

from torch import Tensor, nn

from sepdeploy.layers import Structured, StructuredConv2d
from sepdeploy.models.computed_weights import weight_of


def regularized_matrices(net: nn.Module, scope: str = "structured") -> dict[str, list[Tensor]]:
    """Return, per layer, the matrices that penalties act on.

    Kronecker factors, low-rank cores and the output unfolding (p, q·k²) of Tucker cores. Scope
    "all" adds the weights of plain linear layers and convolutions, unfolded to (outputs, rest);
    so does a network without any structured layer, with its linear layers.

    The tensors are views: take them anew for each step, because ranks may change.
    """
    layers = {name or "net": module for name, module in net.named_modules()}
    inside = {
        id(part)
        for module in layers.values()
        if isinstance(module, StructuredConv2d)
        for part in module.parts()
    }
    structured = {n: m.regularized() for n, m in layers.items() if isinstance(m, Structured)}
    found = {name: group for name, group in structured.items() if group}
    if found and scope == "structured":
        return found
    plain = (nn.Linear,) if scope == "structured" else (nn.Linear, nn.Conv2d)
    for name, module in layers.items():
        if isinstance(module, plain) and id(module) not in inside:
            found[name] = [weight_of(module).flatten(1)]
    return {name: found[name] for name in layers if name in found}
