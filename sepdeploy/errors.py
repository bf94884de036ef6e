"""The error tree; every error a user can meet is one of these.

    SepdeployError                exit code
    ├── BadInput                  2    usage, unreadable or invalid file, unknown name
    ├── Incomparable              3    no baseline, nothing measured, kinds or versions differ
    ├── Missing                   4    device, tool, runtime or optional package absent
    ├── Unstable                  5    measurement too noisy or throttled
    └── ArtifactCheckFailed       6    parity, digest or re-densification check failed

Exit code 1 is kept for a regression found by ``sepdeploy check``, 70 for an internal error,
130, 143 and 129 for Ctrl-C, SIGTERM and SIGHUP; none of them is an exception of this tree.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LINE = 1000  # characters


class SepdeployError(Exception):
    """An expected failure: one line saying what happened and where, and what to do next.

    Args:
        message: What happened and where (file, layer, node, device), one line.
        hint: What the user can do next, one line.
    """

    exit_code = 70
    default_hint = "run the same command with --debug and report what it prints"

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = _line(message)
        self.hint = _line(hint or self.default_hint)
        super().__init__(self.message)


def _line(text: str) -> str:
    """Names out of a hostile file may carry line breaks or terminal escapes, or be a whole file."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable if len(printable) <= MAX_LINE else f"{printable[: MAX_LINE - 1]}…"


class BadInput(SepdeployError):
    """The command line, a file or a name is not usable."""

    exit_code = 2
    default_hint = "check the name and the file; --help shows what the command takes"


class ToldElsewhere(BadInput):
    """A failure that the first of several processes tells; the others end with it in silence."""


class Incomparable(SepdeployError):
    """Two results cannot be compared, or nothing was measured."""

    exit_code = 3
    default_hint = "measure both with the same tool versions, or refresh the baseline"


class Missing(SepdeployError):
    """A device, tool, runtime or optional package is absent."""

    exit_code = 4
    default_hint = "sepdeploy doctor shows what is missing and how to get it"


class Unstable(SepdeployError):
    """A measurement was too noisy, or the device throttled."""

    exit_code = 5
    default_hint = "measure again on an idle, cool machine"


class ArtifactCheckFailed(SepdeployError):
    """An artifact is not what it claims: parity, digest or re-densification."""

    exit_code = 6
    default_hint = "sepdeploy verify shows every check; else export the model again"


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
    suggestion = f"; closest: {', '.join(near)}" if near else ""
    return BadInput(
        f"unknown {what} '{name}'{suggestion}", hint=hint or f"known: {', '.join(names)}"
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
