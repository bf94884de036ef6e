"""Parity of quantised files: how far their logits may be from the model's.

A quantised file differs from its model by design, so the fp32 tolerance cannot be asked of it.
What can be asked separates two groups that lie far apart. Correct int8 files were measured at a
relative L2 distance of 0.009 to 0.033 (small nets), 0.08 (a dense layer with random weights) and
0.16 (ViT). Files that load and are silently wrong were measured at 0.32 (dynamic-range batched
products on built-in kernels), at a cosine of 0.61, 0.54, 0.44 and 0.00 (a relative distance of at
least 0.79) and at all zeros (exactly 1). The bounds stand between the groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

MOST_DISTANCE = 0.2  # relative L2 of the logits
LEAST_COSINE = 0.95  # of the logits centred over the batch
LEAST_AGREEMENT = 0.9  # of labels, over images that are decided


@dataclass(frozen=True)
class Distance:
    """How far logits are from reference logits.

    Attributes:
        rel_l2: ‖Δ‖ / ‖reference‖ over the batch.
        cosine: Of both, centred over the batch; 1 where the reference does not vary.
        agreement: Share of equal labels over the decided images: those whose two largest
            reference logits differ by more than ``MOST_DISTANCE`` allows both to move. 1 where
            none is decided.
    """

    rel_l2: float
    cosine: float
    agreement: float

    @property
    def passed(self) -> bool:
        """Whether a quantised file may be this far off."""
        return (
            self.rel_l2 <= MOST_DISTANCE
            and self.cosine >= LEAST_COSINE
            and self.agreement >= LEAST_AGREEMENT
        )


def distance(logits: Array, reference: Array) -> Distance:
    """Compare logits (N, classes) with reference logits; anything not finite is infinitely far."""
    a, b = logits.astype(np.float64), reference.astype(np.float64)
    if not np.isfinite(a).all():
        return Distance(float("inf"), 0.0, 0.0)
    scale = float(np.linalg.norm(b))
    rel = float(np.linalg.norm(a - b)) / scale if scale else float(np.any(a))
    return Distance(rel, _cosine(a, b), _agreement(a, b))


def _cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    varies = float(np.abs(b).max(initial=0.0)) * 1e-6 * np.sqrt(b.size)
    if len(a) > 1:
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if norms[1] <= varies:
        return 1.0
    return float(np.vdot(a, b)) / (norms[0] * norms[1]) if norms[0] else 0.0


def _agreement(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    if b.shape[1] < 2:
        return 1.0
    top = np.sort(b, axis=1)
    allowed = MOST_DISTANCE * float(np.sqrt(np.mean(np.square(b))))
    decided = top[:, -1] - top[:, -2] > 2 * allowed
    if not decided.any():
        return 1.0
    same = a.argmax(axis=1) == b.argmax(axis=1)
    return float(np.mean(same[decided]))
