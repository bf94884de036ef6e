"""The product as plain functions; the command line calls exactly these.

Every function raises errors of ``sepdeploy.errors`` for what a user can put right, prints
nothing, and imports what it needs inside, so that torch is loaded only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepdeploy.api.results import check as check
from sepdeploy.api.results import compare as compare
from sepdeploy.api.results import report as report
from sepdeploy.api.results import update_baseline as update_baseline
from sepdeploy.exports.options import ATTACKED as ATTACKED
from sepdeploy.exports.options import EvaluationOptions as EvaluationOptions
from sepdeploy.exports.options import ExportOptions as ExportOptions
from sepdeploy.exports.options import JudgingOptions as JudgingOptions
from sepdeploy.exports.options import ModelOptions as ModelOptions
from sepdeploy.exports.options import Seeded as Seeded
from sepdeploy.exports.requirements import require_torch
from sepdeploy.records import BenchReport, Manifest, Notify
from sepdeploy.settings import filled, takes
from sepdeploy.training.recipe.fields import Recipe as Recipe
from sepdeploy.workflows.bench.options import BenchOptions as BenchOptions
from sepdeploy.workflows.options import CompareOptions as CompareOptions
from sepdeploy.workflows.options import CompressOptions as CompressOptions
from sepdeploy.workflows.options import FrequencyOptions as FrequencyOptions
from sepdeploy.workflows.options import InspectOptions as InspectOptions
from sepdeploy.workflows.options import ProofOptions as ProofOptions
from sepdeploy.workflows.options import VerifyOptions as VerifyOptions
from sepdeploy.workflows.reporting.options import ReportOptions as ReportOptions

if TYPE_CHECKING:
    from sepdeploy.models import Model
    from sepdeploy.workflows.attacking import AttackSummary
    from sepdeploy.workflows.comparing import LayersReport
    from sepdeploy.workflows.compressing import CompressSummary
    from sepdeploy.workflows.diagnosing import Finding
    from sepdeploy.workflows.inspecting import InspectReport
    from sepdeploy.workflows.training import TrainSummary
    from sepdeploy.workflows.verifying import VerifyReport


def _ignore(_: Any) -> None:
    """Nobody watches."""


@takes(Recipe)
def train(
    recipe: str | Path | None = None,
    *,
    out: str | Path = "model.pt",
    start: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Any], None] = _ignore,
    **overrides: Any,
) -> TrainSummary:
    """Train a model by a recipe file, flags, or both (flags win); see ``training.Recipe``.

    Writes ``out``, ``STEM.history.jsonl`` and, until it is finished, ``STEM.training.pt``.

    Args:
        recipe: TOML file or the name of a shipped recipe; None for defaults.
        out: The model file.
        start: A trained model of the same arch and widths, to start from its nearest layers.
        resume: Continue an interrupted training to the same result.
        on_progress: Called with each ``training.Event``.
        overrides: Fields of the recipe.

    Raises:
        BadInput: An unknown or impossible setting, missing data, or a diverged loss.
        Missing: torch is not installed.
    """
    require_torch("train")
    from sepdeploy.workflows.training import train_model

    path, begin = (None if given is None else Path(given) for given in (recipe, start))
    return train_model(
        path, Path(out), start=begin, resume=resume, on_progress=on_progress, overrides=overrides
    )


@takes(CompressOptions)
def compress(
    model: str | Path,
    options: CompressOptions | None = None,
    *,
    out: str | Path | None = None,
    on_plan: Callable[[CompressSummary], None] = _ignore,
    on_progress: Callable[[Any], None] = _ignore,
    **overrides: Any,
) -> CompressSummary:
    """Project a trained dense model onto structured layers under one budget.

    Args:
        model: A model file.
        options: What is asked for; its fields are taken one by one too, as below.
        out: The model file; default ``STEM-STRUCTURE.pt`` beside the model.
        on_plan: Shown the plan before anything is projected.
        on_progress: Called with each ``training.Event`` of the fine-tuning.
        **overrides: Fields of ``CompressOptions``.

    Raises:
        BadInput: A form that fits no layer, a budget out of reach, a file that cannot be used.
        Missing: torch is not installed.
    """
    require_torch("compress a model")
    from sepdeploy.workflows.compressing import compress_file

    wanted = filled(options or CompressOptions(), overrides, "compress")
    target = None if out is None else Path(out)
    return compress_file(Path(model), target, wanted, on_plan=on_plan, on_progress=on_progress)


@takes(ExportOptions, EvaluationOptions, ModelOptions)
def export(
    model: Model | str | Path,
    stem: str | Path | None = None,
    *,
    out_dir: str | Path | None = None,
    notify: Notify = _ignore,
    **options: Any,
) -> Manifest:
    """Write ``STEM.onnx``, ``STEM.tflite``, manifest and evaluation pack, each proven.

    Args:
        model: A model file; a model in memory together with ``stem``; or an .onnx file of others.
        stem: Path without suffix; the model in memory is saved as ``STEM.pt`` first.
        out_dir: Folder of the exported files; default beside the model file.
        notify: Told what goes on.
        **options: Fields of ``ExportOptions``, ``EvaluationOptions`` and ``ModelOptions``.

    Raises:
        ArtifactCheckFailed: Parity or re-densification check failed; nothing was written.
        BadInput: A file, name or layer that cannot be used.
        Missing: torch is not installed.
    """
    from sepdeploy.workflows.exporting import export_any

    every = (ExportOptions, EvaluationOptions, ModelOptions)
    return export_any(
        model,
        stem,
        None if out_dir is None else Path(out_dir),
        arch=filled(ModelOptions(), options, "export", besides=every).arch,
        options=filled(ExportOptions(), options, "export", besides=every),
        evaluation=filled(EvaluationOptions(), options, "export", besides=every),
        notify=notify,
    )


@takes(ProofOptions)
def verify(
    manifest: str | Path | None = None, *, notify: Notify = _ignore, **options: Any
) -> VerifyReport:
    """Recompute digests, parity and the re-densification check of one export or a folder of them.

    Args:
        manifest: A manifest or a folder; default: the current folder.
        notify: Told what goes on.
        **options: Fields of ``ProofOptions``.

    The report's ``exit_code`` is 6 when a check failed.

    Raises:
        BadInput: No manifest, or one that cannot be read.
    """
    from sepdeploy.workflows.verifying import verify_exports

    path = None if manifest is None else Path(manifest)
    return verify_exports(path, filled(ProofOptions(), options, "verify"), notify)


@takes(ProofOptions)
def verify_layers(
    manifest: str | Path | None = None, *, notify: Notify = _ignore, **options: Any
) -> LayersReport:
    """Compare every layer of an export's files with the model they were made from.

    Args:
        manifest: A manifest or a folder; default: the current folder.
        notify: Told what goes on.
        **options: Fields of ``ProofOptions``.

    The report's ``exit_code`` is 6 when logits disagree.

    Raises:
        BadInput: No manifest, or a file that cannot be read.
        Missing: Nothing to compare with: neither the model with torch nor a second file.
    """
    from sepdeploy.workflows.comparing import compare_exports
    from sepdeploy.workflows.verifying import find_manifests

    found = find_manifests(None if manifest is None else Path(manifest))
    return compare_exports(found, filled(ProofOptions(), options, "verify_layers"), notify)


@takes(CompareOptions)
def compare_artifacts(
    path: str | Path, other: str | Path, *, runtime: str | None = None, **options: Any
) -> LayersReport:
    """Compare two artifacts at every layer whose name both have, and at every output.

    Args:
        path: An artifact, or a manifest for each of its files.
        other: An artifact, or a manifest for its file of the same format.
        runtime: Of ``path``; by default the first one installed for its format.
        **options: Fields of ``CompareOptions``.

    The report's ``exit_code`` is 6 when outputs disagree.

    Raises:
        BadInput: A file is not usable, or the two take different inputs.
        Missing: No runtime is installed for a file.
    """
    from sepdeploy.workflows.comparing import compare_files

    wanted = filled(CompareOptions(), options, "compare_artifacts")
    return compare_files(Path(path), Path(other), wanted.seed, runtime, wanted.shapes)


@takes(BenchOptions)
def bench(
    artifacts: Sequence[str | Path] = (),
    options: BenchOptions | None = None,
    *,
    notify: Notify = _ignore,
    on_report: Callable[[BenchReport], None] = _ignore,
    **overrides: Any,
) -> BenchReport:
    """Measure artifacts: size, memory, latency, and clean and adversarial accuracy of the files.

    Args:
        artifacts: .onnx, .tflite or manifest files; default: every manifest of the folder.
        options: What is asked for; its fields are taken one by one too, as below.
        notify: Told what goes on.
        on_report: Given what was measured, even where a device failed.
        **overrides: Fields of ``BenchOptions``.

    Raises:
        ArtifactCheckFailed: A file is not the one its manifest describes.
        BadInput, Missing: A file or name cannot be used; a device, runtime or kind is absent.
    """
    from sepdeploy.workflows.bench.benching import bench_artifacts

    wanted = filled(options or BenchOptions(), overrides, "bench")
    return bench_artifacts([Path(a) for a in artifacts], wanted, notify, on_report)


@takes(FrequencyOptions)
def inspect(file: str | Path, *, notify: Notify = _ignore, **options: Any) -> InspectReport:
    """Describe the layers of a .pt, .onnx or .tflite file, and which frequencies it depends on.

    Args:
        file: The file.
        notify: Told what goes on.
        **options: Fields of ``FrequencyOptions``.

    Raises:
        BadInput: Unreadable; or frequencies of what are no images.
        Missing: A .pt file without torch installed; or no data set for frequencies at hand.
    """
    from sepdeploy.workflows.inspecting import inspect_file

    return inspect_file(Path(file), filled(FrequencyOptions(), options, "inspect"), notify)


@takes(JudgingOptions, ModelOptions)
def attack(
    model: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    notify: Notify = _ignore,
    on_progress: Callable[[Any], None] = _ignore,
    **options: Any,
) -> AttackSummary:
    """Write an adversarial set (an evaluation pack) against a model; say what came of it.

    Args:
        model: A model file.
        out: The set (.npz); its state is beside it until it is finished, ``STEM.unfinished.npz``.
        resume: Continue an interrupted attack to the same result.
        notify: Told what goes on.
        on_progress: Called with an ``attacks.course.News`` before every batch.
        **options: Fields of ``JudgingOptions`` and ``ModelOptions``.

    Raises:
        BadInput: A file, name or data set that cannot be used.
        Missing: torch is not installed.
    """
    require_torch("attack a model")
    from sepdeploy.workflows.attacking import attack_model

    return attack_model(Path(model), Path(out), options, resume, notify, on_progress)


def diagnose() -> tuple[Finding, ...]:
    """Look for every runtime, package and tool that sepdeploy can use."""
    from sepdeploy.workflows.diagnosing import diagnose as look

    return look()


def setup_device(device: str, *, notify: Notify = _ignore) -> None:
    """Fetch and build what emulating a device needs, into the user's cache.

    Args:
        device: Device id or profile file.
        notify: Told what will be downloaded and how much, then what is done.

    Raises:
        BadInput: No such device.
        Missing: A tool or the network (with the commands that help), or a core to emulate.
    """
    from sepdeploy.workflows.device_setup import set_up

    set_up(device, notify=notify)


@takes(Seeded)
def demo(
    out: str | Path = "demo",
    *,
    notify: Notify = _ignore,
    on_progress: Callable[[Any], None] = _ignore,
    **options: Any,
) -> BenchReport:
    """Train, export, verify and bench a Kronecker net beside two dense ones on the digits.

    Args:
        out: Folder of the results.
        notify: Told what goes on.
        on_progress: Called with each ``training.Event``.
        **options: Fields of ``Seeded``.

    Raises:
        Missing: torch is not installed.
        ArtifactCheckFailed: An exported file failed its checks.
    """
    require_torch("run the demo")
    from sepdeploy.workflows.demonstration import run_demo

    wanted = filled(Seeded(), options, "demo")
    return run_demo(Path(out), seed=wanted.seed, notify=notify, on_progress=on_progress)
