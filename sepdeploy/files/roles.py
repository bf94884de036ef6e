"""What options are that name files: read or written, and which files stand behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Values = Mapping[str, Any]
# What the ends of file names say; the longest one counts.
SAID = {
    ".csv": "a table",
    ".custom.tflite": "a TFLite file",
    ".data": "the weights of an ONNX file",
    ".eval.npz": "an evaluation pack",
    ".history.jsonl": "the history of a training",
    ".html": "a page",
    ".jpg": "an image",
    ".json": "JSON",
    ".jsonl": "JSON lines",
    ".manifest.json": "a manifest",
    ".mat": "a data set",
    ".md": "Markdown",
    ".npy": "an array",
    ".npz": "a set of images",
    ".onnx": "an ONNX file",
    ".onnx.data": "the weights of an ONNX file",
    ".png": "an image",
    ".pt": "a model",
    ".pth": "a model",
    ".py": "a program",
    ".sarif": "SARIF",
    ".svg": "a drawing",
    ".tflite": "a TFLite file",
    ".toml": "a recipe, a profile or rules",
    ".training.pt": "the state of a training",
    ".unfinished.npz": "the state of an attack",
    ".xml": "XML",
    ".zip": "an archive",
}

OF_ONE_MODEL = (
    ".pt", ".onnx", ".onnx.data", ".tflite", ".custom.tflite", ".manifest.json", ".eval.npz",
    ".training.pt", ".history.jsonl",
)  # fmt: skip


def said_by(path: Path) -> str:
    """Return the end of a name that says what a file is, "" where it says nothing."""
    name = path.name.lower()
    return max((end for end in SAID if name.endswith(end)), key=len, default="")


def as_given(value: Any, values: Values) -> Iterator[Path]:
    """Give the paths of an option's value: none, one or several."""
    if value:
        for path in value if isinstance(value, (list, tuple)) else (value,):
            yield Path(path)


Files = Callable[[Any, Values], Iterable[Path]]


@dataclass(frozen=True)
class Reads:
    """An option that names what a command reads.

    ``files`` gives everything behind its value; it is told the values of the other options.
    """

    files: Files = as_given


@dataclass(frozen=True)
class Writes:
    """An option that names what a command writes.

    Attributes:
        what: For messages: "a model file".
        suffixes: Ends of names, of those in ``SAID``, that it may have.
        files: As with ``Reads``.
        stream: Pipes and devices are written to as they are.
        folder: The value is a folder; ``files`` gives the files in it.
        waits: Written in a moment: a second command waits instead of ending.
    """

    what: str
    suffixes: tuple[str, ...] = ()
    files: Files = as_given
    stream: bool = False
    folder: bool = False
    waits: bool = False


def of_model(value: Any, values: Values) -> Iterator[Path]:
    """Give the files of models or exports and what lies beside them; folders are searched."""
    for path in as_given(value, values):
        found = sorted(path.glob("*.manifest.json")) if path.is_dir() else [path]
        for file in found:
            stem = file.name[: len(file.name) - len(said_by(file))]
            yield file
            yield from (file.with_name(f"{stem}{end}") for end in OF_ONE_MODEL)


def of_data(value: Any, values: Values) -> Iterator[Path]:
    """Give the file that a data set's name is, if it is one."""
    if value is not None and (path := Path(values.get("data_dir") or ".") / value).is_file():
        yield path


READS_MODEL = Reads(of_model)  # with what lies beside it
READS_MODELS = Reads(lambda value, values: of_model(value or [Path()], values))  # default: all here
