"""The product as plain functions; the command line calls exactly these.

Every function raises errors of ``sepdeploy.errors`` for what a user can put right, prints
nothing, and imports what it needs inside, so that torch is loaded only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepdeploy.records import BenchReport, Manifest

if TYPE_CHECKING:
    from sepdeploy.gate import Baseline, Verdict
    from sepdeploy.models import Model
    from sepdeploy.workflows.comparing import LayersReport
    from sepdeploy.workflows.compressing import CompressSummary
    from sepdeploy.workflows.diagnosing import Finding
    from sepdeploy.workflows.inspecting import InspectReport
    from sepdeploy.workflows.training import TrainSummary
    from sepdeploy.workflows.verifying import VerifyReport

Notify = Callable[[str], None]


def _ignore(_: Any) -> None:
    """Nobody watches."""


def train(
    recipe: str | Path | None = None,
    *,
    out: str | Path = "model.pt",
    resume: bool = False,
    on_progress: Callable[[Any], None] | None = None,
    **overrides: Any,
) -> TrainSummary:
    """Train a model by a recipe file, flags, or both (flags win); see ``training.Recipe``.

    Writes ``out``, ``STEM.history.jsonl`` and, until it is finished, ``STEM.training.pt``.

    Args:
        recipe: TOML file, or None for defaults.
        out: The model file.
        resume: Continue an interrupted training to the same result.
        on_progress: Called with each ``training.Event``.
        overrides: Fields of the recipe.

    Raises:
        BadInput: An unknown or impossible setting, missing data, or a diverged loss.
        Missing: torch is not installed.
    """
    from sepdeploy.exports.requirements import require_torch

    require_torch("train")
    from sepdeploy.workflows.training import train_model

    path = None if recipe is None else Path(recipe)
    return train_model(
        path, Path(out), resume=resume, on_progress=on_progress or _ignore, overrides=overrides
    )


def compress(
    model: str | Path,
    *,
    structure: str = "kron",
    target: str | None = None,
    budget: str = "params",
    layers: str | Sequence[str] | None = None,
    finetune: str | Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    arch: str | None = None,
    data_dir: str | Path | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    on_plan: Callable[[CompressSummary], None] | None = None,
    on_progress: Callable[[Any], None] | None = None,
) -> CompressSummary:
    """Project a trained dense model onto structured layers under one budget.

    Args:
        model: A model file.
        structure: "kron", "lowrank" (convolutions too), an explicit form such as "lowrank:40" or
            "kron:28x28-64x64*2", or forms by layer: "fc1=kron,conv2=lowrank".
        target: "10x" smaller, or a number; needed where the structure leaves something open.
        budget: What the target counts: "params" or "macs".
        layers: Names or patterns of the layers to change; default all but the classifier.
        finetune: Recipe to train the result with; data and attack default to the model's own.
        resume: Continue an interrupted fine-tuning.
        dry_run: Only plan.
        arch: ``package.module:factory`` of a model file with the user's own architecture.
        data_dir: Folder of the data set.
        seed: Seed of the fine-tuning.
        out: The model file; default ``STEM-STRUCTURE.pt`` beside the model.
        on_plan: Shown the plan before anything is projected.
        on_progress: Called with each ``training.Event`` of the fine-tuning.

    Raises:
        BadInput: A form that fits no layer, a budget that no plan reaches (says the best
            reachable), or a file or recipe that cannot be used.
        Missing: torch is not installed.
    """
    from sepdeploy.exports.requirements import require_torch

    require_torch("compress a model")
    from sepdeploy.workflows.compressing import CompressOptions, compress_file, split_layers

    options = CompressOptions(
        structure=structure,
        target=target or "",
        measure=budget,
        layers=split_layers(layers),
        finetune=None if finetune is None else Path(finetune),
        resume=resume,
        dry_run=dry_run,
        data_dir=None if data_dir is None else str(data_dir),
        seed=seed,
    )
    return compress_file(
        Path(model),
        None if out is None else Path(out),
        options,
        arch=arch,
        on_plan=on_plan or _ignore,
        on_progress=on_progress or _ignore,
    )


def export(
    model: Model | str | Path,
    stem: str | Path | None = None,
    *,
    formats: Sequence[str] = ("onnx", "tflite"),
    flavour: str = "standard",
    out_dir: str | Path | None = None,
    arch: str | None = None,
    tflite_target: str = "litert",
    simplify: bool = True,
    quantize: str = "none",
    calibration_samples: int = 128,
    data: str | None = None,
    data_dir: str | Path | None = None,
    attack: str | None = None,
    eps: str | float | None = None,
    norm: str | None = None,
    samples: int = 1000,
    eval_pack: bool = True,
    seed: int = 0,
    notify: Notify = _ignore,
) -> Manifest:
    """Write ``STEM.onnx``, ``STEM.tflite``, manifest and evaluation pack, each proven.

    Args:
        model: A model file; a model in memory together with ``stem``; or somebody else's .onnx
            file, of which ``STEM.tflite`` is made.
        stem: Path without suffix; the model in memory is saved as ``STEM.pt`` first.
        formats: "onnx", "tflite".
        flavour: "standard", or "custom" (ONNX nodes of ai.sepdeploy with their function bodies).
        out_dir: Folder of the exported files; default beside the model file.
        arch: ``package.module:factory`` of a model file with the user's own architecture.
        tflite_target: "litert" or "tflite-runtime-2.14".
        simplify: Pass the standard ONNX flavour through onnxsim.
        quantize: "none"; "dynamic" (int8 weights), "static" (int8 weights and activations, by
            calibrated ranges), "auto" (per layer, float where int8 is measured slower), "fp16"
            (float16 weights, float32 arithmetic). The files keep their names and float32 input.
        calibration_samples: Training images that static quantisation is calibrated with.
        data: Data set of the evaluation pack; default: what the model was trained on.
        data_dir: Its folder.
        attack: Attack of the pack, e.g. "pgd-40"; default by the model's provenance.
        eps: Its radius, e.g. "8/255".
        norm: "linf" or "l2".
        samples: Images in the pack (fewer when 16 MiB do not hold them).
        eval_pack: False writes none.
        seed: Seed of everything random.
        notify: Told what goes on.

    Raises:
        ArtifactCheckFailed: Parity or re-densification check failed; nothing was written.
        BadInput: A file, name or layer that cannot be used.
        Missing: torch is not installed.
    """
    from sepdeploy.exports.options import EvaluationOptions, ExportOptions
    from sepdeploy.workflows.exporting import export_any

    return export_any(
        model,
        stem,
        None if out_dir is None else Path(out_dir),
        arch=arch,
        options=ExportOptions(
            formats=tuple(formats),
            flavour=flavour,
            tflite_target=tflite_target,
            simplify=simplify,
            quantize=quantize,
            calibration_samples=calibration_samples,
        ),
        evaluation=EvaluationOptions(
            data=data,
            data_dir=data_dir,
            attack=attack,
            eps=eps,
            norm=norm,
            samples=samples,
            wanted=eval_pack,
        ),
        seed=seed,
        notify=notify,
    )


def verify(
    manifest: str | Path | None = None,
    *,
    arch: str | None = None,
    seed: int = 0,
    notify: Notify = _ignore,
) -> VerifyReport:
    """Recompute digests, parity and the re-densification check of one export or a folder of them.

    Args:
        manifest: A manifest or a folder; default: the current folder.
        arch: ``package.module:factory`` of a model with the user's own architecture.
        seed: Seed of synthetic inputs, where there is no data.
        notify: Told what goes on.

    The report's ``exit_code`` is 6 when a check failed.

    Raises:
        BadInput: No manifest, or one that cannot be read.
    """
    from sepdeploy.workflows.verifying import verify_exports

    path = None if manifest is None else Path(manifest)
    return verify_exports(path, arch=arch, seed=seed, notify=notify)


def verify_layers(
    manifest: str | Path | None = None,
    *,
    arch: str | None = None,
    seed: int = 0,
    notify: Notify = _ignore,
) -> LayersReport:
    """Compare every layer of an export's files with the model they were made from.

    Args:
        manifest: A manifest or a folder; default: the current folder.
        arch: ``package.module:factory`` of a model with the user's own architecture.
        seed: Seed of synthetic inputs, where there is no data.
        notify: Told what goes on.

    The report's ``exit_code`` is 6 when logits disagree.

    Raises:
        BadInput: No manifest, or a file that cannot be read.
        Missing: Nothing to compare with: neither the model with torch nor a second file.
    """
    from sepdeploy.workflows.comparing import compare_exports
    from sepdeploy.workflows.verifying import find_manifests

    found = find_manifests(None if manifest is None else Path(manifest))
    return compare_exports(found, arch=arch, seed=seed, notify=notify)


def compare_artifacts(
    path: str | Path, other: str | Path, *, runtime: str | None = None, seed: int = 0
) -> LayersReport:
    """Compare two artifacts at every layer whose name both have, and at the logits.

    Args:
        path: An artifact, or a manifest for each of its files.
        other: An artifact, or a manifest for its file of the same format.
        runtime: Of ``path``; by default the first one installed for its format.
        seed: Seed of the inputs, where no manifest names an evaluation pack.

    The report's ``exit_code`` is 6 when logits disagree.

    Raises:
        BadInput: A file is not usable, or the two take different inputs.
        Missing: No runtime is installed for a file.
    """
    from sepdeploy.workflows.comparing import compare_files

    return compare_files(Path(path), Path(other), seed=seed, runtime=runtime)


def bench(
    artifacts: Sequence[str | Path] = (),
    *,
    device: str = "host",
    attack: str | None = None,
    eps: str | float | None = None,
    norm: str | None = None,
    samples: int = 1000,
    data: str | None = None,
    data_dir: str | Path | None = None,
    runtime: str | None = None,
    threads: int = 1,
    batch: int = 1,
    dense: str | Path | None = None,
    against: str | Path | None = None,
    calibrate: bool = False,
    host: str | None = None,
    serial: str | None = None,
    runner: str | Path | None = None,
    sustained: float = 0.0,
    record: str | Path | None = None,
    save_anchor: bool = False,
    require: str | None = None,
    seed: int = 0,
    notify: Notify = _ignore,
    on_report: Callable[[BenchReport], None] = _ignore,
) -> BenchReport:
    """Measure artifacts: size, memory, latency, and clean and adversarial accuracy of the files.

    Args:
        artifacts: .onnx, .tflite or manifest files; default: every manifest of the folder.
        device: Device id, or several separated by commas.
        attack: Attacks such as "pgd-40,fgsm"; default by the model's provenance.
        eps: Radius of the attack.
        norm: "linf" or "l2".
        samples: Test images judged.
        data: Data set; default: what the model was trained on, else the evaluation pack.
        data_dir: Its folder.
        runtime: One runtime; default: every installed one for the format.
        threads: Threads of the runtime.
        batch: Batch size of the latency measurement.
        dense: A dense file to time against instead of the embedded graph's dense form.
        against: An older file of the same format, timed in turns with the new one.
        calibrate: Time each file against itself first and store the machine's noise floor.
        host: USER@HOST to reach the device over ssh.
        serial: Serial of an adb device.
        runner: Program that runs the jobs on the device instead of ours.
        sustained: Seconds of load; adds how the latency went over them.
        record: File that keeps the exchange with the device (``device="replay:FILE"``).
        save_anchor: Keep the measured latency to narrow later estimates.
        require: A kind that must be among the measurements.
        seed: Seed of everything random.
        notify: Told what goes on.
        on_report: Given what was measured, even where a device failed or a kind is missing.

    Raises:
        ArtifactCheckFailed: A file is not the one its manifest describes.
        BadInput: A file or name that cannot be used.
        Missing: A device, runtime or required kind is absent.
    """
    from sepdeploy.workflows.bench.benching import bench_artifacts
    from sepdeploy.workflows.bench.options import BenchOptions

    options = BenchOptions(
        device=device,
        attack=attack,
        eps=eps,
        norm=norm,
        samples=samples,
        data=data,
        data_dir=data_dir,
        runtime=runtime,
        threads=threads,
        batch=batch,
        dense=None if dense is None else Path(dense),
        against=None if against is None else Path(against),
        calibrate=calibrate,
        host=host,
        serial=serial,
        runner=None if runner is None else Path(runner),
        sustained=sustained,
        record=None if record is None else Path(record),
        save_anchor=save_anchor,
        require=require,
        seed=seed,
    )
    return bench_artifacts([Path(a) for a in artifacts], options, notify, on_report)


def check(
    result: BenchReport | str | Path,
    baseline: Baseline | str | Path | None = None,
    *,
    config: str | Path | None = None,
) -> Verdict:
    """Compare a result with a baseline; a pure function of the two and the rules.

    Args:
        result: A report, or the file that ``bench --json`` wrote.
        baseline: A baseline or its file. None takes ``sepdeploy-baseline.json``; where that does
            not exist, only rounds timed by turns and budgets are judged, and it is an error when
            there are neither.
        config: TOML file with the rules; default: ``[tool.sepdeploy.check]`` of pyproject.toml.

    Raises:
        BadInput: A file that cannot be read, or holds nonsense.
        Incomparable: The baseline does not exist.
    """
    from sepdeploy import gate

    report = result if isinstance(result, BenchReport) else gate.load_report(Path(result))
    rules = gate.load_rules(None if config is None else Path(config))
    if isinstance(baseline, gate.Baseline):
        return gate.check(report, baseline, rules)
    path = Path(baseline or gate.DEFAULT_BASELINE)
    if baseline is None and not path.exists():
        verdict = gate.check(report, None, rules)
        if verdict.verdict is not gate.Outcome.INCOMPARABLE:
            return verdict
    return gate.check(report, gate.load_baseline(path), rules)


def update_baseline(
    result: BenchReport | str | Path, baseline: str | Path | None = None, *, replace: bool = False
) -> tuple[Path, int]:
    """Write a result into a baseline file; return the file and how many entries it has now.

    Args:
        result: A report, or the file that ``bench --json`` wrote.
        baseline: The file; default ``sepdeploy-baseline.json``.
        replace: Drop what the result does not hold.

    Raises:
        BadInput: A file that cannot be used, or numbers that cannot be.
        Incomparable: Nothing was measured.
        Unstable: A measurement is void.
    """
    from sepdeploy import gate

    report = result if isinstance(result, BenchReport) else gate.load_report(Path(result))
    path = Path(baseline or gate.DEFAULT_BASELINE)
    return path, len(gate.update_baseline(report, path, replace=replace).entries)


def inspect(file: str | Path, *, arch: str | None = None) -> InspectReport:
    """Describe the layers of a .pt, .onnx or .tflite file.

    Raises:
        BadInput: Unreadable or not one of ours.
        Missing: A .pt file without torch installed.
    """
    from sepdeploy.workflows.inspecting import inspect_file

    return inspect_file(Path(file), arch=arch)


def attack(
    model: str | Path,
    out: str | Path,
    *,
    attack: str | None = None,
    arch: str | None = None,
    eps: str | float | None = None,
    norm: str | None = None,
    samples: int = 1000,
    data: str | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    notify: Notify = _ignore,
) -> str:
    """Write an adversarial set (an evaluation pack) against a model; return one line about it.

    Raises:
        BadInput: A file, name or data set that cannot be used.
        Missing: torch is not installed.
    """
    from sepdeploy.exports.requirements import require_torch

    require_torch("attack a model")
    from sepdeploy.exports.options import EvaluationOptions
    from sepdeploy.workflows.attacking import attack_model

    wanted = EvaluationOptions(data, data_dir, attack, eps, norm, samples)
    return attack_model(Path(model), Path(out), wanted, arch=arch, seed=seed, notify=notify)


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
        Missing: A tool or the network is missing, with the commands that help; or the device
            has no core to emulate.
    """
    from sepdeploy.workflows.device_setup import set_up

    set_up(device, notify=notify)


def demo(
    out: str | Path = "demo",
    *,
    seed: int = 0,
    notify: Notify = _ignore,
    on_progress: Callable[[Any], None] | None = None,
) -> BenchReport:
    """Train, export, verify and bench a Kronecker net and its dense twin on the digits.

    Raises:
        Missing: torch is not installed.
        ArtifactCheckFailed: An exported file failed its checks.
    """
    from sepdeploy.exports.requirements import require_torch

    require_torch("run the demo")
    from sepdeploy.workflows.demonstration import run_demo

    return run_demo(Path(out), seed=seed, notify=notify, on_progress=on_progress or _ignore)
