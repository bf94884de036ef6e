"""``sepdeploy bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import DATA, DATA_DIR, EPS, JSON_FILE, NORM, SEED, write_json

if TYPE_CHECKING:
    from sepdeploy.records import BenchReport


def bench(
    artifacts: Annotated[
        list[Path] | None, typer.Argument(help="Files; default: every manifest of this folder.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Device id, or several: a,b.")] = "host",
    attack: Annotated[str | None, typer.Option("--attack", help="pgd-40[,fgsm...]")] = None,
    eps: EPS = None,
    norm: NORM = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Images judged.")] = 1000,
    data: DATA = None,
    data_dir: DATA_DIR = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="Default: every installed one.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Batch size of the timing.")] = 1,
    dense: Annotated[
        Path | None, typer.Option("--dense", help="Dense reference file to time against.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Older file, timed in turns with the new one.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine's noise by A/A rounds.")
    ] = False,
    host: Annotated[
        str | None, typer.Option("--host", metavar="USER@HOST", help="Reach the device over ssh.")
    ] = None,
    serial: Annotated[str | None, typer.Option("--serial", help="Serial of an adb device.")] = None,
    runner: Annotated[
        Path | None, typer.Option("--runner", help="Program to run on the device instead of ours.")
    ] = None,
    sustained: Annotated[
        float, typer.Option("--sustained", min=0, help="Load the device for so many seconds.")
    ] = 0.0,
    record: Annotated[
        Path | None, typer.Option("--record", help="Write the exchange with the device to FILE.")
    ] = None,
    save_anchor: Annotated[
        bool, typer.Option("--save-anchor", help="Keep the measured latency for later estimates.")
    ] = False,
    require: Annotated[
        str | None, typer.Option("--require", metavar="KIND", help="Fail (4) without this kind.")
    ] = None,
    seed: SEED = None,
    json: JSON_FILE = None,
) -> None:
    """Measure size, speed and accuracy of exported files."""
    from sepdeploy import api
    from sepdeploy.codec import dump
    from sepdeploy.reports import terminal

    def show(report: BenchReport) -> None:
        if json != "-":
            console.show(terminal.bench_table(report))
        write_json(dump(report), json)

    api.bench(
        artifacts or (),
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
        dense=dense,
        against=against,
        calibrate=calibrate,
        host=host,
        serial=serial,
        runner=runner,
        sustained=sustained,
        record=record,
        save_anchor=save_anchor,
        require=require,
        seed=seed or 0,
        notify=console.notice,
        on_report=show,
    )
