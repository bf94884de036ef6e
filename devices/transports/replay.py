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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy import errors
from sepdeploy.codec import parse, parse_json, to_json
from sepdeploy.devices.transports.base import (
    RUN_TIMEOUT_S,
    Completed,
    Disconnected,
    Transport,
)
from sepdeploy.errors import BadInput, SepdeployError
from sepdeploy.files import read_bytes, sha256_file, write_bytes, write_text

RECORDING_SCHEMA = "sepdeploy.recording/1"
MAX_RECORDING = 512 << 20
MAX_UNPACKED = 256 << 20

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
    schema: str = RECORDING_SCHEMA


class Recorder(Transport):
    """Passes everything on to another transport and writes it down when closed.

    Args:
        inner: The transport to record; closed together with this one.
        path: The file to write.
        context: Plain JSON values to keep in the header (device id, time, host facts), for those
            who play the recording back.
    """

    def __init__(self, inner: Transport, path: Path, context: Mapping[str, Any]) -> None:
        self.name, self.address = inner.name, inner.address
        self.workdir = getattr(inner, "workdir", "")
        self._inner, self._path = inner, path
        self._context = dict(context)
        self._lines: list[dict[str, Any]] = []
        self._closed = False

    def _record(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        self._lines.append({**request, **answer})

    def _failed(self, request: dict[str, Any], error: SepdeployError) -> None:
        name = type(error).__name__ if type(error).__name__ in ERRORS else "Missing"
        self._record(
            request, {"error": {"type": name, "message": error.message, "hint": error.hint}}
        )

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Pass on and record the file's digest."""
        request = _push(local, remote, executable)
        try:
            self._inner.push(local, remote, executable=executable)
        except SepdeployError as error:
            self._failed(request, error)
            raise
        self._record(request, {})

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = RUN_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Pass on and record what it answered."""
        request = _run(argv, stdin, env)
        try:
            done = self._inner.run(argv, stdin=stdin, timeout=timeout, env=env)
        except SepdeployError as error:
            self._failed(request, error)
            raise
        self._record(
            request, {"rc": done.rc, "stdout": _pack(done.stdout), "stderr": _pack(done.stderr)}
        )
        return done

    def pull(self, remote: str, local: Path) -> None:
        """Pass on and record the file."""
        request = {"op": "pull", "remote": remote}
        try:
            self._inner.pull(remote, local)
        except SepdeployError as error:
            self._failed(request, error)
            raise
        self._record(request, {"content": _pack(read_bytes(local))})

    def facts(self) -> dict[str, Any]:
        """Pass on and record."""
        found = self._inner.facts()
        self._record({"op": "facts"}, {"facts": found})
        return found

    def close(self) -> None:
        """Close the inner transport and write the file; what was recorded so far is kept."""
        if self._closed:
            return
        self._closed = True
        try:
            self._inner.close()
        finally:
            header = to_json(_Header(self.name, self.address, self._context))
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
            self._lines = [parse_json(line, where=f"line {n}") for n, line in enumerate(rest, 2)]
        except BadInput as error:
            raise BadInput(
                f"{path} is not a recording of sepdeploy: {error.message}",
                hint="make one with: sepdeploy bench … --record FILE",
            ) from error
        self.name, self.address, self.context = header.transport, header.address, header.context
        self._next = 0

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        where = f"{self._path}:{self._next + 2}"
        if self._next >= len(self._lines):
            raise BadInput(
                f"{where}: the recording ends before {_words(request)}", hint=RECORD_AGAIN
            )
        line: dict[str, Any] = self._lines[self._next]
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

    def _bytes(self, line: dict[str, Any], key: str) -> bytes:
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

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = RUN_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Return the recorded answer."""
        line = self._answer(_run(argv, stdin, env))
        if not isinstance(line.get("rc"), int):
            raise BadInput(f"{self._path}: the recording is damaged (rc)", hint=RECORD_AGAIN)
        return Completed(line["rc"], self._bytes(line, "stdout"), self._bytes(line, "stderr"))

    def pull(self, remote: str, local: Path) -> None:
        """Write the recorded file."""
        line = self._answer({"op": "pull", "remote": remote})
        write_bytes(local, self._bytes(line, "content"))

    def facts(self) -> dict[str, Any]:
        """Return the recorded facts."""
        found = self._answer({"op": "facts"}).get("facts")
        return dict(found) if isinstance(found, dict) else {}


RECORD_AGAIN = "it was made with other files or options: record it again (--record FILE)"


def _push(local: Path, remote: str, executable: bool) -> dict[str, Any]:
    digest = sha256_file(local)
    return {"op": "push", "remote": remote, "sha256": digest, "executable": executable}


def _run(argv: Sequence[str], stdin: bytes, env: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "op": "run",
        "argv": list(argv),
        "stdin_sha256": hashlib.sha256(stdin).hexdigest(),
        "env": dict(sorted((env or {}).items())),
    }


def _words(request: Mapping[str, Any]) -> str:
    """Return a request in a few words."""
    op = request.get("op")
    if op == "run":
        text = " ".join(str(a) for a in request.get("argv", ()))
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
