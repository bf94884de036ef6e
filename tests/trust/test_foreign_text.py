"""Foreign text on every channel: one line that no terminal and no build service obeys."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from exported_model import Outcome
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.errors import printable

Call = Callable[..., Outcome]
ORDERS = ["::error::x", "::stop-commands::x", "##[error]x", "##vso[task.x]y", "##teamcity[x]"]
SIGNS = ["\x1b[31m", "\r", "\n::error::x\n", "\u202e", "\u200b", "\x9b0m", "\x00", "\u2028"]
OBEYED = re.compile(r"^\s*::[A-Za-z]|##\[|##vso\[|##teamcity\[", re.MULTILINE)


def obeyed(text: str) -> str:
    """Return what a terminal or a build service would take for an order, "" if nothing."""
    found = OBEYED.search(text)
    odd = [c for c in text if not c.isprintable() and c != "\n"]
    return found[0] if found else "".join(odd)


@given(st.lists(st.one_of(st.sampled_from(ORDERS + SIGNS), st.text(max_size=6))))
def test_nothing_gets_through_and_twice_is_once(pieces: list[str]) -> None:
    text = printable("".join(pieces))
    assert not obeyed(text)
    assert "\n" not in text
    assert printable(text) == text


@pytest.mark.parametrize("text", ["torch::nn::Linear", "a [b] {c}", "é ∞ ×", "x: y", "## head"])
def test_plain_text_stays(text: str) -> None:
    assert printable(text) == text


def hostile(folder: Path) -> str:
    """Return an own .onnx file whose names are orders, and a profile and a result with some."""
    order = "".join(["::error::x ##[error] ", *SIGNS[:4]])
    model = onnx.load(folder / "tiny.onnx")
    for node in model.graph.node:
        node.name = f"{order}{node.name}"
    model.graph.node[-1].output[0] = model.graph.output[0].name = f"{order}out"
    model.producer_name = order
    name = "::stop-commands::x ##[error]\x1b[31m.onnx"
    onnx.save(model, folder / name)
    told = json.dumps(order)
    (folder / "p.toml").write_text(f'extends = "rpi4"\nid = "box"\nname = {told}\nnote = {told}\n')
    return name


COMMANDS: dict[str, list[str]] = {
    "inspect": ["inspect", "{name}"],
    "inspect of nothing": ["inspect", "::error::x\x1b[31m\n.onnx"],
    "verify": ["verify", "{name}"],
    "bench": ["bench", "{name}", "--samples", "5"],
    "export": ["export", "{name}"],
    "attack": ["attack", "{name}", "--attack", "::error::", "-o", "x.npz"],
    "train": ["train", "{name}"],
    "train with a key": ["train", "--set", "::error::x\x1b=1"],
    "compress": ["compress", "{name}", "-o", "y.pt", "--structure", "kron", "--target", "2x"],
    "check": ["check", "{name}"],
    "baseline": ["baseline", "update", "{name}"],
    "devices show": ["devices", "show", "./p.toml"],
    "devices show of nothing": ["devices", "show", "::error::\x1b[31m"],
    "devices setup": ["devices", "setup", "::error::\x1b[31m"],
    "an option": ["bench", "--::error::\x1b[31m"],
    "a command": ["::error::\x1b[31m"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_no_command_passes_an_order_on(
    copy: Path, call: Call, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(copy)
    name = hostile(copy)
    got = call(*[word.format(name=name) for word in words])
    assert got.code != 70, got.err
    assert not obeyed(got.out)
    assert not obeyed(got.err)


@pytest.mark.slow
def test_a_manifest_and_a_result_with_orders(
    copy: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    for path in copy.glob("tiny.manifest.json"):
        data: dict[str, Any] = json.loads(path.read_text())
        for layer in data["layers"]:
            layer["name"] = f"\n::error::{layer['name']}\x1b[31m"
        path.write_text(json.dumps(data))
    shutil.copy("tiny.onnx", "kept.onnx")
    for words in (["verify"], ["verify", "--layers"], ["inspect", "tiny.onnx"]):
        got = call(*words)
        assert got.code != 70, got.err
        assert not obeyed(got.out + "\n" + got.err)


def test_json_keeps_foreign_text_exactly(
    copy: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    hostile(copy)
    got = call("devices", "show", "./p.toml", "--json")
    assert json.loads(got.out)["name"].startswith("::error::x ##[error] \x1b[31m")
    assert "\x1b" not in got.out
