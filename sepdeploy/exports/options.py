"""What an export is asked for: the values of the command line, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.exporters.formats import FLAVOURS, FORMATS, TARGETS, Format
from sepdeploy.exporters.modes import MODES, Mode

CALIBRATION_SAMPLES = 128


class Output(NamedTuple):
    """One file that an export writes; its name is the stem with the suffix."""

    format: Format
    flavour: str
    suffix: str


@dataclass(frozen=True)
class ExportOptions:
    """How the files are written; the values are those of the command line."""

    formats: tuple[str, ...] = tuple(FORMATS)
    flavour: str = "standard"
    tflite_target: str = "litert"
    simplify: bool = True
    quantize: str = "none"
    calibration_samples: int = CALIBRATION_SAMPLES

    def __post_init__(self) -> None:
        if not self.formats:
            raise BadInput("no format to export", hint=" ".join(f"-f {name}" for name in FORMATS))
        for what, name, known in (
            *(("format", f, FORMATS) for f in self.formats),
            ("flavour", self.flavour, FLAVOURS),
            ("TFLite target", self.tflite_target, TARGETS),
            ("quantisation", self.quantize, MODES),
        ):
            if name not in known:
                raise unknown_name(what, name, known)
        if self.calibration_samples < 1:
            raise BadInput("--calibration-samples must be at least 1", hint="128 is the default")
        if self.flavour == "custom" and self.mode.quantized:
            raise BadInput(
                f"--quantize {self.quantize} cannot reach into the functions of the custom flavour",
                hint="drop --flavour custom",
            )

    @property
    def mode(self) -> Mode:
        """The row of the quantisation."""
        return MODES[self.quantize]

    def outputs(self) -> tuple[Output, ...]:
        """Return every file to write.

        Where not every runtime can run a custom file, the standard one is written beside it.
        """
        found = []
        for row in (FORMATS[name] for name in dict.fromkeys(self.formats)):
            if self.flavour == "standard" or row.custom_suffix != row.suffix:
                found.append(Output(row, "standard", row.suffix))
            if self.flavour == "custom":
                found.append(Output(row, "custom", row.custom_suffix))
        return tuple(found)


@dataclass(frozen=True)
class EvaluationOptions:
    """What the evaluation pack is made from; None means: as the model was trained."""

    data: str | None = None
    data_dir: str | Path | None = None
    attack: str | None = None
    eps: str | float | None = None
    norm: str | None = None
    samples: int = 1000
    wanted: bool = True
