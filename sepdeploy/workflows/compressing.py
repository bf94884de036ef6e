"""Compression for people: a trained model in, a plan, a smaller model out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sepdeploy.codec import ABSENT
from sepdeploy.compression import (
    CompressionPlan,
    LayerPlan,
    Tried,
    compress_model,
    plan_automatically,
    plan_compression,
)
from sepdeploy.errors import DATA, BadInput
from sepdeploy.exports.judged_images import find_data
from sepdeploy.exports.options import JudgingOptions
from sepdeploy.files import sha256_file
from sepdeploy.files.claims import claimed, outputs_of
from sepdeploy.models import Model, load, save
from sepdeploy.models.checkpoint import structure_forms
from sepdeploy.records import LayerRecord
from sepdeploy.structures import Form
from sepdeploy.threat import Attack
from sepdeploy.training import Event, Recipe, fit, joined, load_recipe
from sepdeploy.training.beside import TRAINED
from sepdeploy.training.events import judged_by
from sepdeploy.workflows.factored import merge_factored
from sepdeploy.workflows.options import AUTOMATIC, CompressOptions
from sepdeploy.workflows.training import export_command

COMPRESS_SCHEMA = "sepdeploy.compress/1"
INHERITED = ("data", "objective", "eps", "norm", "steps", "step_size", "seed")
ONLY_THE_SOURCES = ("accuracy", "best_epoch", "sparsity")  # keys of its provenance
DECIDED = ("structure", "target", "hidden", "conv_rank")  # keys of a recipe for new networks


@dataclass(frozen=True)
class CompressSummary:
    """A plan, and what came of it; accuracies are fractions in [0, 1].

    ``model`` is "" for a plan that was only shown. A layer's ``relative_error`` is expected until
    it is projected, then that of the projection: fine-tuning does not change it.
    """

    source: str
    model: str
    structure: str
    target: str
    measure: str
    limit: int | None
    params: int
    params_before: int
    macs: int
    macs_before: int
    layers: tuple[LayerPlan, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    arch: str = ""
    tried: Tried | None = field(default=None, metadata=ABSENT)
    schema: str = COMPRESS_SCHEMA

    def lines(self) -> list[str]:
        """Return the result as a few lines of text."""
        ratio = self.params_before / max(1, self.params)
        size = f"{self.params_before:,} → {self.params:,} parameters ({ratio:.1f}x fewer)"
        if not self.model:
            return [f"plan: {size}; nothing was written"]
        accuracy = self.provenance.get("accuracy")
        lines = [f"{self.model}: {size}"]
        unchanged = all(layer.structure == "dense" for layer in self.layers)
        if unchanged:
            lines.append("no layer was changed: nothing asked for is smaller, or nothing has to be")
        if accuracy:
            robust = accuracy["test_robust"]
            lines.append(
                f"fine-tuned: test clean {accuracy['test_clean']:.2%}"
                + ("" if robust is None else f", robust {robust:.2%} ({self._judged_by()})")
            )
        elif not unchanged:
            lines.append("not fine-tuned: expect to need it (--finetune RECIPE.toml)")
        return [*lines, f"next: {export_command(self.model, self.arch)}"]

    def _judged_by(self) -> str:
        found = self.provenance
        accuracy = found["accuracy"]
        attack = Attack(accuracy["attack"], found["eps"], found["norm"])
        return judged_by(attack, accuracy["n"], accuracy["no_gradient"])


def compress_file(
    path: Path,
    out: Path | None,
    options: CompressOptions,
    *,
    on_plan: Callable[[CompressSummary], None],
    on_progress: Callable[[Event], None],
) -> CompressSummary:
    """Plan, project, and fine-tune where asked; see ``sepdeploy.api.compress``.

    Of several processes that ``torchrun`` started, the first one shows the plan and writes.
    """
    with joined() as team, team.outlived("run the command again"), ExitStack() as stack:
        with team.agreed():
            model = load(path, arch=options.arch)
            recipe = None if options.finetune is None else _recipe(model, options.finetune, options)
            target = out or options.default_out(path)
            if team.first and not options.dry_run:
                stack.enter_context(claimed(outputs_of(TRAINED, target), (path,)))
            plan = _plan(model, options)
            summary = _summary(path, options, plan)
            if team.first:
                on_plan(summary)
        if options.dry_run:
            return summary
        with team.agreed():
            small, errors = compress_model(model, plan.changes)
            small.provenance = _provenance(model, path, options)
            if recipe is None and team.first:
                save(small, target)
        if recipe is not None:
            small = fit(
                recipe, out=target, resume=options.resume, on_progress=on_progress, model=small
            ).model
    return _made(summary, small, errors, target)


def _plan(model: Model, options: CompressOptions) -> CompressionPlan:
    target, measure, layers = options.target, options.budget, options.layers
    if options.structure != AUTOMATIC:
        return plan_compression(model, options.structure, target, measure=measure, layers=layers)
    name = options.data or model.provenance.get("data")
    if not isinstance(name, str):
        raise BadInput(
            f"structure '{AUTOMATIC}' measures on images, and the model names no data set",
            hint=DATA,
        )
    wanted = JudgingOptions(data=name, data_dir=options.data_dir)
    found = find_data(model.provenance, wanted, model.input.shape, lambda _: None)
    assert found is not None  # a set that is named must load
    part = found.train.take(options.calibration_samples, options.seed or 0)
    images = part.batch(slice(None))
    return plan_automatically(model, target, images, measure=measure, layers=layers)


def _made(
    summary: CompressSummary, small: Model, errors: dict[str, float], target: Path
) -> CompressSummary:
    """Return what was made; fine-tuning may have adapted ranks."""
    records, _ = merge_factored(small.layer_records())
    found = {record.name: record for record in records}
    forms = structure_forms(small.net)
    return replace(
        summary,
        model=str(target),
        layers=tuple(
            _as_made(x, found.get(x.name), forms.get(x.name), errors) for x in summary.layers
        ),
        params=small.params,
        macs=sum(record.macs for record in records),
        provenance=dict(small.provenance),
        arch=small.arch or "",
    )


def _as_made(
    layer: LayerPlan, record: LayerRecord | None, form: Form | None, errors: dict[str, float]
) -> LayerPlan:
    layer = replace(layer, relative_error=errors.get(layer.name, layer.relative_error))
    if record is None or form is None:
        return layer
    return replace(layer, structure=form.text, params=record.params, macs=record.macs)


def _recipe(model: Model, path: Path, options: CompressOptions) -> Recipe:
    """Read a fine-tuning recipe; what it does not say is taken from the model's own.

    Raises:
        BadInput: It cannot be used, or chooses a network, which is there already.
    """
    stored = model.provenance.get("recipe")
    known = stored if isinstance(stored, dict) else model.provenance
    inherited = {k: known[k] for k in INHERITED if known.get(k) is not None}
    inherited |= {"arch": model.arch} if model.arch else {}
    flags = {"data_dir": options.data_dir, "seed": options.seed}
    recipe = load_recipe(path, flags, defaults=inherited)
    chosen = [key for key in DECIDED if getattr(recipe, key)]
    chosen += ["arch"] if model.arch and recipe.arch != model.arch else []
    if chosen:
        raise BadInput(
            f"a fine-tuning recipe cannot choose the structure: {path} sets {', '.join(chosen)}",
            hint="leave these keys out; --structure and --target say what becomes of the model",
        )
    return recipe


def _provenance(model: Model, path: Path, options: CompressOptions) -> dict[str, Any]:
    """Where the model comes from; what only the large one's weights have does not pass on."""
    kept = {k: v for k, v in model.provenance.items() if k not in ONLY_THE_SOURCES}
    origin = {
        "source_sha256": sha256_file(path),
        "structure": options.structure,
        "target": options.target,
        "measure": options.budget,
        "source_accuracy": model.provenance.get("accuracy"),
    }
    return kept | {"compressed": origin}


def _summary(path: Path, options: CompressOptions, plan: CompressionPlan) -> CompressSummary:
    return CompressSummary(
        source=str(path),
        model="",
        structure=options.structure,
        target=options.target,
        measure=plan.measure,
        limit=plan.limit,
        params=plan.params,
        params_before=plan.params_before,
        macs=plan.macs,
        macs_before=plan.macs_before,
        layers=plan.layers,
        tried=plan.tried,
    )
