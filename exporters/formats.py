"""The file formats that models are exported to: one row each, with all that differs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sepdeploy.errors import BadInput
from sepdeploy.flatbuffer import is_tflite
from sepdeploy.records import LayerPrecision, LoweringChoice

if TYPE_CHECKING:
    from onnx import ModelProto

    from sepdeploy.exporters.facts import Described, Shapes
    from sepdeploy.exporters.quantize.scheme import Scheme

PROTOBUF_LIMIT = 2**31 - 1  # bytes of one message, so of an .onnx file without external data
# Whose operators bound a .tflite file's; chosen with --tflite-target.
TFLITE_RUNTIMES = ("litert", "tflite-runtime-2.14")
FLAVOURS = ("standard", "custom")


@dataclass(frozen=True)
class Order:
    """One file to write.

    Attributes:
        canonical: The canonical graph, weights included.
        choices: The planner's form per structured layer.
        entry: The embedded description, None for none.
        flavour: "standard" or "custom".
        runtime: Runtime that a .tflite file is for.
        simplify: Let onnxsim look at a standard .onnx graph.
        merge: Multiply small adjacent Kronecker factors of a .tflite file together where the
            planner reckons with it.
    """

    canonical: ModelProto
    choices: tuple[LoweringChoice, ...] = ()
    entry: str | None = None
    flavour: str = "standard"
    runtime: str = "litert"
    simplify: bool = True
    merge: bool = False


class Quantizer(Protocol):
    """Makes quantised files of one format; ``float_path`` is the file they start from."""

    float_path: Path

    def activations(self, scheme: Scheme) -> tuple[str, ...]:
        """Return what has to be calibrated."""
        ...

    def calibration_file(self, names: tuple[str, ...]) -> Path:
        """Return a float file that shows these activations."""
        ...

    def write(self, scheme: Scheme, path: Path) -> tuple[LayerPrecision, ...]:
        """Write a file and return the precision of its layers."""
        ...


@dataclass(frozen=True)
class Format:
    """One row of the table of formats.

    Attributes:
        name: As written on the command line and in manifests.
        suffix: What names of its files end with.
        custom_suffix: The same for files of the custom flavour. Where it is another one, not
            every runtime can run them, and the standard file is written as well.
        article: "a" or "an", as the suffix is read aloud.
        image_layout: Order of an image's axes in the file.
        head: Tells a file by its first eight bytes; None where only the name tells.
        entry: Reads the embedded entry, None where there is none.
        describe: Tells what the file itself says, whoever wrote it; sizes by input's name.
        write: Writes a float file.
        quantizer: Makes the quantised files of an order, with a folder to work in.
        runtimes: The only runtimes that take a file; empty: every one of the format.
    """

    name: str
    suffix: str
    custom_suffix: str
    article: str
    image_layout: str
    head: Callable[[bytes], bool] | None
    entry: Callable[[Path], bytes | None]
    describe: Callable[[Path, Shapes], Described]
    write: Callable[[Order, Path], None]
    quantizer: Callable[[Order, Path], Quantizer]
    runtimes: Callable[[Path], tuple[str, ...]]


def _later(place: str) -> Callable[..., Any]:
    """Return "module:function" of this room as a function that loads its module when called."""
    module, _, name = place.partition(":")

    def called(*args: Any, **settings: Any) -> Any:
        return getattr(import_module(f"sepdeploy.exporters.{module}"), name)(*args, **settings)

    return called


def _writer(place: str, *settings: str) -> Callable[[Order, Path], None]:
    """Return a writer that takes the canonical graph, a path and these fields of an order."""

    def write(order: Order, path: Path) -> None:
        _later(place)(order.canonical, path, **{name: getattr(order, name) for name in settings})

    return write


def _tflite_runtimes(path: Path) -> tuple[str, ...]:
    from sepdeploy.exporters.tflite_file import read_tflite
    from sepdeploy.exporters.tflite_file.format.versions import PER_CHANNEL_LAYER

    try:
        ops = read_tflite(path).ops
    except BadInput:  # whoever opens it says so
        return ()
    newer = any(o.kind == "FULLY_CONNECTED" and o.version >= PER_CHANNEL_LAYER for o in ops)
    return ("litert",) if newer else ()


_SETTINGS = ("choices", "entry", "flavour")

ONNX = Format(
    name="onnx",
    suffix=".onnx",
    custom_suffix=".onnx",  # function bodies run wherever the file does
    article="an",
    image_layout="NCHW",
    head=None,
    entry=_later("containers:onnx_entry"),
    describe=_later("onnx_file.described:describe_onnx"),
    write=_writer("onnx_file.write:write_onnx", *_SETTINGS, "simplify"),
    quantizer=_later("quantize.onnx_file:OnnxQuantizer"),
    runtimes=lambda _: (),
)
TFLITE = Format(
    name="tflite",
    suffix=".tflite",
    custom_suffix=".custom.tflite",
    article="a",
    image_layout="NHWC",
    head=is_tflite,
    entry=_later("containers:tflite_entry"),
    describe=_later("tflite_file.described:describe_tflite"),
    write=_writer("tflite_file.write:write_tflite", *_SETTINGS, "runtime", "merge"),
    quantizer=_later("quantize.tflite_file:TfliteQuantizer"),
    runtimes=_tflite_runtimes,
)
FORMATS: dict[str, Format] = {row.name: row for row in (ONNX, TFLITE)}


def named_format(path: str | os.PathLike[str]) -> Format | None:
    """Return the format that a file's name says it has, None for another kind of file."""
    suffix = Path(path).suffix
    return next((row for row in FORMATS.values() if row.suffix == suffix), None)


def told_format(path: Path, head: bytes) -> Format | None:
    """Return the format that a file's first bytes show, else the one that its name says."""
    told = (row for row in FORMATS.values() if row.head and row.head(head))
    return next(told, named_format(path))


def format_of(path: str | os.PathLike[str], *, where: str = "", hint: str = "") -> Format:
    """Return the format that a file's name says it has.

    Args:
        path: The file.
        where: What an error begins with.
        hint: What it ends with.

    Raises:
        BadInput: It is another kind of file.
    """
    found = named_format(path)
    if found is None:
        known = " nor ".join(f"{row.article} {row.suffix}" for row in FORMATS.values())
        raise BadInput(f"{where}{path} is neither {known} file", hint=hint)
    return found
