"""Small networks, one or a few operators each: what a user's own module may be made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (3, 8, 8)


class Apply(nn.Module):
    """A function of a batch as a module, with layers of its own."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **dict(self.named_children()))


def apply(function, **layers):
    return lambda: Apply(function, **{k: make() for k, make in layers.items()})


def flat(function):
    """An elementwise function or any image-to-image one, flattened to logits."""
    return lambda: Apply(lambda x: function(x * 4 - 2).flatten(1))


def layer(make):
    """An image layer between two others that make its statistics uneven."""
    return lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), make(), nn.Flatten())


def conv(*args, **kwargs):
    return lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, *args, **kwargs), nn.Flatten())


def transposed(*args, **kwargs):
    return lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, *args, **kwargs), nn.Flatten()
    )


def tokens(function, **layers):
    """A function of (N, 16, 12) tokens."""

    def run(x, **own):
        own = dict(own)
        start = own.pop("start")
        return function(start(x).flatten(2).transpose(1, 2), **own).flatten(1)

    return apply(run, start=lambda: nn.Conv2d(3, 12, 2, stride=2), **layers)


def attend(x, q, k, v, out, **options):
    q, k, v = (f(x).unflatten(2, (3, 4)).transpose(1, 2) for f in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, **options)
    return out(y.transpose(1, 2).flatten(2))


