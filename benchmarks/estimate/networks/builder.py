"""A network written down as the operations that a runtime does, from the shape of one image on."""

from __future__ import annotations

from sepdeploy.devices.estimate.op import Op

FLOAT = 4  # bytes


def rounded(channels: float, step: int = 8) -> int:
    """Return channels as a multiple of ``step``, at most a tenth below what was asked for."""
    found = max(step, int(channels + step / 2) // step * step)
    return found + step if found < 0.9 * channels else found


class Builder:
    """Collects operations while it follows the shape of one image (channels, side).

    Activations and normalisations are fused into the convolutions, as every runtime of the table
    does; ``swish`` are those that are not.
    """

    def __init__(self, side: int = 224, channels: int = 3) -> None:
        self.ops: list[Op] = []
        self.side, self.channels = side, channels

    def _add(self, kind: str, macs: int, weights: int, values: int) -> None:
        name = f"{len(self.ops)}:{kind}"
        self.ops.append(Op(name, kind, macs, weights * FLOAT, values * FLOAT))

    def conv(
        self,
        out: int,
        size: int | tuple[int, int],
        stride: int = 1,
        pad: int | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """Add a convolution; ``keep`` leaves the shape as it was (a branch beside the trunk)."""
        high, wide = (size, size) if isinstance(size, int) else size
        edge = max(high, wide)
        side = (self.side + 2 * (edge // 2 if pad is None else pad) - edge) // stride + 1
        weights = out * self.channels * high * wide
        values = self.channels * self.side**2 + out * side**2
        kind = {1: "conv1x1", 9: "conv3x3"}.get(high * wide, "conv")
        self._add(kind, weights * side**2, weights + out, values)
        if not keep:
            self.channels, self.side = out, side

    def depthwise(self, stride: int, size: int = 3) -> None:
        """Add a depthwise convolution."""
        side = (self.side - 1) // stride + 1
        values = self.channels * (self.side**2 + side**2)
        area = size * size
        self._add("depthwise", area * self.channels * side**2, (area + 1) * self.channels, values)
        self.side = side

    def pool(self, side: int) -> None:
        """Add a pooling to a given side."""
        values = self.channels * (self.side**2 + side**2)
        self._add("elementwise", 0, 0, values)
        self.side = side

    def add(self) -> None:
        """Add the sum of two tensors of the current shape."""
        self._add("elementwise", 0, 0, 3 * self.channels * self.side**2)

    def swish(self) -> None:
        """Add an activation that is a pass of its own."""
        self._add("elementwise", 0, 0, 2 * self.channels * self.side**2)

    def squeeze(self, inner: int) -> None:
        """Add a squeeze-and-excitation: channels scaled by what a small network makes of them."""
        side, channels = self.side, self.channels
        self.pool(1)
        self.dense(inner)
        self.dense(channels)
        self.side = side
        self.swish()

    def dense(self, out: int) -> None:
        """Add a fully connected layer."""
        inputs = self.channels * self.side**2
        self._add("matmul", inputs * out, inputs * out + out, inputs + out)
        self.channels, self.side = out, 1

    def branches(
        self, *outs: tuple[tuple[int, int | tuple[int, int]], ...], pooled: int = 0
    ) -> None:
        """Add chains of convolutions that start from one tensor and whose ends are joined.

        Args:
            outs: Each chain's convolutions: channels and size.
            pooled: Channels of a branch of a pooling and a 1×1 convolution; 0 = none.
        """
        side, channels, total = self.side, self.channels, 0
        for chain in outs:
            self.channels = channels
            for out, size in chain:
                self.conv(out, size)
            total += self.channels
        if pooled:
            self.channels = channels
            self.pool(side)
            self.conv(pooled, 1)
            total += pooled
        self.channels = total
