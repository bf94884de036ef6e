"""What layers cost, counted; ``benchmarks/training.py`` has the clock."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from sepdeploy.layers import KronLinear


def test_a_training_step_multiplies_no_more_than_its_matrix_products():
    """64×64 ⊗ 64×64 at batch 128: six products of (8192, 64) with (64, 64), forward and back."""
    samples, n = 128, 64
    X, G = torch.randn(samples * n, n), torch.randn(samples * n, n)
    A, B = torch.randn(n, n), torch.randn(n, n)
    layer = KronLinear((n, n), (n, n))
    x = torch.randn(samples, n, n, requires_grad=True)
    gradient = torch.randn(samples, n, n)

    def bare():
        t = X @ B.t()
        _ = t @ A.t(), G @ A, G.t() @ t, G.t() @ X, G @ B

    def step():
        layer(x).backward(gradient)

    counted = []
    for run in (bare, step):
        with FlopCounterMode(display=False) as counter:
            run()
        counted.append(counter.get_total_flops())
    assert counted[0] == 6 * 2 * samples * n * n * n
    assert counted[1] == counted[0]
