"""Attacks that end early: gone on from to the same set, shared by processes, or refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sepdeploy import api, console
from sepdeploy.data.archive import FACTS, packed
from sepdeploy.errors import BadInput
from sepdeploy.exports import judged_images
from sepdeploy.models import load, save
from sepdeploy.threat import ATTACKS, Row, parse_attack
from sepdeploy.workflows import unfinished

DUO = Row("duo", members=("apgd-ce-9", "apgd-t-5"))
CHILD = Path(__file__).with_name("killed_attack.py")
FEW = {"attack": "duo", "eps": 0.001, "samples": 48}  # some stand
WORDS = ("--attack", "duo", "--eps", "0.001", "--samples", "48")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged_images, "BATCH", 16)
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0.0)
    monkeypatch.setitem(ATTACKS, "duo", DUO)


@dataclass(frozen=True)
class Made:
    """What an attack leaves: the set, and its state after the first batch."""

    whole: bytes
    begun: bytes
    told: list[str]


@pytest.fixture(scope="module")
def made(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What one attack that nothing interrupts makes."""
    out, told, states = tmp_path_factory.mktemp("whole") / "adv.npz", [], []
    state = out.with_name("adv.unfinished.npz")

    def watch(news: object) -> None:
        told.append(str(news))
        states.append(state.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judged_images, "BATCH", 16)
        patch.setattr(unfinished, "SAVE_EVERY_S", 0.0)
        patch.setitem(ATTACKS, "duo", DUO)
        api.attack(exported / "tiny.pt", out, on_progress=watch, **FEW)
    assert [p.name for p in out.parent.iterdir()] == ["adv.npz"]
    return Made(out.read_bytes(), states[1], told)


@pytest.fixture
def state(made: Made, tmp_path: Path) -> Path:
    """The state of an attack that ended after its first batch."""
    path = tmp_path / "adv.unfinished.npz"
    path.write_bytes(made.begun)
    return path


def stopped_at(model: Path, out: Path, batch: int) -> None:
    """Interrupt an attack before a batch."""
    told: list[str] = []

    def watch(news: object) -> None:
        told.append(str(news))
        if len(told) == batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.attack(model, out, on_progress=watch, **FEW)


@pytest.mark.parametrize("batch", [2, 4])  # in the first leg, and in the second
def test_an_interrupted_attack_goes_on_to_the_same_set(
    exported: Path, tmp_path: Path, made: Made, batch: int
) -> None:
    out = tmp_path / "adv.npz"
    stopped_at(exported / "tiny.pt", out, batch)
    assert [p.name for p in tmp_path.iterdir()] == ["adv.unfinished.npz"]
    told: list[str] = []
    api.attack(exported / "tiny.pt", out, resume=True, notify=told.append, **FEW)
    assert any(line.startswith("resuming duo, apgd-") for line in told)
    assert out.read_bytes() == made.whole
    assert [p.name for p in tmp_path.iterdir()] == ["adv.npz"]


def test_without_resume_it_starts_anew(exported: Path, made: Made, state: Path, call) -> None:
    state.write_bytes(b"garbage")
    words = ("attack", exported / "tiny.pt", "-o", state.with_name("adv.npz"), *WORDS)
    assert call(*words).code == 0
    assert [p.name for p in state.parent.iterdir()] == ["adv.npz"]
    assert "nothing to resume: there is no" in call(*words, "--resume").err
    assert state.with_name("adv.npz").read_bytes() == made.whole


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"eps": 0.2}, "changed: eps"),
        ({"attack": "pgd-9"}, "changed: attack, steps"),
        ({"samples": 47}, "changed: images"),
        ({"seed": 3}, "changed: images, seed"),
    ],
)
def test_the_state_of_another_attack_is_refused(
    exported: Path, made: Made, state: Path, changes: dict[str, object], what: str
) -> None:
    out = state.with_name("adv.npz")
    with pytest.raises(BadInput, match=f"belongs to another attack; {what}$"):
        api.attack(exported / "tiny.pt", out, resume=True, **(FEW | changes))
    assert {p: p.read_bytes() for p in state.parent.iterdir()} == {state: made.begun}


