"""The evaluation pack, ``STEM.eval.npz``: what is needed to judge an artifact without torch.

Test images with labels and ids, adversarial examples made on the torch model, the model's logits
on both, and where all of it came from. Plain arrays in an ``.npz``; never pickled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.data.archive import FACTS, packed, table_of, unpacked
from sepdeploy.errors import BadInput
from sepdeploy.files import write_bytes

PACK_LIMIT = 16 << 20  # bytes
_ARRAYS = ("images", "labels", "ids", "logits", "adversarial", "adversarial_logits")
# name, kinds of its numbers (numpy's letters), how many dimensions it may have
_FORMS = (
    ("images", "uf", range(2, 6)),
    ("labels", "iu", (1,)),
    ("ids", "iu", (1,)),
    ("logits", "f", (2,)),
    ("adversarial", "f", range(2, 6)),
    ("adversarial_logits", "f", (2,)),
)


@dataclass(frozen=True)
class EvalPack:
    """Evaluation data of one export.

    Attributes:
        images: (N, *shape), uint8 (0..255) or float32 in [0, 1].
        labels: (N,) int64.
        ids: (N,) int64, positions in the test set.
        logits: (N, classes) float32 of the torch model on ``images``.
        adversarial: (N, *shape) float32, or None when the pack has no attack.
        adversarial_logits: (N, classes) of the torch model on ``adversarial``, or None.
        provenance: Data set, attack (name, eps, norm, steps, restarts, seed), model digest.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    adversarial: NDArray[np.float32] | None = None
    adversarial_logits: NDArray[np.float32] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def clean(self) -> NDArray[np.float32]:
        """Return the images as float32 in [0, 1]."""
        return as_float(self.images)


def as_float(images: NDArray[Any]) -> NDArray[np.float32]:
    """Return images as float32 in [0, 1]; uint8 is divided by 255."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(images, dtype=np.float32)


def fits(shape: tuple[int, ...], classes: int, *, uint8: bool, attacked: bool) -> int:
    """Return how many samples of one shape a pack can hold."""
    values = int(np.prod(shape))
    sample = values * (1 if uint8 else 4) + 16 + 4 * classes
    if attacked:
        sample += 4 * values + 4 * classes
    return max(1, (PACK_LIMIT - 4096) // sample)


def write_pack(pack: EvalPack, path: Path) -> None:
    """Write a pack atomically.

    Raises:
        BadInput: The folder cannot be written, or the pack would exceed 16 MiB.
    """
    arrays: dict[str, NDArray[Any]] = {
        "images": pack.images,
        "labels": pack.labels,
        "ids": pack.ids,
        "logits": pack.logits,
        FACTS: table_of(pack.provenance),
    }
    if pack.adversarial is not None and pack.adversarial_logits is not None:
        arrays["adversarial"] = pack.adversarial
        arrays["adversarial_logits"] = pack.adversarial_logits
    total = sum(a.nbytes for a in arrays.values())
    if total > PACK_LIMIT:
        raise BadInput(
            f"evaluation pack of {total} bytes exceeds {PACK_LIMIT}: use fewer samples",
            hint="--samples with a smaller number, or --no-eval",
        )
    write_bytes(path, packed(arrays))


def read_pack(path: Path) -> EvalPack:
    """Read and check a pack.

    Raises:
        BadInput: Not a pack, truncated, too large, or its arrays do not fit together.
    """
    hint = "export the model again, or pass --data to judge on the data set itself"
    arrays, provenance = unpacked(path, _ARRAYS, what="evaluation pack", hint=hint)
    try:
        pack = EvalPack(provenance=provenance, **arrays)
    except TypeError as error:
        raise BadInput(f"{path} is not a readable evaluation pack: {error}", hint=hint) from error
    _check(pack, path, hint)
    return pack


def _check(pack: EvalPack, path: Path, hint: str) -> None:
    if not isinstance(pack.provenance.get("attack"), dict | None):
        raise BadInput(f"{path}: provenance: attack: no table", hint=hint)
    for name, kinds, dimensions in _FORMS:
        values = getattr(pack, name)
        if values is None:
            continue
        if values.dtype.kind not in kinds:
            raise BadInput(f"{path}: '{name}' does not hold numbers of its kind", hint=hint)
        if values.ndim not in dimensions or len(values) != len(np.atleast_1d(pack.labels)):
            raise BadInput(
                f"{path}: the arrays of the evaluation pack do not fit together", hint=hint
            )
        if not np.isfinite(values).all():
            raise BadInput(f"{path}: '{name}' holds NaN or infinite values", hint=hint)
    shapes = [(pack.adversarial, pack.images), (pack.adversarial_logits, pack.logits)]
    if not len(pack) or any(a is not None and a.shape != b.shape for a, b in shapes):
        raise BadInput(f"{path}: the arrays of the evaluation pack do not fit together", hint=hint)
    if pack.labels.min() < 0 or pack.labels.max() >= pack.logits.shape[1]:
        raise BadInput(f"{path}: 'labels' names classes that the model does not have", hint=hint)
