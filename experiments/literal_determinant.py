"""The squared log-determinant exactly as the founding paper's code evaluates it, beside ours.

    python -m experiments.literal_determinant

Prints both, and the size of their gradients, for the factor shapes of the paper. The literal form
underflows (64×64), or is constant by construction where Aᵀ A is singular (fewer rows than
columns); nothing in the package uses it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sepdeploy.training.penalties.regularizers import condition_term, logdet_term

FLOOR = 1e-5
SHAPES = ((64, 64), (32, 64), (64, 32), (24, 32), (16, 16))


def literal_term(matrix: Tensor) -> Tensor:
    """[log(ε + |det(AᵀA)|)]² / (8k), ε = 1e-5, k = min(m, n), in the precision of A."""
    k = min(matrix.shape)
    return torch.log(FLOOR + torch.linalg.det(matrix.T @ matrix).abs()).square() / (8 * k)


def compare(rows: int, columns: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return (value, largest gradient entry) per term for a factor with Kaiming-uniform entries."""
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(columns)
    A = (torch.rand(rows, columns, generator=generator) * 2 - 1) * bound
    found: dict[str, tuple[float, float]] = {}
    for name, term in (
        ("literal", literal_term),
        ("logdet", logdet_term),
        ("condition", condition_term),
    ):
        leaf = A.clone().requires_grad_()
        value = term(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        found[name] = float(value.detach()), float(gradient.abs().max())
    return found


def main() -> None:
    print(f"{'factor':>8}  " + "".join(f"{n:>26}" for n in ("literal", "logdet", "condition")))
    for rows, columns in SHAPES:
        cells = (
            f"{value:12.4g} grad {gradient:8.1e}"
            for value, gradient in compare(rows, columns).values()
        )
        print(f"{rows:>4}x{columns:<3}  " + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
