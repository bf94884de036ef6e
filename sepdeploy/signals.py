"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP, heard between two steps and told once."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

# What ends a command, and how that is said; its exit code is 128 + the signal's number.
ENDING: dict[int, str] = {
    getattr(signal, name): said
    for name, said in (
        ("SIGINT", "interrupted"),
        ("SIGTERM", "ended by SIGTERM"),
        ("SIGHUP", "ended by SIGHUP"),
    )
    if hasattr(signal, name)
}


class Interruption:
    """Turns the signals that end a command into ``KeyboardInterrupt`` while it is open.

    After the first one SIGTERM and SIGHUP find the command ending already; a second Ctrl-C ends
    the process at once. A destructor that is interrupted loses the interruption: it is raised
    once more a moment later. A library that is interrupted while it loads may hide it behind an
    error of its own, and a runtime in a child process may die of the same Ctrl-C; ``seen`` tells.

    Attributes:
        seen: The number of the signal, 0 while there was none.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._before: dict[int, Any] = {}
        self._lost: Any = None  # what told of errors that destructors lost, before
        self._again: threading.Timer | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                plain = signal.getsignal(number)
                outer = getattr(plain, "__func__", None) is Interruption._note
                # Whoever ignores one (nohup), or hears it already, goes on doing so.
                if outer or plain in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = plain
                    signal.signal(number, self._note)
        if self._before:
            self._lost, sys.unraisablehook = sys.unraisablehook, self._once_more
        return self

    def __exit__(self, *error: object) -> None:
        if self._again is not None:
            self._again.cancel()  # the command ends by itself now; ``seen`` tells
        if self._before:
            sys.unraisablehook = self._lost
        for number, plain in self._before.items():
            signal.signal(number, plain)

    def _once_more(self, lost: Any) -> None:
        if not (self.seen and isinstance(lost.exc_value, KeyboardInterrupt)):
            self._lost(lost)
            return
        signal.signal(self.seen, self._note)
        # By a thread: raised here it would be lost just as well.
        self._again = threading.Timer(0.02, _send_to_main, (self.seen,))
        self._again.daemon = True
        self._again.start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = number
        if not is_launched():  # torchrun passes on the Ctrl-C that its processes had as well
            for other in self._before:  # a session that ends sends its SIGHUP twice
                again = signal.SIG_DFL if other == signal.SIGINT else signal.SIG_IGN
                signal.signal(other, again)
        raise KeyboardInterrupt


def _send_to_main(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)  # this one ends a wait as well
    else:
        _thread.interrupt_main(signal.Signals(number))


def is_launched() -> bool:
    """Return whether ``torchrun`` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launched_rank() -> int:
    """Return the number of this process among those that ``torchrun`` started, 0 when alone."""
    rank = os.environ.get("RANK", "0") if is_launched() else "0"
    return int(rank) if rank.isdigit() else 0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the signals that end a command wait until a few steps that belong together are done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
