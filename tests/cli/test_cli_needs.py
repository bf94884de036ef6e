"""Every option of every command without what it needs: refused in one line, nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sepdeploy.cli import COMMANDS, GROUPS
from sepdeploy.settings import Options, defaults, flags, kinds_of, settings

ROWS = {
    **COMMANDS,
    **{f"{g} {n}": row for g, (_, rows) in GROUPS.items() for n, row in rows.items()},
}
BESIDE = {
    "attack": ["tiny.pt", "-o", "new.npz"], "bench": ["tiny.onnx"], "compress": ["tiny.pt"],
    "export": ["tiny.pt"], "inspect": ["tiny.onnx"], "train": ["-o", "new.pt"],
    "verify": ["tiny.manifest.json"],
}  # fmt: skip
# Of settings without choices whose value is read by a grammar of its own.
VALUES = {"attack": "fgsm", "eps": "0.2", "host": "pi@x", "runner": "tiny.onnx", "data": "digits"}
VALUES |= {"input_shape": "input=1,1,8,8"}
# Refusals that no record holds: what a file or another word takes the effect from.
BY_HAND = [
    ["inspect", "tiny.onnx", "--arch", "mine:make"],
    ["verify", "tiny.onnx", "--against", "tiny.tflite", "--layers"],
    ["verify", "tiny.onnx", "--against", "tiny.tflite", "--arch", "mine:make"],
    ["verify", "--against", "tiny.tflite"],
    ["bench", "tiny.onnx", "--require", "measured"],
    *([command, "tiny.onnx", "--input-shape", "input=1,1,8,8"] for command in ("bench", "inspect")),
]


def words_of(cls: type[Options], name: str, *, but: tuple[object, ...] = ()) -> list[str]:
    """An option with a value that it takes, other than its default and some more."""
    s, kind, default = settings(cls)[name], kinds_of(cls, name)[0], defaults(cls)[name]
    flag = flags(cls, name)[0]
    taken = default if isinstance(default, tuple) else (default,)
    others = [
        n for n in s.known() if n not in (*but, "") and (kind[:5] == "tuple" or n not in taken)
    ]
    if others:
        value = others[0]
    elif kind == "bool":
        value = "true" if not default else "false"
        if s.flag:
            return [flag.split("/")[-1] if default and not s.off else flag.split("/")[0]]
    elif kind in ("int", "float"):
        value = str(
            (default or 0) + (1 if s.high is None or (default or 0) + 1 <= s.high else -0.1)
        )
    else:
        value = VALUES.get(name, "x")
    return [flag, value] if s.flag else ["--set", f"{name}={value}"]


def lacking() -> Iterator[tuple[str, str, list[str]]]:
    """Every option, and words that give it while what it needs is not there."""
    for command, row in ROWS.items():
        for cls in getattr(row.load(), "options", ((), False))[0]:
            for name, needed in cls.needs().items():
                words = words_of(cls, name)
                for other, values in needed.items():
                    had = defaults(cls)[other]
                    if values and not set(values).isdisjoint(had if type(had) is tuple else (had,)):
                        words += words_of(cls, other, but=values)
                yield command, name, [*command.split(), *BESIDE[command], *words]


CASES = list(lacking())


def test_there_are_such_options_in_every_command_with_records() -> None:
    assert {command for command, _, _ in CASES} == {
        "bench", "compress", "export", "inspect", "train", "verify",
    }  # fmt: skip
    assert len(CASES) > 30


@pytest.mark.parametrize(
    ("name", "words"),
    [(name, words) for _, name, words in CASES] + [("", words) for words in BY_HAND],
    ids=lambda v: " ".join(v) if isinstance(v, list) else v,
)
def test_an_option_without_what_it_needs(
    name: str, words: list[str], copy: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    before = {p: p.read_bytes() for p in copy.rglob("*")}
    got = call(*words)
    assert got.code == (4 if "--require" in words else 2), got.err
    said = got.line.replace("_", "-")
    assert name.replace("_", "-") in said or any(w in said for w in words if w[0] == "-"), got.err
    assert got.err.count("  next: ") == 1
    assert {p: p.read_bytes() for p in copy.rglob("*")} == before
