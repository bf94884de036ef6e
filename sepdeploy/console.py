"""Everything that is drawn on the terminal: messages, progress, tables (the home of Rich).

Results go to standard output; messages, progress and errors to standard error, so that
``--json -`` can be piped. Rich is imported on first use: ``--help`` does not need it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from sepdeploy.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

MIN_WIDTH = 40  # columns
PLAIN_INTERVAL_S = 5.0  # between two progress lines where there is no terminal


@dataclass
class Verbosity:
    """How much is said on standard error: -1 quiet, 0 normal, 1 verbose."""

    level: int = 0


VERBOSITY = Verbosity()


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    width = None if stream.isatty() else 80
    if "COLUMNS" in os.environ and os.environ["COLUMNS"].isdigit():
        width = int(os.environ["COLUMNS"])
    # Names of files and layers are never markup, whoever prints them.
    console = Console(
        file=stream, width=width, highlight=False, markup=False, emoji=False,
        soft_wrap=not stream.isatty(),
    )  # fmt: skip
    console.width = max(console.width, MIN_WIDTH)
    return console


def show(renderable: RenderableType) -> None:
    """Print a result (text or a Rich table) on standard output."""
    _console(sys.stdout).print(renderable)


def write(text: str) -> None:
    """Write text to standard output exactly as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def notice(text: str) -> None:
    """Say one line on standard error unless ``-q`` was given."""
    if VERBOSITY.level >= 0:
        _say(text, None)


def error(message: str, hint: str = "") -> None:
    """Print the one red line of a failure and, below it, the next step."""
    _say(f"error: {_one_line(message)}", "bold red")
    if hint:
        _say(f"  next: {_one_line(hint)}", None)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _say(text: str, style: str | None) -> None:
    text = printable(text)
    if sys.stderr.isatty():
        from rich.text import Text

        _console(sys.stderr).print(Text(text, style=style or ""))
    else:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class Progress:
    """One line of progress: redrawn in place on a terminal, printed now and then elsewhere."""

    def __init__(self) -> None:
        self._last = 0.0
        self._dirty = False

    def update(self, text: str, *, force: bool = False) -> None:
        """Show the newest state; ``force`` prints a lasting line (end of an epoch)."""
        if VERBOSITY.level < 0:
            return
        text = printable(text)
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if force:
            self.clear()
            sys.stderr.write(text + "\n")
        elif terminal and now - self._last > 0.1:
            sys.stderr.write("\r\x1b[2K" + text)
            self._dirty = True
            self._last = now
        elif not terminal and now - self._last > PLAIN_INTERVAL_S:
            if self._last:
                sys.stderr.write(text + "\n")
            self._last = now
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the unfinished line from a terminal."""
        if self._dirty:
            sys.stderr.write("\r\x1b[2K")
            self._dirty = False