def test_the_state_of_another_model_is_refused(exported: Path, state: Path) -> None:
    model = load(exported / "tiny.pt")
    for parameter in model.parameters():
        parameter.data.add_(0.01)
    save(model, state.with_name("tiny.pt"))
    with pytest.raises(BadInput, match=r"changed: model$"):
        api.attack(state.with_name("tiny.pt"), state.with_name("adv.npz"), resume=True, **FEW)


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays[name] = change(arrays[name])
        path.write_bytes(packed(arrays))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b"garbage"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(packed({"points": np.zeros(3)})),
        changed(FACTS, lambda facts: facts[:-9]),
        changed(FACTS, lambda facts: np.frombuffer(b"{}", np.uint8)),
        changed("points", lambda points: points[1:]),
        changed("points", lambda points: points + np.float32(np.nan)),
        changed("points", lambda points: points.astype(np.float64)),
        changed("waiting", lambda waiting: waiting + 1000),
        changed("place", lambda place: place + 7),
    ],
)
def test_a_damaged_state_is_one_line(
    exported: Path, state: Path, call, damage: Callable[[Path], object]
) -> None:
    damage(state)
    out = state.with_name("adv.npz")
    got = call("attack", exported / "tiny.pt", "-o", out, *WORDS, "--resume")
    assert got.code == 2
    assert "adv.unfinished.npz" in got.line
    assert "start again" in got.err
    assert not out.exists()


def test_progress_tells_what_stands_and_how_long(made: Made) -> None:
    told = made.told
    assert told[0] == "duo, apgd-ce-9 (1 of 2): 0/48 images · 48 still stand"
    form = r"duo, apgd-(ce-9|t-5) \([12] of 2\): \d+/\d+ images · \d+ still stand · about .+ left"
    assert all(re.fullmatch(form, line) for line in told[1:])
    standing = [int(re.findall(r"(\d+) still", line)[0]) for line in told]
    assert standing == sorted(standing, reverse=True)


def test_progress_is_said_now_and_then_and_quiet_is_quiet(
    exported: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("attack", exported / "tiny.pt", "-o", tmp_path / "adv.npz", *WORDS)
    assert call(*words).err == ""
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    assert "still stand · about" in call(*words).err
    assert call(*words, "-q").err == ""


def test_an_attack_of_another_command_is_told_of_too(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged_images, "NEWS_S", 0.0)
    model, told = load(exported / "tiny.pt").eval(), []
    images, labels, ids = np.zeros((17, 1, 8, 8), np.float32), np.arange(17) % 10, np.arange(17)
    attack = parse_attack("fgsm", 0.1)
    judged_images.attack_images(model, images, labels, ids, attack, told.append)
    assert told[0] == "fgsm: 0/17 images · 17 still stand"
    assert told[1].startswith("fgsm: 9/17 images")  # two batches of one size


@pytest.mark.slow
def test_killed_and_gone_on_from(exported: Path, tmp_path: Path, made: Made) -> None:
    out = tmp_path / "adv.npz"
    command = [sys.executable, str(CHILD), exported / "tiny.pt", out, "3", *WORDS]
    done = subprocess.run(command, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert "adv.unfinished.npz" in {p.name for p in tmp_path.iterdir()}
    told: list[str] = []
    api.attack(exported / "tiny.pt", out, resume=True, notify=told.append, **FEW)
    assert told[0] == "resuming duo, apgd-ce-9 (1 of 2): 32/48 images · 17 still stand"
    assert out.read_bytes() == made.whole
    assert [p.name for p in tmp_path.iterdir()] == ["adv.npz"]


def torchrun(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            *map(str, words),
        ],
        capture_output=True, text=True, timeout=180, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_make_the_set_of_one(exported: Path, made: Made, state: Path) -> None:
    out, said = state.with_name("adv.npz"), state.with_name("said.json")
    done = torchrun(CHILD, exported / "tiny.pt", out, "99", *WORDS, "--resume", "--json", said)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("48 images") == done.stderr.count("resuming duo") == 1
    assert out.read_bytes() == made.whole
    assert json.loads(said.read_text())["images"] == 48
    assert {p.name for p in state.parent.iterdir()} == {"adv.npz", "said.json"}


@pytest.mark.slow
def test_an_error_of_two_processes_is_said_once(exported: Path, tmp_path: Path) -> None:
    words = ("attack", exported / "tiny.pt", "-o", tmp_path / "a.npz", "--attack", "none-3")
    done = torchrun("-m", "sepdeploy", *words)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == done.stderr.count("unknown attack") == 1
    assert not list(tmp_path.iterdir())
