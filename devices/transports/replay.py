"""Recorded exchanges with a device, and their playback.

A recording is a text file: one JSON object a line, the first of them the header. It holds every
request (programs with their arguments, digests of what was sent) and every answer (exit codes,
output, files, errors), and no path of the machine that recorded it. Played back in the same
order, it gives the same bytes without any device.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy import errors
from sepdeploy.codec import parse, parse_json, to_json
from sepdeploy.devices.transports.base import Call, Completed, Disconnected, Transport
from sepdeploy.errors import BadInput, SepdeployError
from sepdeploy.files import read_bytes, sha256_file, write_bytes, write_text

RECORDING_SCHEMA = "sepdeploy.recording/1"
MAX_RECORDING = 512 << 20
MAX_UNPACKED = 256 << 20
Line = dict[str, object]  # a request, its answer, or both

ERRORS: dict[str, type[SepdeployError]] = {
    **{e.__name__: e for e in (errors.BadInput, errors.Missing, errors.Unstable)},
    Disconnected.__name__: Disconnected,
}


@dataclass(frozen=True)
class _Header:
    """The first line of a recording."""

    transport: str
    address: str
    context: dict[str, Any]
    token: str = ""
    schema: str = RECORDING_SCHEMA


class Recorder(Transport):
    """Passes everything on to another transport and writes it down when closed.

    Args:
        inner: The transport to record; closed together with this one.
        path: The file to write.
        context: Plain JSON values to keep in the header (device id, time, host facts), for those
            who play the recording back.
    """

    def __init__(self, inner: Transport, path: Path, context: Mapping[str, object]) -> None:
        self.name, self.address, self.token = inner.name, inner.address, inner.token
        self.workdir = getattr(inner, "workdir", "")
        self._inner, self._path = inner, path
        self._context = dict(context)
        self._lines: list[Line] = []
        self._closed = False

    @contextmanager
    def _recorded(self, request: Line) -> Iterator[Line]:
        """Record a request with what is put into the answer, or with the error that it ends in."""
        answer: Line = {}
        try:
            yield answer
        except SepdeployError as error:
            name = type(error).__name__ if type(error).__name__ in ERRORS else "Missing"
            wrong = {"type": name, "message": error.message, "hint": error.hint}
            self._lines.append({**request, "error": wrong})
            raise
        self._lines.append(request | answer)

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Pass on and record the file's digest."""
        with self._recorded(_push(local, remote, executable)):
            self._inner.push(local, remote, executable=executable)

    def _run(self, call: Call) -> Completed:
        with self._recorded(_run(call)) as answer:
            done = self._inner.run(call.argv, stdin=call.stdin, timeout=call.timeout, env=call.env)
            answer |= {"rc": done.rc, "stdout": _pack(done.stdout), "stderr": _pack(done.stderr)}
        return done

    def pull(self, remote: str, local: Path) -> None:
        """Pass on and record the file."""
        with self._recorded({"op": "pull", "remote": remote}) as answer:
            self._inner.pull(remote, local)
            answer["content"] = _pack(read_bytes(local))

    def facts(self) -> dict[str, object]:
        """Pass on and record."""
        found = self._inner.facts()
        self._lines.append({"op": "facts", "facts": found})
        return found

    def close(self) -> None:
        """Close the inner transport and write the file; what was recorded so far is kept."""
        if self._closed:
            return
        self._closed = True
        try:
            self._inner.close()
        finally:
            header = to_json(_Header(self.name, self.address, self._context, self.token))
            lines = [json.dumps(line, sort_keys=True) for line in [header, *self._lines]]
            write_text(self._path, "\n".join(lines) + "\n")


