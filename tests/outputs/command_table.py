"""Every command with its options that name files, from the table that the tool itself has."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.cli import COMMANDS, GROUPS
from sepdeploy.commands.flags import signature_of
from sepdeploy.commands.shell import roles_of
from sepdeploy.files.roles import Reads, Writes

# What an option that reads can be given in the folder of ``exported_model``.
GIVEN = {
    "artifacts": "tiny.onnx",
    "manifest": "tiny.manifest.json",
    "model": "tiny.pt",
    "file": "tiny.onnx",
    "recipe": "recipe.toml",
    "start": "dense.pt",
    "result": "result.json",
    "results": "result.json",
    "history": "tiny.history.jsonl",
    "baseline": "baseline.json",
    "config": "rules.toml",
    "adversarial": "adv.npz",
    "against": "old.onnx",
    "dense": "dense.onnx",
    "data": "images.npz",
    "data_dir": "pictures",
    "finetune": "finetune.toml",
    "runner": "program",
    "device": "replay:recording.jsonl",
}
# What an option has no effect without.
BESIDE = {"plot": "--frequency"}


@dataclass(frozen=True)
class Line:
    """A command and its options that name files."""

    words: tuple[str, ...]
    signature: inspect.Signature
    roles: dict[str, tuple[str, Reads | Writes]]

    def __str__(self) -> str:
        return " ".join(self.words)

    def reads(self) -> dict[str, str]:
        """The options that read, and how they are typed."""
        return {n: flag for n, (flag, role) in self.roles.items() if isinstance(role, Reads)}

    def writes(self) -> dict[str, tuple[str, Writes]]:
        """The options that write."""
        return {n: (flag, r) for n, (flag, r) in self.roles.items() if isinstance(r, Writes)}

    def typed(self, **given: str | Path) -> list[str]:
        """Return a command line: all inputs that must be given, and these options."""
        words = list(self.words)
        wanted = {
            name: GIVEN.get(name, "out") if name in self.roles else "rpi4"
            for name, parameter in self.signature.parameters.items()
            if parameter.default is parameter.empty
        } | given
        for name, value in wanted.items():
            flag = self.roles[name][0] if name in self.roles else name.upper()
            long = flag.startswith("--")
            words += [f"{flag}={value}"] if long else [flag, str(value)][not flag.startswith("-") :]
        return [*words, *(BESIDE[name] for name in given if name in BESIDE)]


def lines() -> Iterator[Line]:
    """Give every command."""
    rows = {(name,): row for name, row in COMMANDS.items()}
    for group, (_, members) in GROUPS.items():
        rows |= {(group, name): row for name, row in members.items()}
    for words, row in rows.items():
        function = row.load()
        signature = signature_of(function)
        yield Line(words, signature, roles_of(signature))
