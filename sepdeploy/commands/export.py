"""``sepdeploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import DATA, DATA_DIR, EPS, JSON_FILE, NORM, SEED, write_json


def export(
    model: Annotated[Path, typer.Argument(help="model.pt, or any .onnx for -f tflite, --quantize")],
    formats: Annotated[
        list[str] | None, typer.Option("-f", "--format", help="onnx, tflite; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; default beside the model.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", help="package.module:factory of your own network.")
    ] = None,
    flavour: Annotated[str, typer.Option("--flavour", help="standard or custom.")] = "standard",
    tflite_target: Annotated[
        str, typer.Option("--tflite-target", help="litert or tflite-runtime-2.14.")
    ] = "litert",
    simplify: Annotated[
        bool, typer.Option("--simplify/--no-simplify", help="Pass the .onnx through onnxsim.")
    ] = True,
    quantize: Annotated[
        str,
        typer.Option("--quantize", help="none, dynamic, static, auto or fp16; same file names."),
    ] = "none",
    calibration_samples: Annotated[
        int,
        typer.Option("--calibration-samples", min=1, help="Training images for static and auto."),
    ] = 128,
    data: DATA = None,
    data_dir: DATA_DIR = None,
    attack: Annotated[
        str | None, typer.Option("--attack", help="Attack of the evaluation pack: pgd-40.")
    ] = None,
    eps: EPS = None,
    norm: NORM = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Images in the evaluation pack.")
    ] = 1000,
    no_eval: Annotated[bool, typer.Option("--no-eval", help="Write no evaluation pack.")] = False,
    seed: SEED = None,
    json: JSON_FILE = None,
) -> None:
    """Write .onnx and .tflite, proven equal to the model.

    Beside them a manifest and an evaluation pack.
    """
    from sepdeploy import api
    from sepdeploy.codec import dump
    from sepdeploy.reports import terminal

    manifest = api.export(
        model,
        out_dir=out,
        formats=tuple(formats or ("onnx", "tflite")),
        arch=arch,
        flavour=flavour,
        tflite_target=tflite_target,
        simplify=simplify,
        quantize=quantize,
        calibration_samples=calibration_samples,
        data=data,
        data_dir=data_dir,
        attack=attack,
        eps=eps,
        norm=norm,
        samples=samples,
        eval_pack=not no_eval,
        seed=seed or 0,
        notify=console.notice,
    )
    if json != "-":
        console.show(terminal.manifest_table(manifest))
    write_json(dump(manifest), json)
