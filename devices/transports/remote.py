"""The one line of shell that a remote client carries, and what comes back between its marks.

A login shell may say what it likes: start-up files print greetings, logout files farewells, an
account may have no shell at all. So what a program says on either stream stands between two marks
with a random number in them, and everything around them is somebody else's.
"""

from __future__ import annotations

import io
import re
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from sepdeploy.devices.transports.base import Call, Completed, command_line
from sepdeploy.devices.transports.process import GRACE_S, MOST_SAID, execute, timed_out
from sepdeploy.errors import Missing

NO_FOLDER = "folder"  # stands in the place of an exit code
MOST_BEFORE = 1 << 20  # bytes of a greeting
_CODE = re.compile(rb"(\d{1,3}|folder)\.")
_SPECIAL = re.compile(rb"[^\w ./:=,+@%<>;|&()\[\]{}*?#~^-]")


class CutOff(Exception):
    """A call whose program never reported its end.

    Attributes:
        rc: The exit code of the client.
        begun: Whether our line was run at all.
        text: What came on standard error.
        last: The last line that came, of either stream.
    """

    def __init__(self, rc: int, marks: Marks) -> None:
        super().__init__()
        self.rc, self.begun = rc, marks.out.begun
        self.text = marks.err.said()
        self.last = last_line(self.text) or last_line(marks.out.said())


def run_marked(
    command: Sequence[str],
    call: Call,
    *,
    folder: str,
    where: str,
    source: IO[bytes] | None = None,
    target: IO[bytes] | None = None,
    most: int = MOST_SAID,
) -> Completed:
    """Run a program on a device through a client.

    Args:
        command: The client's command line, up to the line for the device.
        call: What is run there.
        folder: Where, made when missing.
        where: Names the device.
        source: What the program reads instead of ``call.stdin``.
        target: Where its output goes instead of into the result.
        most: Bytes of output after which it is ended.

    Raises:
        BadInput: It did not end in time, or says too much.
        CutOff: Its end was never reported.
        Missing: The folder cannot be made.
    """
    marks = Marks(target)
    subject = f"{where}: {call.argv[0]}"
    found = execute(
        [*command, marks.line(call, folder)],
        stdin=source or call.stdin,
        stdout=marks.out,
        stderr=marks.err,
        most=most,
        timeout=call.timeout + GRACE_S,
        subject=subject,
    )
    ended = marks.ended()
    if ended is None:
        raise CutOff(found.rc, marks)
    code, done = ended
    if code == NO_FOLDER:
        raise Missing(
            f"{where}: cannot make the folder {folder}: {done.error_line}",
            hint="free some space there, or set transport.workdir in the device profile",
        )
    if done.rc == 124:
        raise timed_out(subject, call.timeout)
    return done


def stored_size(done: Completed) -> int | None:
    """Return what ``wc -c`` said, None where it could not read the file."""
    return int(done.text) if done.rc == 0 and re.fullmatch(r"\d{1,15}", done.text) else None


def check_size(where: str, remote: str, local: Path, size: int) -> None:
    """Refuse a fetched file that has not the size that the device says.

    Raises:
        Missing: It has another.
    """
    found = local.stat().st_size
    if found != size:
        raise Missing(
            f"{where}: {remote} arrives damaged: {found} of {size} bytes",
            hint="does something else write to it there? then try again",
        )


def no_shell(where: str, said: str) -> Missing:
    """Return the error for an account that runs no commands."""
    return Missing(
        f"{where}: its login shell does not run commands" + (f": {said}" if said else ""),
        hint="give the account a shell there (sudo chsh -s /bin/sh USER), or log in as another",
    )


