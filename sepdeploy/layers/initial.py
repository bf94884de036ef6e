"""Initial values that keep the variance of the signal from layer to layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

RELU_GAIN = math.sqrt(2)


def orthogonal_(matrix: Tensor, gain: float = 1.0) -> None:
    """Fill a matrix as ``nn.init.orthogonal_`` does, of any floating type."""
    if matrix.dtype in (torch.float32, torch.float64):
        nn.init.orthogonal_(matrix, gain)
        return
    with torch.no_grad():
        matrix.copy_(nn.init.orthogonal_(matrix.new_empty(matrix.shape, dtype=torch.float32), gain))


def scaled_orthogonal_(tensor: Tensor, gain: float) -> Tensor:
    """Fill (…, o, i) matrices with equal singular values and mean square entry gain²/i.

    A (semi-)orthogonal o×i matrix has mean square 1/max(o, i); the factor sqrt(max(o, i)/i)
    brings that to 1/i, the variance rule of a layer with i inputs, at condition number 1.
    """
    if tensor.is_meta:  # a network built for its shapes only
        return tensor
    rows, columns = tensor.shape[-2:]
    scale = gain * math.sqrt(max(rows, columns) / columns)
    with torch.no_grad():
        for matrix in tensor.reshape(-1, rows, columns):
            orthogonal_(matrix, scale)
    return tensor


def orthogonal_stack_(stack: Tensor, gain: float) -> Tensor:
    """As ``scaled_orthogonal_`` of a stack (n, o, i) of many small matrices, all at once."""
    if stack.is_meta:
        return stack
    count, rows, columns = stack.shape
    kind = stack.dtype if stack.dtype == torch.float64 else torch.float32
    drawn = torch.randn(count, max(rows, columns), min(rows, columns), dtype=kind)
    Q, R = torch.linalg.qr(drawn)
    Q = Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # uniform over all orthogonal matrices
    scale = gain * math.sqrt(max(rows, columns) / columns)
    with torch.no_grad():
        stack.copy_((Q if rows >= columns else Q.mT) * scale)
    return stack