def by_head(x, heads):
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def packed(x, qkv):
    q, k, v = qkv(x).reshape(-1, 16, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    weights = ((q @ k.transpose(-2, -1)) * 0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).reshape(-1, 16, 12)


def square():
    return nn.Linear(12, 12)


QKV = dict.fromkeys(("q", "k", "v", "out"), square)


def multihead(x, attention):
    return attention(x, x, x, need_weights=False)[0]


def with_weights(x, attention):
    y, weights = attention(x, x, x)
    return y + weights @ x


class ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.positions = nn.Parameter(torch.randn(1, 17, 12))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return x[:, 0] * x.mean(dim=1)


class ConvBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return (F.relu(y) + y).flatten(1)


def inverted_residual(x, grow, depth, squeeze, excite, shrink):
    y = F.hardswish(grow(x))
    y = F.hardswish(depth(y))
    gate = F.hardsigmoid(excite(F.relu(squeeze(F.adaptive_avg_pool2d(y, 1)))))
    return (x + shrink(y * gate)).flatten(1)


def codes(x, table):
    index = (x.flatten(2)[:, 0, :4] * 9).long()
    return table(index).flatten(1)


MODULES: dict[str, Callable[[], nn.Module]] = {
    # linear
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)),
    "linear_no_bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10, bias=False)),
    "linear_3d": tokens(lambda x, fc: fc(x), fc=lambda: nn.Linear(12, 7)),
    "linear_square": tokens(lambda x, fc: fc(x), fc=square),
    "linear_shared": tokens(lambda x, fc: fc(torch.relu(fc(x))), fc=square),
    "bilinear_matmul": tokens(lambda x: x @ x.transpose(1, 2)),
    # convolutions
    "conv_strided": conv(6, 3, stride=2, padding=1),
    "conv_dilated": conv(6, 3, dilation=2),
    "conv_grouped": conv(6, 3, groups=2, padding=1),
    "conv_depthwise": conv(8, 3, groups=8, padding=1),
    "conv_depthwise_multiplier": conv(16, 3, groups=8, padding=1),
    "conv_depthwise_dilated": conv(8, 3, groups=8, dilation=2, padding=2),
    "conv_same": conv(6, (3, 5), padding="same"),
    "conv_asymmetric": conv(6, (3, 1), stride=(1, 2), padding=(2, 0)),
    "conv_reflect": conv(6, 3, padding=1, padding_mode="reflect"),
    "conv_1d": tokens(lambda x, c: c(x.transpose(1, 2)), c=lambda: nn.Conv1d(12, 5, 3, padding=1)),
    "conv_transposed": transposed(6, 3, stride=2),
    "conv_transposed_padded": transposed(6, 4, stride=2, padding=1),
    "conv_transposed_output_padding": transposed(6, 3, stride=2, padding=1, output_padding=1),
    "conv_transposed_grouped": transposed(6, 3, stride=2, groups=2),
    # norms
    "batch_norm": layer(lambda: nn.BatchNorm2d(8)),
    "batch_norm_first": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten()),
    "batch_norm_1d": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(192, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4)
    ),
    "conv_batch_norm_both": ConvBatchNorm,
    "layer_norm": tokens(lambda x, n: n(x), n=lambda: nn.LayerNorm(12)),
    "layer_norm_image": layer(lambda: nn.LayerNorm((8, 8, 8))),
    "layer_norm_plain": tokens(lambda x: F.layer_norm(x, (12,))),
    "group_norm": layer(lambda: nn.GroupNorm(4, 8)),
    "group_norm_one": layer(lambda: nn.GroupNorm(1, 8)),
    "instance_norm": layer(lambda: nn.InstanceNorm2d(8, affine=True)),
    "rms_norm": tokens(lambda x, n: n(x), n=lambda: nn.RMSNorm(12)),
    # pooling
    "max_pool": layer(lambda: nn.MaxPool2d(2)),
    "max_pool_padded": layer(lambda: nn.MaxPool2d(3, 2, padding=1)),
    "max_pool_ceil": layer(lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),
    "avg_pool": layer(lambda: nn.AvgPool2d(2)),
    "avg_pool_padded": layer(lambda: nn.AvgPool2d(3, 2, padding=1)),
    "avg_pool_exclude": layer(lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)),
    "avg_pool_ceil": layer(lambda: nn.AvgPool2d(3, 2, ceil_mode=True)),
    "adaptive_global": layer(lambda: nn.AdaptiveAvgPool2d(1)),
    "adaptive_even": layer(lambda: nn.AdaptiveAvgPool2d(4)),
    "adaptive_uneven": layer(lambda: nn.AdaptiveAvgPool2d(3)),
    "adaptive_larger": layer(lambda: nn.AdaptiveAvgPool2d(11)),
    "adaptive_same": layer(lambda: nn.AdaptiveAvgPool2d(8)),
    "adaptive_one_side": layer(lambda: nn.AdaptiveAvgPool2d((None, 2))),
    "adaptive_max_global": layer(lambda: nn.AdaptiveMaxPool2d(1)),
    "adaptive_max_even": layer(lambda: nn.AdaptiveMaxPool2d(4)),
    "adaptive_max_uneven": layer(lambda: nn.AdaptiveMaxPool2d(3)),
    "mean_places": layer(lambda: Apply(lambda x: x.mean(dim=(2, 3)))),
    # activations
    **{
        name: flat(function)
        for name, function in {
            "relu": F.relu,
            "relu6": F.relu6,
            "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
            "elu": F.elu,
            "selu": F.selu,
            "celu": F.celu,
            "gelu": F.gelu,
            "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
            "silu": F.silu,
            "mish": F.mish,
            "hardswish": F.hardswish,
            "hardsigmoid": F.hardsigmoid,
            "hardtanh": F.hardtanh,
            "sigmoid": torch.sigmoid,
            "log_sigmoid": F.logsigmoid,
            "tanh": torch.tanh,
            "softplus": F.softplus,
            "softsign": F.softsign,
            "softmax": lambda x: x.softmax(dim=-1),
            "softmax_channels": lambda x: x.softmax(dim=1),
            "log_softmax": lambda x: F.log_softmax(x, dim=-1),
            "glu": lambda x: F.glu(x, dim=3),
            "exp": torch.exp,
            "erf": torch.erf,
            "log": lambda x: torch.log(x.abs() + 1),
            "sqrt": lambda x: torch.sqrt(x.abs() + 0.5),
            "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.5),
            "reciprocal": lambda x: 1 / (x + 3),
            "power": lambda x: x**2 + x.abs() ** 0.5,
            "sin_cos": lambda x: torch.sin(x) + torch.cos(x),
            "abs_neg": lambda x: x.abs() - (-x),
            "sign_floor": lambda x: torch.sign(x) + torch.floor(x) + torch.ceil(x),
            "clamp": lambda x: x.clamp(-0.5, 1.5),
            "clamp_below": lambda x: x.clamp(min=0.25),
            "maximum_minimum": lambda x: torch.maximum(x, -x) + torch.minimum(x, x * x),
            "where": lambda x: torch.where(x > 0.5, x, x * 0.1),
            "masked_fill": lambda x: x.masked_fill(x < 0, 0.5),
            # shapes
            "add_constants": lambda x: 2 * x + 1 - x / 3,
            "broadcast": lambda x: x + x[:, :1] * x[:, :, :1, :] - x[:, :, :, 2:3],
            "concat": lambda x: torch.cat([x, x * 2, x[:, :1]], dim=1),
            "concat_width": lambda x: torch.cat([x, -x], dim=3),
            "stack": lambda x: torch.stack([x, x * 2], dim=1),
            "split": lambda x: torch.cat(x.split([1, 2], dim=1)[::-1], dim=1),
            "chunk": lambda x: torch.mul(*x.chunk(2, dim=2)),
            "unbind": lambda x: sum(x.unbind(1)),
            "slice": lambda x: x[:, 1:, 2:-1, ::2],
            "flip": lambda x: x.flip(3),
            "roll": lambda x: torch.roll(x, shifts=(1, -2), dims=(2, 3)),
            "pad_zero": lambda x: F.pad(x, (1, 2, 0, 3)),
            "pad_value": lambda x: F.pad(x, (1, 1, 1, 1), value=0.7),
            "pad_negative": lambda x: F.pad(x, (-1, 1, 0, 0)),
            "pad_reflect": lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect"),
            "pad_replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
            "pad_channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
            "transpose": lambda x: x.transpose(2, 3),
            "permute": lambda x: x.permute(0, 2, 3, 1),
            "reshape": lambda x: x.reshape(-1, 6, 32).transpose(1, 2),
            "squeeze_unsqueeze": lambda x: x[:, :1].squeeze(1).unsqueeze(-1),
            "view_of_batch": lambda x: x.view(x.shape[0], -1)[:, 3:50],
            "repeat": lambda x: x.repeat(1, 2, 1, 1),
            "expand": lambda x: x[:, :1].expand(-1, 4, -1, -1),
            "mean": lambda x: x.mean(dim=1),
            "mean_keep": lambda x: x - x.mean(dim=(1, 2, 3), keepdim=True),
            "sum": lambda x: x.sum(dim=(2, 3)),
            "amax": lambda x: x.amax(dim=(2, 3)) + x.amin(dim=(2, 3)),
            "norm": lambda x: x / x.norm(dim=1, keepdim=True),
            "normalize": lambda x: F.normalize(x, dim=1),
            "var": lambda x: x.var(dim=(2, 3)) + x.std(dim=(2, 3), unbiased=False),
            "cumulative": lambda x: x.cumsum(dim=1),
            "argmax": lambda x: x.argmax(dim=1).float(),
            "argmin": lambda x: x.flatten(2).argmin(dim=2).float(),
            "index_select": lambda x: x[:, [2, 0]],
            "select": lambda x: x[:, -1],
            "gather": lambda x: x.gather(1, x.argmax(dim=1, keepdim=True)),
            "one_hot": lambda x: F.one_hot(x.argmax(dim=1), 3).float(),
            "einsum": lambda x: torch.einsum("nchw,nciw->nhi", x, x),
            "pixel_shuffle": lambda x: F.pixel_unshuffle(x, 2) * 2,
            "upsample_nearest": lambda x: F.interpolate(x, scale_factor=2),
            "upsample_size": lambda x: F.interpolate(x, size=(12, 20)),
            "upsample_bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
            "upsample_corners": lambda x: F.interpolate(
                x, size=(15, 15), mode="bilinear", align_corners=True
            ),
            "downsample_bilinear": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"),
        }.items()
    },
    "prelu": layer(lambda: nn.PReLU(8)),
    "pixel_shuffle_up": layer(lambda: nn.PixelShuffle(2)),
    "channel_shuffle": layer(lambda: nn.ChannelShuffle(4)),
    "upsample_module": layer(lambda: nn.Upsample(scale_factor=2, mode="nearest")),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4)),
    "embedding": apply(codes, table=lambda: nn.Embedding(9, 5)),
    "unfold": layer(lambda: nn.Unfold(2, stride=2)),
    # attention
    "attention": tokens(attend, **QKV),
    "attention_scaled": tokens(lambda x, **own: attend(x, scale=0.3, **own), **QKV),
    "attention_causal": tokens(lambda x, **own: attend(x, is_causal=True, **own), **QKV),
    "attention_masked": tokens(
        lambda x, **own: attend(x, attn_mask=torch.ones(16, 16).tril(2).bool(), **own), **QKV
    ),
    "attention_biased": tokens(
        lambda x, **own: attend(x, attn_mask=torch.linspace(-1, 1, 256).reshape(16, 16), **own),
        **QKV,
    ),
    "attention_lonely_row": tokens(
        lambda x, **own: attend(x, attn_mask=torch.ones(16, 16).tril(-1).bool(), **own), **QKV
    ),
    "attention_grouped": tokens(
        lambda x, fc: F.scaled_dot_product_attention(
            by_head(fc(x), 4), by_head(fc(x), 4)[:, :2], by_head(x, 4)[:, 2:], enable_gqa=True
        ),
        fc=square,
    ),
    "attention_packed": tokens(packed, qkv=lambda: nn.Linear(12, 36)),
    "multihead_attention": tokens(
        multihead, attention=lambda: nn.MultiheadAttention(12, 3, batch_first=True)
    ),
    "multihead_attention_weights": tokens(
        with_weights, attention=lambda: nn.MultiheadAttention(12, 2, batch_first=True)
    ),
    "encoder_layer": tokens(
        lambda x, layer: layer(x),
        layer=lambda: nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True),
    ),
    "encoder_layer_gelu": tokens(
        lambda x, layer: layer(x),
        layer=lambda: nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, activation="gelu"),
    ),
    "class_token": ClassToken,
    # blocks
    "inverted_residual": apply(
        inverted_residual,
        grow=lambda: nn.Conv2d(3, 12, 1),
        depth=lambda: nn.Conv2d(12, 12, 3, padding=1, groups=12),
        squeeze=lambda: nn.Conv2d(12, 3, 1),
        excite=lambda: nn.Conv2d(3, 12, 1),
        shrink=lambda: nn.Conv2d(12, 3, 1),
    ),
    "dense_block": apply(
        lambda x, a, b: torch.cat([x, a(x), b(torch.cat([x, a(x)], dim=1))], dim=1).flatten(1),
        a=lambda: nn.Conv2d(3, 4, 3, padding=1),
        b=lambda: nn.Conv2d(7, 4, 3, padding=1),
    ),
    "unet": apply(
        lambda x, down, up, last: last(torch.cat([x, up(F.relu(down(x)))], dim=1)).flatten(1),
        down=lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1),
        up=lambda: nn.ConvTranspose2d(8, 5, 2, stride=2),
        last=lambda: nn.Conv2d(8, 2, 1),
    ),
}


def build(name: str) -> nn.Module:
    """A module of the table, with weights and statistics that are neither 0 nor 1."""
    torch.manual_seed(len(name))
    module = MODULES[name]()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return module.eval()