def last_line(text: str) -> str:
    """Return the last line that says something, as one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:200] if lines else ""


class Marks:
    """The marks of one call.

    Args:
        target: Where the program's output goes; None keeps it for ``ended``.

    Attributes:
        out: What comes back on standard output; give it to ``execute``.
        err: The same for standard error.
    """

    def __init__(self, target: IO[bytes] | None = None) -> None:
        self._name = f"sepdeploy-{secrets.token_hex(12)}"
        name = self._name.encode()
        self.out = Between(name + b"<", name + b">", target)
        self.err = Between(name + b"[", name + b"]")

    def line(self, call: Call, folder: str) -> str:
        """Return the line that makes and enters ``folder`` and runs a program there.

        It ends the program itself after its time where the device has ``timeout``, so that
        nothing keeps running there. The mark is put together on the device: a shell that repeats
        what it is given does not say it.
        """
        program = command_line(call.argv, call.env)
        limit = f"timeout -k 5 {max(1, round(call.timeout + 0.5))}"
        where = shlex.quote(folder)
        return _any_shell(
            f"m={self._name}; printf '%s[' $m >&2; printf '%s<' $m; umask 077; "
            f"if mkdir -p {where} && cd {where}; then "
            f"if timeout -k 5 9 true 2>/dev/null; then {limit} {program}; else {program}; fi; "
            f"r=$?; else r={NO_FOLDER}; fi; printf '%s>%s.' $m $r; printf '%s]%s.' $m $r >&2"
        )

    def ended(self) -> tuple[str, Completed] | None:
        """Return exit code and output; None when they were cut off, or never began.

        Very old daemons and some start-up files send standard error into standard output, or
        nowhere: its marks are then outside of those of the output, or missing.
        """
        code = _CODE.match(bytes(self.out.after))
        if code is None or (self.err.begun and not _CODE.match(bytes(self.err.after))):
            return None
        said = code[1].decode()
        rc = int(said) if said.isdigit() else 1
        return said, Completed(rc, self.out.kept(), self.err.kept())


class Between:
    """Takes a stream and passes on what stands between two marks.

    Attributes:
        begun: Whether the first mark has come.
        around: The start of what came before it.
        after: What came behind the second mark, its first bytes.
    """

    def __init__(self, begin: bytes, end: bytes, target: IO[bytes] | None = None) -> None:
        self._begin, self._end = begin, end
        self._own = io.BytesIO()
        self._target = target or self._own
        self._held = b""  # may be the start of a mark
        self._over = False
        self.begun = False
        self.around = bytearray()
        self.after = bytearray()

    def write(self, data: bytes) -> int:
        """Take the next bytes."""
        held = self._held + data
        if not self.begun:
            before, mark, rest = held.partition(self._begin)
            if not mark:
                keep = len(held) - len(self._begin) + 1
                self._note(held[: max(keep, 0)])
                self._held = held[max(keep, 0) :]
                return len(data)
            self._note(before)
            self.begun, held = True, rest
        if not self._over:
            inside, mark, rest = held.partition(self._end)
            if not mark:
                keep = max(len(held) - len(self._end) + 1, 0)
                self._target.write(held[:keep])
                self._held = held[keep:]
                return len(data)
            self._target.write(inside)
            self._over, held = True, rest
        self._held = b""
        self.after += held[: max(32 - len(self.after), 0)]
        return len(data)

    def _note(self, data: bytes) -> None:
        self.around += data[: MOST_BEFORE - len(self.around)]

    def kept(self) -> bytes:
        """Return what stood between the marks where it was kept here."""
        return self._own.getvalue()

    def said(self) -> str:
        """Return everything that came, as text."""
        whole = bytes(self.around) + self.kept() + self._held + bytes(self.after)
        return whole.decode(errors="replace")


def _any_shell(script: str) -> str:
    """Return a line that runs a POSIX script whatever the login shell is.

    csh reads "!" and line breaks even in single quotes, fish the backslash: such signs travel as
    numbers.
    """
    coded = _SPECIAL.sub(lambda m: b"\\0%03o" % m[0][0], script.encode())
    return f'sh -c \'eval "$(printf %b "{coded.decode()}")"\''
