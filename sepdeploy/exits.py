"""How a command line ends: every way it can fail becomes one line, a next step and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Self

from sepdeploy.errors import SepdeployError, ToldElsewhere

USAGE, INTERNAL, INTERRUPTED = 2, 70, 130


class Interruption:
    """Remembers Ctrl-C while it is open; a second one ends the process at once.

    A library that is interrupted while it loads may hide the interruption behind an error of its
    own, a destructor may lose it, and a runtime in a child process may die of the same Ctrl-C;
    ``seen`` tells.
    """

    def __init__(self) -> None:
        self.seen = False
        self._taken = False

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._taken = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._taken:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if not _is_launched():  # torchrun passes on the Ctrl-C that its processes had as well
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.default_int_handler(number, frame)


def _is_launched() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def interrupted(command: str = "") -> int:
    """Say that the command was interrupted and return 130.

    Of several processes that ``torchrun`` started, only the first one says it.
    """
    from sepdeploy import console

    hint = {
        "train": "the same command with --resume continues",
        "compress": "nothing half-written was left behind; a fine-tuning that had begun continues "
        "with --resume",
    }.get(command, "nothing half-written was left behind")
    if not _is_launched() or os.environ.get("RANK", "0") == "0":
        console.error("interrupted", hint)
    return INTERRUPTED


def explain(failure: Exception, *, debug: bool = False) -> int:
    """Print what went wrong and what to do next, and return the exit code.

    With ``debug`` the traceback comes first; a mistyped command has none.
    """
    from sepdeploy import console

    if isinstance(failure, BrokenPipeError):
        # The reader of our output went away (`| head`); keep the interpreter from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if hasattr(failure, "format_message"):  # a usage error of the argument parser
        where = getattr(failure, "ctx", None)
        path = where.command_path if where is not None else "sepdeploy"
        console.error(failure.format_message(), f"{path} --help")
        return USAGE
    if isinstance(failure, ToldElsewhere):
        return failure.exit_code
    if debug:  # only shown: the exit code stays that of the failure
        traceback.print_exception(failure)
    if isinstance(failure, SepdeployError):
        console.error(failure.message, failure.hint)
        return failure.exit_code
    if isinstance(failure, OSError) and failure.strerror:  # the disk is full, the folder locked
        where = f" ({failure.filename})" if failure.filename else ""
        console.error(
            f"the system refused: {failure.strerror}{where}",
            "is there space left, and may the folder be written? --debug shows where it happened",
        )
        return USAGE
    console.error(
        f"internal error: {type(failure).__name__}: {failure}",
        "run the same command with --debug and report the traceback",
    )
    return INTERNAL
