"""Vision transformers with one linear layer each for queries, keys, values and output."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.layers import make_linear
from sepdeploy.models.placement import StructureMap, resolve_structures, with_modes
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure
from sepdeploy.structures.base import check_count

LINEARS = ("q", "k", "v", "out", "fc1", "fc2")  # of one block
EXPANSION = 4  # width of the perceptron over the width of a token
MODES = ("paper", "aligned")


class Block(nn.Module):
    """Self-attention (q, k, v, out) and a perceptron (fc1, fc2), each behind its norm."""

    def __init__(self, width: int, heads: int, texts: dict[str, str]) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        inner = EXPANSION * width
        sizes = {"fc1": (width, inner), "fc2": (inner, width)}
        for name in LINEARS:
            inputs, outputs = sizes.get(name, (width, width))
            layer = make_linear(parse_structure(texts[name], (inputs,), outputs))
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
            else:
                layer.reset_parameters(gain=1.0)
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, width) → the same."""
        y = self.norm1(x)
        q, k, v = (self._by_head(self.get_submodule(name)(y)) for name in ("q", "k", "v"))
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.get_submodule("out")(y.transpose(1, 2).flatten(2))
        y = F.gelu(self.get_submodule("fc1")(self.norm2(x)))
        out: Tensor = x + self.get_submodule("fc2")(y)
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, blocks, norm and head on the class token."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        structure: StructureMap,
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        modes: str,
    ) -> None:
        super().__init__()
        channels, height, image_width = input_shape
        tokens = (height // patch) * (image_width // patch) + 1
        self.patch = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, tokens, width))
        names = [f"blocks.{k}.{name}" for k in range(depth) for name in LINEARS]
        texts = resolve_structures(structure, names, keep_dense=("head",))
        own = block_modes(width, modes)
        self.blocks = nn.Sequential(
            *(
                Block(
                    width,
                    heads,
                    {n: with_modes(texts[f"blocks.{k}.{n}"], own.get(n)) for n in LINEARS},
                )
                for k in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = make_linear(parse_structure(texts["head"], (width,), classes))
        self._initialise()

    def _initialise(self) -> None:
        with torch.no_grad():
            self.positions.normal_(0, 0.02)
            nn.init.normal_(self.patch.weight, 0, 1 / math.sqrt(self.patch.weight[0].numel()))
            if self.patch.bias is not None:
                nn.init.zeros_(self.patch.bias)
            if isinstance(self.head, nn.Linear):
                nn.init.normal_(self.head.weight, 0, 0.02)
                nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        logits: Tensor = self.head(x[:, 0])
        return logits


def block_modes(width: int, modes: str) -> dict[str, str]:
    """Kronecker modes "in-out" of a block's layers, for structure strings that leave them open.

    "paper": the published factor shapes of width 768 (methods reference), halved with the square
    root of the width; q, k, v and out cross their modes (32x24 → 24x32), which bounds their rank
    by 3/4 of the width. "aligned": the same modes on both sides, full rank at nearly the same
    cost. A width without such modes gives an empty table: the most balanced modes are taken.
    """
    unit = math.isqrt(width // 12)
    if 12 * unit * unit != width:
        return {}
    if modes == "aligned":
        a, b = 4 * unit, 3 * unit
        own, wide = f"{a}x{b}", f"{2 * a}x{2 * b}"
        square = dict.fromkeys(("q", "k", "v", "out"), f"{own}-{own}")
        return square | {"fc1": f"{own}-{wide}", "fc2": f"{wide}-{own}"}
    q, r, s, t, u = (k * unit for k in (4, 3, 2, 6, 8))
    crossed = dict.fromkeys(("q", "k", "v", "out"), f"{q}x{r}-{r}x{q}")
    return crossed | {"fc1": f"{s}x{t}-{t}x{u}", "fc2": f"{u}x{t}-{t}x{s}"}


def default_patch(shape: tuple[int, ...]) -> int:
    """Pixels per side of a patch: 16 for large images, 2 for 32×32 as published."""
    side = min(shape[1:])
    return 16 if side >= 128 else 4 if side >= 64 else 2


def vit(
    name: str,
    input: InputSpec,
    classes: int,
    structure: StructureMap = None,
    patch: int | None = None,
    depth: int = 12,
    width: int = 192,
    heads: int = 3,
    modes: str = "paper",
) -> nn.Module:
    """A vision transformer; parameters when dense on 3×224×224 with 1000 classes.

    Args:
        name: "vit_tiny" (ViT-Ti, 5 717 416), or "vit_b_16" (ViT-B/16, 86 567 656) of width 768
            and 12 heads.
        input: What one sample looks like, (C, H, W).
        classes: Number of logits.
        structure: One structure string for all layers of the blocks, or one per layer name or
            pattern (``blocks.*.fc1``, ``blocks.0.q``, ``head``); None is dense.
        patch: Pixels per side of a patch; None: 16 from 128 pixels on, 4 from 64 on, else 2.
        depth: Number of blocks.
        width: Features of a token.
        heads: Attention heads; they divide the width.
        modes: "paper" or "aligned", the modes of ``kron``; see ``block_modes``.

    Raises:
        BadInput: The input is no image, or patches do not tile it; options that make no sense.
    """
    if len(input.shape) != 3:
        raise BadInput(
            f"{name} needs images (C, H, W), the input is {input.shape}",
            hint="use mlp for inputs of another kind",
        )
    patch = check_count(default_patch(input.shape) if patch is None else patch, "patch", 1024)
    if any(side % patch for side in input.shape[1:]):
        raise BadInput(
            f"patches of {patch} pixels do not tile an image of {input.shape[1:]}",
            hint="choose patch= so that it divides both sides",
        )
    width, heads = check_count(width, "width"), check_count(heads, "heads", 1024)
    if width % heads:
        raise BadInput(
            f"width {width} is not a multiple of {heads} heads",
            hint="choose a width that is a multiple of the heads",
        )
    if modes not in MODES:
        raise unknown_name("modes", str(modes)[:40], MODES)
    depth = check_count(depth, "depth", 1000)
    return VisionTransformer(
        input.shape,
        classes,
        structure,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        modes=modes,
    )