class Replay(Transport):
    """Answers from a recording; a request that was not recorded next is an error.

    Its ``name`` and ``address`` are those of the recorded transport, so that whatever is built
    from its answers reads the same.

    Args:
        path: A file written by ``Recorder``.

    Attributes:
        context: What the recorder put into the header.

    Raises:
        BadInput: The file is not a recording.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        first, *rest = read_bytes(path, limit=MAX_RECORDING).splitlines() or [b""]
        try:
            header = parse(_Header, first, where="line 1")
            self._lines: list[Line] = [
                parse_json(line, where=f"line {n}") for n, line in enumerate(rest, 2)
            ]
        except BadInput as error:
            raise BadInput(
                f"{path} is not a recording of sepdeploy: {error.message}",
                hint="make one with: sepdeploy bench … --record FILE",
            ) from error
        self.name, self.address, self.token = header.transport, header.address, header.token
        self.context = header.context
        self._next = 0

    def _answer(self, request: Line) -> Line:
        where = f"{self._path}:{self._next + 2}"
        if self._next >= len(self._lines):
            raise BadInput(
                f"{where}: the recording ends before {_words(request)}", hint=RECORD_AGAIN
            )
        line = self._lines[self._next]
        if any(line.get(key) != value for key, value in request.items()):
            raise BadInput(
                f"{where}: the recording has {_words(line)} where {_words(request)} is asked",
                hint=RECORD_AGAIN,
            )
        self._next += 1
        if "error" in line:
            raise self._recorded_error(line["error"], where)
        return line

    def _recorded_error(self, data: Any, where: str) -> SepdeployError:
        try:
            return ERRORS[data["type"]](str(data["message"]), hint=str(data["hint"]))
        except (KeyError, TypeError) as error:
            raise BadInput(f"{where}: the recording is damaged", hint=RECORD_AGAIN) from error

    def _bytes(self, line: Line, key: str) -> bytes:
        try:
            return _unpack(line[key])
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
            raise BadInput(
                f"{self._path}:{self._next + 1}: the recording is damaged ({key})",
                hint=RECORD_AGAIN,
            ) from error

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Check that the same file was pushed."""
        self._answer(_push(local, remote, executable))

    def _run(self, call: Call) -> Completed:
        line = self._answer(_run(call))
        code = line.get("rc")
        if not isinstance(code, int):
            raise BadInput(f"{self._path}: the recording is damaged (rc)", hint=RECORD_AGAIN)
        return Completed(code, self._bytes(line, "stdout"), self._bytes(line, "stderr"))

    def pull(self, remote: str, local: Path) -> None:
        """Write the recorded file."""
        line = self._answer({"op": "pull", "remote": remote})
        write_bytes(local, self._bytes(line, "content"))

    def facts(self) -> dict[str, object]:
        """Return the recorded facts."""
        found = self._answer({"op": "facts"}).get("facts")
        return dict(found) if isinstance(found, dict) else {}


RECORD_AGAIN = "it was made with other files or options: record it again (--record FILE)"


def _push(local: Path, remote: str, executable: bool) -> Line:
    digest = sha256_file(local)
    return {"op": "push", "remote": remote, "sha256": digest, "executable": executable}


def _run(call: Call) -> Line:
    digest, env = hashlib.sha256(call.stdin).hexdigest(), dict(sorted((call.env or {}).items()))
    return {"op": "run", "argv": list(call.argv), "stdin_sha256": digest, "env": env}


def _words(request: Mapping[str, object]) -> str:
    """Return a request in a few words."""
    op = request.get("op")
    if op == "run":
        argv = request.get("argv")
        text = " ".join(map(str, argv if isinstance(argv, list) else ()))
        return f"run '{text[:60]}{'…' if len(text) > 60 else ''}'"
    return f"{op} {request.get('remote', '')}".strip()


def _pack(data: bytes) -> str | dict[str, str]:
    """Return bytes for JSON: plain text where it is text, compressed base64 where not."""
    try:
        text = data.decode("utf-8")
        if len(data) <= 1 << 16:
            return text
    except UnicodeDecodeError:
        pass
    return {"zlib": base64.b64encode(zlib.compress(data, 6)).decode("ascii")}


def _unpack(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    packed = base64.b64decode(value["zlib"], validate=True)
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, MAX_UNPACKED)
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError("truncated or too large")
    return data
