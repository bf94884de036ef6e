"""``--json`` means the same in every command: a file, or standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from test_cli_wrong_uses import TEXTS

from sepdeploy.cli import COMMANDS, GROUPS, build

RESULTLESS = {"setup", "report"}  # a report is its page


def commands() -> dict[str, object]:
    app = typer.main.get_command(build())
    found = dict(app.commands.items())  # type: ignore[attr-defined]
    for group in GROUPS:
        found |= {f"{group} {name}": c for name, c in found.pop(group).commands.items()}
    return found


def test_every_command_with_a_result_has_it() -> None:
    found = commands()
    assert len(found) == len(COMMANDS) + sum(len(members) for _, members in GROUPS.values())
    metavars = {
        name: [p.metavar for p in command.params if "--json" in p.opts]
        for name, command in found.items()
        if name.split()[-1] not in RESULTLESS
    }
    assert {name: m for name, m in metavars.items() if m != ["[FILE]"]} == {}


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        (["doctor"], "sepdeploy.doctor/1"),
        (["devices", "list"], "sepdeploy.devices/1"),
        (["devices", "show", "rpi4"], "sepdeploy.device/1"),
        (["inspect", "{folder}/tiny.onnx"], "sepdeploy.inspect/1"),
        (["attack", "{folder}/tiny.pt", "-o", "a.npz", "--attack", "fgsm", "--samples", "9"],
         "sepdeploy.attack/1"),
    ],
)  # fmt: skip
def test_a_file_standard_output_and_nothing(
    exported: Path, call, words: list[str], schema: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.format(folder=exported) for word in words]
    drawn = call(*words)
    assert drawn.code == 0, drawn.err
    filed = call(*words, "--json", "found.json")
    assert filed.out == drawn.out
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["schema"] == schema
    for target in (["--json", "-"], ["--json"], ["--json", "--seed", "0"]):
        assert json.loads(call(*words, *target).out) == document


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        ("inspect --json tiny.onnx", "sepdeploy.inspect/1"),
        ("inspect -v --seed 3 --json tiny.tflite", "sepdeploy.inspect/1"),
        ("verify --json tiny.manifest.json", "sepdeploy.verify/1"),
        ("devices show --json rpi4", "sepdeploy.device/1"),
        ("devices list --json", "sepdeploy.devices/1"),
        ("check --json bench.json --baseline base.json", "sepdeploy.check/1"),
        ("baseline update --json bench.json --baseline base.json", "sepdeploy.update/1"),
        ("attack --json tiny.pt -o a.npz --attack fgsm --samples 9", "sepdeploy.attack/1"),
    ],
)
def test_a_bare_one_may_stand_before_the_arguments(
    exported: Path, call, words: str, schema: str, tmp_path: Path, monkeypatch
) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bench.json").write_text(TEXTS["bench.json"])
    monkeypatch.chdir(tmp_path)
    if "check" in words:
        assert call("baseline", "update", "bench.json", "--baseline", "base.json").code == 0
    before = {p.name for p in tmp_path.iterdir()}
    got = call(*words.split())
    assert got.code == 0, got.err
    assert json.loads(got.out)["schema"] == schema
    made = (
        {"a.npz"} if "attack" in words else {"base.json"} if "baseline update" in words else set()
    )
    assert {p.name for p in tmp_path.iterdir()} - before == made


@pytest.mark.parametrize(
    "words",
    [
        "devices show --json found rpi4",
        "devices show --json found -v rpi4",
        "devices show rpi4 --json found",
        "devices show --seed 3 --json found rpi4",
        "devices show --json=found rpi4",
        "devices list --json found",
        "doctor --json found",
    ],
)
def test_a_file_may_stand_before_the_arguments(call, words: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    got = call(*words.split())
    assert got.code == 0, got.err
    assert json.loads((tmp_path / "found").read_text())["schema"].startswith("sepdeploy.d")
