"""What a bench is asked for: the values of the command line, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.exporters.formats import format_of

MAX_THREADS = 256  # runtimes hang or die while they start a million of them


@dataclass(frozen=True)
class BenchOptions:
    """What is measured and how; the fields are those of the command line."""

    device: str = "host"
    attack: str | None = None
    eps: str | float | None = None
    norm: str | None = None
    samples: int = 1000
    data: str | None = None
    data_dir: str | Path | None = None
    runtime: str | None = None
    threads: int = 1
    batch: int = 1
    dense: Path | None = None
    against: Path | None = None
    calibrate: bool = False
    host: str | None = None
    serial: str | None = None
    runner: Path | None = None
    sustained: float = 0.0
    record: Path | None = None
    save_anchor: bool = False
    require: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for flag, path in (("--dense", self.dense), ("--against", self.against)):
            if path is None:
                continue
            format_of(path, where=f"{flag} ", hint="give an exported file of the same format")
            if not path.is_file():
                raise BadInput(f"{flag} {path} does not exist", hint="check the path")
        if not 1 <= self.threads <= MAX_THREADS:
            raise BadInput(
                f"{self.threads} threads are outside 1 .. {MAX_THREADS}",
                hint="more threads than cores only make it slower",
            )
