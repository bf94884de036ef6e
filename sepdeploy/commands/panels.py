"""Commands as the parser knows them: ``--help`` with headings, and a bare ``--json``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

from sepdeploy.errors import BadInput
from sepdeploy.files.roles import Writes

REST = "Options"
INPUTS = (".pt", ".onnx", ".tflite", ".manifest.json")


class PanelledCommand(TyperCommand):
    """A command whose help lists options under the headings that ``rich_help_panel`` names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, in which a bare ``--json`` means ``--json -``."""
        self._refuse_empty(ctx, args)
        self._refuse_folders(ctx, args)
        return super().parse_args(ctx, list(_with_targets(args)))

    def _refuse_empty(self, ctx: Any, words: Sequence[str]) -> None:
        """Refuse a value of no characters, which a shell makes of a variable that is not set."""
        bare = [before for before, word in itertools.pairwise(["", *words]) if word == ""]
        bare += [word[:-1] for word in words if word.startswith("--") and word.endswith("=")]
        for flag in bare:
            taken = [p for p in self.get_params(ctx) if flag in p.opts]
            if any('""' in (getattr(p, "help", "") or "") for p in taken):
                continue  # a choice of its own
            what = flag if taken else "an argument"
            raise BadInput(f"{what} is empty", hint=f"give {what} a value, or leave it out")

    def _refuse_folders(self, ctx: Any, words: Sequence[str]) -> None:
        """Refuse ``-o DIR/`` where a file is written; a path no longer has that slash."""
        roles = getattr(self.callback, "roles", {})
        for parameter in self.get_params(ctx):
            _, role = roles.get(parameter.name, ("", None))
            if not isinstance(role, Writes) or role.folder:
                continue
            for before, word in itertools.pairwise(["", *words]):
                flag, _, given = word.partition("=")
                value = word if before in parameter.opts else given
                if value.endswith("/") and (flag in parameter.opts or value == word):
                    raise BadInput(f"{value} is a folder, not a file", hint="add a file name to it")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the headed options, then the rest."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        rest: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            panel = getattr(parameter, "rich_help_panel", None)
            if parameter.param_type_name == "argument":
                panels["Arguments"].append(record)
            elif panel:
                panels.setdefault(panel, []).append(record)
            else:
                rest.append(record)
        for heading, records in {**panels, REST: rest}.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _with_targets(words: Sequence[str]) -> Iterator[str]:
    """Give each bare ``--json`` its target, standard output.

    It is bare before another flag, at the end, and before the first plain word where that names
    a model or an export, as in ``inspect --json net.onnx``.
    """
    plain = False
    for word, following in itertools.pairwise([*words, "--"]):
        yield word
        flag = following.startswith("-") and following != "-"
        if word == "--json" and (flag or (not plain and following.endswith(INPUTS))):
            yield "-"
        plain = plain or not word.startswith("-")
