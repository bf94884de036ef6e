"""What an export is asked for: the values of the command line, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.exports.quantize.files import CALIBRATION_SAMPLES

FORMATS = ("onnx", "tflite")
FLAVOURS = ("standard", "custom")
TFLITE_TARGETS = ("litert", "tflite-runtime-2.14")
QUANTIZATIONS = ("none", "dynamic", "static", "auto", "fp16")
CUSTOM_TFLITE = ".custom.tflite"


@dataclass(frozen=True)
class ExportOptions:
    """How the files are written; the values are those of the command line."""

    formats: tuple[str, ...] = FORMATS
    flavour: str = "standard"
    tflite_target: str = "litert"
    simplify: bool = True
    quantize: str = "none"
    calibration_samples: int = CALIBRATION_SAMPLES

    def __post_init__(self) -> None:
        if not self.formats:
            raise BadInput("no format to export", hint="-f onnx -f tflite")
        for what, name, known in (
            *(("format", f, FORMATS) for f in self.formats),
            ("flavour", self.flavour, FLAVOURS),
            ("TFLite target", self.tflite_target, TFLITE_TARGETS),
            ("quantisation", self.quantize, QUANTIZATIONS),
        ):
            if name not in known:
                raise unknown_name(what, name, known)
        if self.calibration_samples < 1:
            raise BadInput("--calibration-samples must be at least 1", hint="128 is the default")
        if self.flavour == "custom" and self.quantize != "none":
            raise BadInput(
                f"--quantize {self.quantize} cannot reach into the functions of the custom flavour",
                hint="drop --flavour custom",
            )

    def files(self) -> tuple[tuple[str, str, str], ...]:
        """Return (format, flavour, suffix) of every file to write.

        A custom .onnx file runs everywhere by its function bodies. A custom .tflite file does
        not, so the standard one is written beside it.
        """
        found = []
        for name in dict.fromkeys(self.formats):
            if name == "onnx" or self.flavour == "standard":
                found.append((name, self.flavour, f".{name}"))
            else:
                found += [(name, "standard", f".{name}"), (name, "custom", CUSTOM_TFLITE)]
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
