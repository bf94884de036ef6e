"""How a command line ends: every way it can fail becomes one line, a next step and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback

from sepdeploy.errors import SepdeployError, ToldElsewhere
from sepdeploy.signals import ENDING, launched_rank

USAGE, INTERNAL, INTERRUPTED = 2, 70, 130


def interrupted(command: str = "", number: int = signal.SIGINT) -> int:
    """Say that a signal ended the command and return 128 + its number.

    Of several processes that ``torchrun`` started, only the first one says it.
    """
    from sepdeploy import console

    goes_on = "the same command with --resume continues"
    hint = {
        "train": goes_on,
        "attack": goes_on,
        "compress": "nothing half-written was left behind; a fine-tuning that had begun continues "
        "with --resume",
    }.get(command, "nothing half-written was left behind")
    if not launched_rank():
        console.error(ENDING[number], hint)
    return 128 + number


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
