"""What a layer costs in an ONNX file, estimated; the planner takes the cheapest form.

Microseconds on one core of a current x86 server, fitted to ONNX Runtime 1.31 over 44 layers (64 …
25088 features, one to six modes, one to four terms, batches 1 and 32): the form of the lowest
estimate is within 1.25× of the fastest one measured in each of them, 1.00× in the median. Only
the order of two estimates matters. What decides it:

* a product with few columns leaves vector units idle: N columns run at N/(N + 12) of full speed;
* the product with a factor on the left is batched, each of the small ones costs something;
* so does each node and each element of a transpose, most where many small blocks are transposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sepdeploy.structures import Spec

BATCHES = (1, 1, 32)  # what a choice is made for: edge devices mostly see one sample at a time
RUN = 2.1  # of one call of the runtime, the same for every form
NODE = 0.19  # of one node
MACS_PER_US = 110e3
IDLE_COLUMNS = 12
BYTES_PER_US = ((1 << 20, 100e3), (1 << 25, 70e3), (1 << 62, 44e3))  # dense weights, by size


@dataclass(frozen=True)
class Work:
    """Nodes, and microseconds per sample beside them."""

    nodes: int
    sample: float

    def __add__(self, other: Work) -> Work:
        return Work(self.nodes + other.nodes, self.sample + other.sample)

    def estimate(self, batch: int) -> float:
        """Microseconds of one run."""
        return RUN + NODE * self.nodes + self.sample * batch

    @property
    def cost(self) -> float:
        """What the planner compares: the geometric mean of the estimates over ``BATCHES``."""
        return math.prod(self.estimate(b) for b in BATCHES) ** (1 / len(BATCHES))


def product(rows: float, inner: float, columns: float, nodes: int = 2) -> Work:
    """A matrix product, and the reshape before it."""
    return Work(nodes, rows * inner * columns / MACS_PER_US * (1 + IDLE_COLUMNS / columns))


def dense_cost(spec: Spec) -> float:
    """Cost of the multiplied-out matrix."""
    return dense_work(spec.in_features, spec.out_features).cost


def dense_work(n_in: int, n_out: int) -> Work:
    """One product; reading the weights takes at least as long as using them once."""
    size = 4 * n_in * n_out
    speed = next(v for bound, v in BYTES_PER_US if size <= bound)
    return Work(1, max(product(1, n_in, n_out).sample, size / speed / max(BATCHES)))
