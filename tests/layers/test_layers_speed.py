import statistics
import time

import pytest
import torch

from sepdeploy.layers import KronLinear


@pytest.mark.slow
def test_a_training_step_costs_little_more_than_its_matrix_products():
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
        x.grad = None
        layer.zero_grad()
        layer(x).backward(gradient)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = {bare: [], step: []}
        for _ in range(40):
            for run, taken in times.items():
                start = time.process_time()
                run()
                taken.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    # processor time, the fastest third: other work on the machine only ever adds
    best = {run: statistics.median(sorted(taken)[:14]) for run, taken in times.items()}
    assert best[step] <= 1.6 * best[bare]
