"""The error tree; every error a user can meet is one of these.

    SepdeployError                exit code
    ├── BadInput                  2    usage, unreadable or invalid file, unknown name
    │   └── NoRoom                2    a disk is full
    ├── Incomparable              3    no baseline, nothing measured, kinds or versions differ
    ├── Missing                   4    device, tool, runtime or optional package absent
    ├── Unstable                  5    measurement too noisy or throttled
    └── ArtifactCheckFailed       6    parity, digest or re-densification check failed

Exit code 1 is kept for a regression found by ``sepdeploy check``, 70 for an internal error,
130, 143 and 129 for Ctrl-C, SIGTERM and SIGHUP; none of them is an exception of this tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any

# `::error::` and `::stop-commands::` (GitHub), `##[error]` and `##vso[` (Azure), `##teamcity[`.
_COMMAND = re.compile(r"(?<![\w)>\]])::(?=\s*[A-Za-z])|##(?=\w*\[)")
MAX_LINE = 1000  # characters

# Next steps that several errors share; an error that none of them fits says its own.
ANSWER = "the other side answered what it should not: run it again with -v and look at its output"
ARCHITECTURE = "--arch package.module:factory names a function that returns an nn.Module"
ARRAYS = "give arrays whose lengths and shapes belong together: help() of the function says which"
AT_LEAST_ONE = "give a whole number from 1 on"
BENCH_AGAIN = "the result was changed or cut: write it again with sepdeploy bench --json FILE"
BY_HAND = "correct that place in the file"
DATA = "name the data set: --data NAME, and --data-dir DIR or SEPDEPLOY_DATA for its folder"
DATA_SET = "get the data set's own files again; docs/training.md says what belongs into its folder"
EXPORT_AGAIN = "the file was changed after its export: sepdeploy export makes it again"
FINITE = "train or load the model again: a weight became NaN or infinite"
GRAPH = "the graph contradicts itself: onnx.checker.check_model(file, full_check=True) shows where"
GROUPED = "leave this layer out of the structure: --layers or layer=dense"
INPUT_SHAPE = "sepdeploy inspect FILE shows the input that the file takes"
MODEL_AGAIN = "the file was changed or cut: save the model again with sepdeploy.save"
NEW_FILE = "the file is damaged or not what its name says: get it again, or make it again"
OTHER_LAYERS = "keep the layers that the file was made with, or make the file again"
PATH = "check the path: is the file there, and may it be read?"
REPORT = "this is a fault of sepdeploy: report it with what --debug prints"
RUN_IT = "sepdeploy inspect FILE shows whether the file is whole, sepdeploy doctor the runtimes"
RULES = "docs/ci.md lists every rule and what it takes"
FORMS = "write dense, kron, kron:28x28-64x64 or lowrank:40; or by layer: fc1=kron,fc2=lowrank"
TFLITE_FORM = "-f onnx exports it as it is; for .tflite replace this operation in the network"
VERIFY = "sepdeploy verify shows every check; sepdeploy export makes the files again"
WIDTHS = "write widths such as 1024,1024"


class SepdeployError(Exception):
    """An expected failure: one line saying what happened and where, and what to do next.

    Args:
        message: What happened and where (file, layer, node, device), one line.
        hint: What the user can do next, one line; those that errors share stand above.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str) -> None:
        self.message = _line(message)
        self.hint = _line(hint)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        """Travel to another process with the hint, which the constructor wants by its name."""
        return partial(type(self), hint=self.hint), (self.message,)


def printable(text: str) -> str:
    """Return foreign text as one line that no terminal and no build service reads as a command.

    The one filter for every channel but JSON: names of files, layers and devices and the words of
    other programs may carry escapes that move a cursor, line breaks, signs that turn the direction
    of writing, and what build services obey.

    White space of every kind becomes a space, what cannot be printed a replacement character. No
    text of a usual kind changes ("torch::Tensor" stays).
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _stand_in(c) for c in text)
    return _COMMAND.sub(lambda found: " ".join(found[0]), text)


def _stand_in(sign: str) -> str:
    return " " if sign.isspace() else "\N{REPLACEMENT CHARACTER}"


def _line(text: str) -> str:
    """Names out of a hostile file may carry line breaks or terminal escapes, or be a whole file."""
    line = printable(text)
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"


class BadInput(SepdeployError):
    """The command line, a file or a name is not usable."""

    exit_code = 2


class ToldElsewhere(BadInput):
    """A failure that the first of several processes tells; the others end with it in silence."""


class NoRoom(BadInput):
    """A disk is full, which says nothing about the file that was being worked on."""


class Incomparable(SepdeployError):
    """Two results cannot be compared, or nothing was measured."""

    exit_code = 3


class Missing(SepdeployError):
    """A device, tool, runtime or optional package is absent."""

    exit_code = 4


class Unstable(SepdeployError):
    """A measurement was too noisy, or the device throttled."""

    exit_code = 5


class ArtifactCheckFailed(SepdeployError):
    """An artifact is not what it claims: parity, digest or re-densification."""

    exit_code = 6


def unknown_name(what: str, name: str, known: Iterable[str], *, hint: str = "") -> BadInput:
    """Return the error for a name that no table knows, with the three closest ones.

    Args:
        what: The kind of name, in the singular ("attack", "device").
        name: What the user wrote.
        known: All names that would have been accepted.
        hint: Next step; by default the list of known names.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.0)
    empty = '""'
    suggestion = f"; closest: {', '.join(near)}" if near else ""
    return BadInput(
        f"unknown {what} '{name}'{suggestion}",
        hint=hint
        or (
            f"known: {', '.join(n or empty for n in names)}"
            if names
            else "leave it out: there are none"
        ),
    )


def require_name(what: str, name: str, known: Iterable[str], *, where: str) -> None:
    """Refuse a name that no table knows, saying where it stands.

    Raises:
        BadInput: As ``unknown_name``.
    """
    names = list(known)
    if name not in names:
        error = unknown_name(what, name, names)
        raise BadInput(f"{where}: {error.message}", hint=error.hint)
