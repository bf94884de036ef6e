"""A torch model as the source of an export."""

from __future__ import annotations

import gc
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepdeploy.errors import BadInput, Missing
from sepdeploy.exports.judged_images import (
    choose_attacks,
    exact_logits,
    find_data,
    make_pack,
    reference_inputs,
    torch_logits,
)
from sepdeploy.exports.options import EvaluationOptions, ExportOptions, Output
from sepdeploy.exports.source import Array, Reference
from sepdeploy.exports.witness import witnessed
from sepdeploy.files import sha256_file
from sepdeploy.records import LayerRecord, Notify

if TYPE_CHECKING:
    from onnx import ModelProto

    from sepdeploy.data.evalpack import EvalPack
    from sepdeploy.models import Model


class TorchModel:
    """A model with torch, and the file that it was loaded from."""

    def __init__(self, model: Model, path: Path) -> None:
        from sepdeploy.models.accepting import check_float32
        from sepdeploy.models.computed_weights import with_plain_weights

        self.path = path
        self.input = model.input
        self.provenance: dict[str, Any] = dict(model.provenance)
        check_float32(model.net)
        self._model: Model | None = with_plain_weights(model)

    @property
    def model(self) -> Model:
        """The model, until the source is closed."""
        assert self._model is not None
        return self._model

    @cached_property
    def layers(self) -> tuple[LayerRecord, ...]:
        """The layer table."""
        return self.model.layer_records()

    @cached_property
    def canonical(self) -> ModelProto:
        """The canonical graph."""
        from sepdeploy.exporters.capture.trace import trace

        return trace(self.model)

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes by the work in the whole graph: attention counts as well."""
        from sepdeploy.exporters.graph_layers import graph_macs
        from sepdeploy.measure.proof.parity import batches_for

        return batches_for(graph_macs(self.canonical))

    def outputs(self, options: ExportOptions, out_dir: Path) -> tuple[Output, ...]:
        """Return the files to write: all that were asked for."""
        return options.outputs()

    def pack(self, wanted: EvaluationOptions, notify: Notify) -> EvalPack | None:
        """Return the evaluation pack, None where there is no data or none is wanted.

        Raises:
            BadInput: Data or attack cannot be used, or several attacks were asked for.
            Missing: An attack was asked for, and there are no images.
        """
        if not wanted.eval_pack:
            return None
        model = self.model
        data = find_data(model.provenance, wanted, model.input.shape, notify)
        if data is None and wanted.asks_for_an_attack:
            raise Missing(
                "no images to attack: the evaluation pack that was asked for cannot be made",
                hint="pass --data, and --data-dir where needed; or leave --attack and --eps out",
            )
        if data is None:
            notify("no data at hand: no evaluation pack; pass --data to get one")
            return None
        attacks = choose_attacks(model.provenance, wanted)
        if len(attacks) > 1:
            raise BadInput("an evaluation pack holds one attack", hint="pass a single --attack")
        if not attacks:
            notify("the model was not trained against an attack: the pack holds clean images only")
        return make_pack(
            model,
            data,
            attacks[0] if attacks else None,
            wanted,
            model_sha256=sha256_file(self.path),
            notify=notify,
        )

    def reference(self, images: Array | None, batches: tuple[int, ...], seed: int) -> Reference:
        """Return inputs and the model's logits; synthetic inputs are uniform in [0, 1]."""
        inputs, kind = reference_inputs(self.input.shape, images, max(batches), seed)
        return witnessed(
            partial(torch_logits, self.model),
            inputs,
            kind=kind,
            batches=batches,
            said_by="the torch model",
            exact=partial(exact_logits, self.model),
        )

    def wrong(self, error: BadInput) -> BadInput:
        """Return the error as it is: it names the layer."""
        return error

    def close(self) -> None:
        """Free the weights, which the graph holds now, and what the tracer left in cycles."""
        self._model = None
        gc.collect()
