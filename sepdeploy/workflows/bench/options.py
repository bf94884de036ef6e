"""What a bench is asked for: the values of the command line, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy.errors import PATH, BadInput
from sepdeploy.exporters.formats import format_of
from sepdeploy.exports.options import JudgingOptions, ShapeOptions
from sepdeploy.files.roles import READS_MODEL, Reads, Values, Writes
from sepdeploy.records import Kind
from sepdeploy.settings import RUNTIME_NAMES, setting, several

MAX_THREADS = 256  # runtimes hang or die while they start a million of them


def _kinds() -> list[str]:
    return [kind.value.lower() for kind in Kind]


def _device_files(value: str | None, values: Values) -> list[Path]:
    """Return the recordings and profiles among the devices."""
    names = [name.strip().removeprefix("replay:") for name in (value or "").split(",")]
    return [Path(name) for name in names if name]


def _devices() -> list[str]:
    from sepdeploy.devices import load_profiles

    return list(load_profiles())


def _device(default: Any, help: str, **facts: Any) -> Any:
    """Return a setting that only another device than this machine has a use for."""
    needs: Mapping[str, tuple[Any, ...]] = {"device": ()}
    return setting(default, help, needs=needs, why="it is about another device", **facts)


@dataclass(frozen=True)
class BenchOptions(JudgingOptions, ShapeOptions):
    """What is measured and how."""

    adversarial: Path | None = setting(
        None,
        "Judge by an adversarial set of `sepdeploy attack`.",
        path=Reads(),
    )
    transfer: bool = setting(
        False,
        "The set may be another model's.",
        more="Or of other data or another radius; the number is labelled as transferred.",
        needs={"adversarial": ()},
        why="no set of another model is named",
    )
    device: str = setting(
        "host",
        "Device id, profile.toml or replay:FILE, or several: a,b.",
        metavar="ID",
        shown=_devices,
        parse=several,
        path=Reads(_device_files),
    )
    runtime: str | None = setting(
        None, "Default: every installed one for the file.", shown=RUNTIME_NAMES
    )
    threads: int = setting(1, "Threads of the runtime.", low=1, high=MAX_THREADS)
    batch: int = setting(1, "Batch size of the timing.", low=1)
    dense: Path | None = setting(
        None,
        "Dense reference file to time against.",
        more="Default: the dense form of the embedded graph.",
        path=READS_MODEL,
    )
    against: Path | None = setting(
        None, "Older file, timed in turns with the new one.", path=READS_MODEL
    )
    calibrate: bool = setting(
        False,
        "Measure this machine's noise by A/A rounds.",
        more="Each file is timed against itself, and the machine's noise floor is stored.",
    )
    strict: bool = setting(False, "Fail (5) where load or spread spoiled the times.")
    host: str | None = _device(None, "Reach the device over ssh.", metavar="USER@HOST")
    serial: str | None = _device(None, "Serial of an adb device.")
    python: str | None = _device(
        None,
        "Python there, for example of a venv.",
        more="A path on the device; '~/' is its home folder.",
        metavar="PATH",
    )
    runner: Path | None = _device(
        None, "Program to run on the device instead of ours.", path=Reads()
    )
    sustained: float = _device(
        0.0,
        "Load the device for so many seconds.",
        low=0,
        more="Adds how the latency went over them.",
    )
    record: Path | None = _device(
        None,
        "Write the exchange with the device to FILE.",
        more="--device replay:FILE reads it.",
        path=Writes("a recording", (".jsonl", ".json")),
    )
    save_anchor: bool = _device(False, "Keep the measured latency for later estimates.")
    require: str | None = setting(
        None,
        "Fail (4) without this kind.",
        metavar="KIND",
        choices=_kinds,
        what="kind",
        parse=str.lower,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.host is not None:
            from sepdeploy.devices.transports.ssh import check_address

            check_address(self.host)
        if self.adversarial is not None and self.attack is not None:
            raise BadInput(
                "--adversarial brings its attack along, --attack names another",
                hint="bench once with each",
            )
        if self.runner is not None and not self.runner.is_file():
            raise BadInput(f"--runner {self.runner} does not exist", hint=PATH)
        for flag, path in (("--dense", self.dense), ("--against", self.against)):
            if path is None:
                continue
            format_of(path, where=f"{flag} ", hint="give an exported file of the same format")
            if not path.is_file():
                raise BadInput(f"{flag} {path} does not exist", hint="check the path")
