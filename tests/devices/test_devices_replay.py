"""What was recorded comes back byte for byte, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.devices.transports import Disconnected, LocalTransport, Recorder, Replay, Transport
from sepdeploy.devices.transports.replay import _pack, _unpack
from sepdeploy.errors import BadInput, Missing


def exchange(device: Transport, folder: Path) -> list[object]:
    """Do one of everything; return all that was seen."""
    folder.mkdir(exist_ok=True)
    source, back = folder / "source", folder / "back"
    source.write_bytes(bytes(range(256)) * 400)
    seen: list[object] = [device.facts()]
    device.push(source, "files/x", executable=True)
    seen.append(device.run(["sh", "-c", "cat; echo e >&2; exit 3"], stdin=b"in\0\xff"))
    seen.append(device.run(["printenv", "A"], env={"A": "1"}))
    seen.append(device.shell("date +%N"))
    device.pull("files/x", back)
    seen.append(back.read_bytes())
    with pytest.raises(Missing) as error:
        device.pull("absent", back)
    seen.append((type(error.value), error.value.message, error.value.hint))
    return seen


def record(tmp_path: Path) -> tuple[Path, list[object]]:
    path = tmp_path / "recording"
    inner = LocalTransport(tmp_path / "device")
    with Recorder(inner, path, {"device": "rpi4", "when": "2024-05-01"}) as device:
        seen = exchange(device, tmp_path / "here")
    return path, seen


def test_a_replay_gives_the_same_bytes_without_the_device(tmp_path: Path) -> None:
    path, seen = record(tmp_path)
    with Replay(path) as device:
        assert exchange(device, tmp_path / "elsewhere") == seen
        assert device.context == {"device": "rpi4", "when": "2024-05-01"}
        assert device.where == "local"


def test_a_replay_of_a_recorded_replay_is_the_same_file(tmp_path: Path) -> None:
    path, _ = record(tmp_path)
    inner = Replay(path)
    with Recorder(inner, tmp_path / "second", inner.context) as device:
        exchange(device, tmp_path / "elsewhere")
    assert (tmp_path / "second").read_bytes() == path.read_bytes()


def test_no_path_of_this_machine_is_recorded(tmp_path: Path) -> None:
    path, _ = record(tmp_path)
    assert str(tmp_path / "here") not in path.read_text()


def test_a_lost_connection_is_replayed_as_one(tmp_path: Path) -> None:
    class Dropping(LocalTransport):
        def run(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            raise Disconnected("gone", hint="wait")

    with Recorder(Dropping(tmp_path), tmp_path / "r", {}) as device, pytest.raises(Disconnected):
        device.run(["true"])
    with pytest.raises(Disconnected, match="gone"):
        Replay(tmp_path / "r").run(["true"])


def test_a_failing_block_still_leaves_its_recording(tmp_path: Path) -> None:
    def fail() -> None:
        with Recorder(LocalTransport(tmp_path), tmp_path / "r", {}) as device:
            device.run(["true"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert Replay(tmp_path / "r").run(["true"]).rc == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda d, p: d.run(["false"]),
        lambda d, p: d.run(["true"], stdin=b"x"),
        lambda d, p: d.run(["true"], env={"A": "2"}),
        lambda d, p: d.push(p, "x"),
        lambda d, p: d.pull("x", p),
        lambda d, p: d.facts(),
    ],
)
def test_another_request_than_the_recorded_one_is_refused(tmp_path: Path, ask: object) -> None:
    with Recorder(LocalTransport(tmp_path), tmp_path / "r", {}) as device:
        device.run(["true"])
    (tmp_path / "p").write_text("p")
    with pytest.raises(BadInput, match=r"r:2: the recording has run 'true' where") as error:
        ask(Replay(tmp_path / "r"), tmp_path / "p")  # type: ignore[operator]
    assert "record it again" in error.value.hint


def test_asking_more_than_was_recorded_is_refused(tmp_path: Path) -> None:
    with Recorder(LocalTransport(tmp_path), tmp_path / "r", {}):
        pass
    with pytest.raises(BadInput, match=r"ends before run 'true'"):
        Replay(tmp_path / "r").run(["true"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]\n",
        "{}\n",
        '{"schema": "sepdeploy.recording/2"}\n',
        "\xff",
        "null\n",
        "[" * 9999,
    ],
)
def test_what_is_not_a_recording_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match="is not a recording"):
        Replay(tmp_path / "r")


@pytest.mark.parametrize(
    "change",
    [
        {"stdout": {"zlib": "AAAA"}},
        {"stdout": {"zlib": "!"}},
        {"stdout": 5},
        {"stderr": {}},
        {"rc": "0"},
        {"error": {}},
        {"error": {"type": "SystemExit", "message": "", "hint": ""}},
    ],
)
def test_a_damaged_recording_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "r"
    with Recorder(LocalTransport(tmp_path), path, {}) as device:
        device.run(["true"])
    header, line = path.read_text().splitlines()
    path.write_text(header + "\n" + json.dumps({**json.loads(line), **change}) + "\n")
    with pytest.raises(BadInput, match="damaged"):
        Replay(path).run(["true"])


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_packing_is_reversible(data: bytes) -> None:
    packed = _pack(data)
    assert _unpack(json.loads(json.dumps(packed))) == data
    assert _pack(_unpack(packed)) == packed
