"""What an export is asked for, and which images a file is judged by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sepdeploy.errors import BadInput
from sepdeploy.exporters.formats import FLAVOURS, FORMATS, TFLITE_RUNTIMES, Format
from sepdeploy.exporters.modes import MODES, Mode
from sepdeploy.files.roles import Reads, Values, Writes, of_data
from sepdeploy.settings import DATA_NAMES, Needs, Options, setting, several
from sepdeploy.threat import NORMS, examples, parse_attack, parse_eps

CALIBRATION_SAMPLES = 128
FINEST = 1e-4  # precision of an accuracy that may be asked for: 96 million images
EVAL_STEPS = 40  # PGD steps when the training attack is all that is known
EXPORTED = Writes("an export", folder=True)


def unfinished_path(out: Path) -> Path:
    """Return where an attack keeps its state until it is done: ``STEM.unfinished.npz`` beside."""
    return out.with_name(f"{out.stem}.unfinished.npz")


def _attacked_files(out: Path, values: Values) -> Iterator[Path]:
    yield out
    yield unfinished_path(out)


ATTACKED = Writes("a set of images", (".npz", ".eval.npz"), _attacked_files)


class Output(NamedTuple):
    """One file that an export writes; its name is the stem with the suffix."""

    format: Format
    flavour: str
    suffix: str


@dataclass(frozen=True)
class Seeded(Options):
    """What is drawn at random."""

    seed: int = setting(0, "Seed of everything random.", low=0)


@dataclass(frozen=True)
class ModelOptions(Options):
    """How a model file is read."""

    arch: str | None = setting(None, "package.module:factory of your own network.")


def input_shapes(value: object) -> tuple[str, ...]:
    """Return shapes of inputs as texts "NAME=1,3,320,320", from such texts or from a dictionary.

    Raises:
        BadInput: One is no name with sizes, or a name stands there twice.
    """
    if isinstance(value, Mapping):
        value = [f"{name}={','.join(map(str, sizes))}" for name, sizes in value.items()]
    texts = (
        [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else []
    )
    for text in texts:
        name, _, sizes = str(text).rpartition("=")
        if not name or not all(n.strip().isdigit() and int(n) > 0 for n in sizes.split(",")):
            raise BadInput(
                f"--input-shape {text!s:.60} is no name of an input with sizes from 1 on",
                hint="--input-shape images=1,3,320,320; sepdeploy inspect shows the names",
            )
    names = [str(text).rpartition("=")[0] for text in texts]
    if len(set(names)) < len(names):
        raise BadInput("--input-shape names an input twice", hint="give each input one shape")
    return tuple(map(str, texts))


@dataclass(frozen=True)
class ShapeOptions(Options):
    """Sizes that somebody else's file leaves open."""

    input_shape: tuple[str, ...] = setting(
        (),
        "Fix open sizes of an input; repeatable.",
        metavar="NAME=1,3,320,320",
        more="In the file's own order of axes. Open sizes are 1 where nobody says.",
        parse=input_shapes,
    )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The sizes by input."""
        pairs = (text.rpartition("=") for text in self.input_shape)
        return {name: tuple(map(int, sizes.split(","))) for name, _, sizes in pairs}

    def refuse_shapes(self, path: Path) -> None:
        """Refuse sizes for a file that leaves none open.

        Raises:
            BadInput: Some were given.
        """
        if self.input_shape:
            raise BadInput(
                f"--input-shape has no effect on {path}, whose sizes are known",
                hint="leave it out",
            )


@dataclass(frozen=True)
class ExportOptions(ShapeOptions):
    """How the files are written; the values are those of the command line."""

    formats: tuple[str, ...] = setting(
        tuple(FORMATS),
        "Repeatable, or several: onnx,tflite.",
        flags=("-f", "--format"),
        choices=FORMATS,
        what="format",
    )
    flavour: str = setting(
        "standard",
        "Form of the nodes.",
        choices=FLAVOURS,
        more='"custom" has ONNX nodes of ai.sepdeploy with their function bodies.',
    )
    tflite_target: str = setting(
        "litert",
        "Runtime of the .tflite.",
        choices=TFLITE_RUNTIMES,
        what="TFLite target",
        needs={"formats": ("tflite",)},
        why="no .tflite is written",
    )
    simplify: bool = setting(
        True,
        "Pass the .onnx through onnxsim.",
        needs={"formats": ("onnx",)},
        why="no .onnx is written",
    )
    output: tuple[str, ...] = setting(
        (),
        "Only these outputs of an .onnx of others.",
        metavar="NAME",
        more="By default all are kept.",
    )
    quantize: str = setting(
        "none",
        "Same file names.",
        choices=MODES,
        what="quantisation",
        hint="int8: dynamic (weights), static (activations too) or auto (layer by layer); "
        "float16 weights: fp16; neither: none",
        more='"dynamic" has int8 weights, "static" int8 weights and activations by calibrated '
        'ranges, "auto" int8 per layer unless float is measured faster, "fp16" float16 weights '
        "and float32 arithmetic. The files keep their float32 input.",
    )
    calibration_samples: int = setting(
        CALIBRATION_SAMPLES,
        "Training images for static and auto.",
        low=1,
        needs={"quantize": tuple(name for name, row in MODES.items() if row.calibrated)},
        why="nothing is calibrated",
    )

    def __post_init__(self) -> None:
        if not self.formats:
            raise BadInput("no format to export", hint=" ".join(f"-f {name}" for name in FORMATS))
        super().__post_init__()
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


def images_for(precision: str) -> int:
    """Return how many images bring half of Wilson's 95 % interval below a precision.

    At an accuracy of one half, where it is widest: z/2 · 1/√(n + z²).

    Args:
        precision: In percentage points: "1pp", "0.5 pp", "2%".

    Raises:
        BadInput: Not a number of percentage points, or one that no number of images reaches.
    """
    from sepdeploy.measure.summary import Z95

    text = precision.strip().lower().removesuffix("%").removesuffix("pp").strip()
    try:
        half = float(text) / 100
    except ValueError:
        half = math.nan
    if not FINEST <= half <= 0.5:
        raise BadInput(
            f"precision '{precision}' is no number of points from {100 * FINEST:g} to 50",
            hint="--precision 1pp",
        )
    return max(1, math.ceil((Z95 / (2 * half)) ** 2 - Z95**2))


@dataclass(frozen=True)
class JudgingOptions(Seeded):
    """Which images, and how they are attacked; None means: as the model was trained."""

    attack: str | None = setting(
        None,
        f"Such as {examples()}, or several: a,b; default: as the model was trained.",
        metavar="NAME",
        parse=several,
    )
    eps: str | float | None = setting(None, "Attack radius: 8/255 or 0.1.")
    norm: str | None = setting(None, "Attack norm.", choices=NORMS)
    samples: int = setting(
        1000, "Images judged, or kept in a pack.", low=1, more="A pack has at most 16 MiB."
    )
    precision: str | None = setting(
        None,
        "As many images as an accuracy to ±1pp takes.",
        metavar="1pp",
        more="In percentage points, half the 95 % interval at worst; in place of --samples.",
    )
    data: str | None = setting(
        None,
        "Default: the model's own; or image-folder:SIZE, or the path of an .npz file.",
        shown=DATA_NAMES,
        path=Reads(of_data),
    )
    data_dir: Path | None = setting(None, "Folder of the data set.", path=Reads())

    def __post_init__(self) -> None:
        super().__post_init__()
        eps = 0.0 if self.eps is None else parse_eps(self.eps)
        norm = self.norm or "linf"
        for name in self.attacks or (f"pgd-{EVAL_STEPS}",):
            # of a model of the other norm the radius is judged again, with that
            parse_attack(name, eps if self.norm else min(eps, 1.0), norm)
        if self.precision is not None:
            if self.samples not in (type(self).samples, images_for(self.precision)):
                raise BadInput(
                    "--precision chooses the number of images, and so does --samples",
                    hint="leave one of them out",
                )
            object.__setattr__(self, "samples", images_for(self.precision))
        if self.data is not None:
            from sepdeploy.data import check_name

            check_name(self.data)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The names that were asked for."""
        return tuple(n.strip() for n in (self.attack or "").split(",")) if self.attack else ()

    @property
    def asks_for_an_attack(self) -> bool:
        """Whether leaving the attack out would leave something undone."""
        return self.attack is not None or self.eps is not None


@dataclass(frozen=True)
class EvaluationOptions(JudgingOptions):
    """What the evaluation pack is made from."""

    eval_pack: bool = setting(True, "Write no evaluation pack.", flags=("--no-eval",), off=True)

    @classmethod
    def needs(cls) -> dict[str, Needs]:
        """An attack goes into the pack; the data serve calibration too."""
        return {
            name: {"eval_pack": (True,)}
            for name in ("attack", "eps", "norm", "samples", "precision")
        }
