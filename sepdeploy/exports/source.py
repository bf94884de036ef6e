"""What an export starts from, and what it answers: the same questions whatever it is.

A torch model and somebody else's ONNX file go one way from here: both are staged, quantised,
proven, vouched for and verified alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import BadInput
from sepdeploy.exporters.modes import TOLERANCE
from sepdeploy.records import InputSpec, LayerRecord, Notify

if TYPE_CHECKING:
    from onnx import ModelProto

    from sepdeploy.data.evalpack import EvalPack
    from sepdeploy.exports.named import NamedReference
    from sepdeploy.exports.options import EvaluationOptions, ExportOptions, Output
    from sepdeploy.records import Notify

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """What a file is compared with: inputs, and the outputs of its source.

    Attributes:
        inputs: float32 (N, *shape), not all zero.
        outputs: float32 (N, …), finite.
        kind: Of the inputs: "data" or "synthetic".
        batches: Batch sizes that a file is run with.
        said_by: Who gave the outputs, as a person reads it.
        ordinary: How many of the inputs, the first ones, are like what the source is meant for.
        tolerance: Largest max|Δ| / max|output| of each sample in a float file.
        notes: What could not be asked.
        others: What the source says at its further outputs to the first of the inputs, as many as
            the largest batch.
        otherwise: Asks another witness, whose word counts where a file is not what this one says.
    """

    inputs: Array
    outputs: Array
    kind: str
    batches: tuple[int, ...]
    said_by: str
    ordinary: int | None = None
    tolerance: NDArray[np.float64] | float = TOLERANCE
    notes: tuple[str, ...] = ()
    otherwise: Callable[[], Reference | None] = lambda: None
    others: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class Source(Protocol):
    """What is exported.

    A source of one float sample and logits is proven by a ``Reference``, whose ``others`` holds the
    outputs beside the main one; every other one by its ports, with a ``NamedReference``.

    Attributes:
        path: Its file; exported files take its stem.
    """

    path: Path

    @property
    def input(self) -> InputSpec | None:
        """What its one float sample looks like, None where it takes something else."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it comes from, for the manifest: data, objective, attack radius."""
        ...

    @property
    def layers(self) -> tuple[LayerRecord, ...]:
        """The layer table."""
        ...

    @property
    def canonical(self) -> ModelProto:
        """The canonical graph, weights included."""
        ...

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that files made from it are proven with."""
        ...

    def outputs(self, options: ExportOptions, out_dir: Path) -> tuple[Output, ...]:
        """Return the files to write.

        Raises:
            BadInput: There is none, or one would replace what is not ours.
        """
        ...

    def pack(self, wanted: EvaluationOptions, notify: Notify) -> EvalPack | None:
        """Return the evaluation pack, None where there is no data or none is wanted.

        Raises:
            BadInput: Data or attack cannot be used.
        """
        ...

    def reference(
        self, images: Array | None, batches: tuple[int, ...], seed: int
    ) -> Reference | NamedReference:
        """Return inputs and what the source itself says to them.

        Args:
            images: Inputs to take; None for synthetic ones.
            batches: Batch sizes; as many inputs are taken as the largest has.
            seed: Of synthetic inputs.

        Raises:
            BadInput: The source cannot be run, or gives values that are not finite.
            Missing: What runs it is not installed.
        """
        ...

    def wrong(self, error: BadInput) -> BadInput:
        """Return the error for a file that cannot be made of it."""
        ...

    def close(self) -> None:
        """Free what ``reference`` needed; graph and layer table stay."""
        ...
