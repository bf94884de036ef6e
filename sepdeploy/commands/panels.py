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
        return super().parse_args(ctx, list(self._with_targets(ctx, args)))

    def _with_targets(self, ctx: Any, words: Sequence[str]) -> Iterator[str]:
        """Give each bare ``--json`` its target, standard output.

        It is bare before another flag, at the end, and where the next word is an argument of the
        command: one that it cannot do without (``devices show --json rpi4``), or a model or an
        export (``bench --json net.onnx``).
        """
        plain = self._plain_words(ctx, words)
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        needed = sum(p.required for p in arguments)
        for place, (word, following) in enumerate(itertools.pairwise([*words, "--"])):
            yield word
            if word == "--json" and place not in plain:
                flag = following.startswith("-") and following != "-"
                argument = following != "-" and len(plain) < needed
                named = bool(arguments) and not plain and following.endswith(INPUTS)
                if flag or argument or named:
                    yield "-"

    def _plain_words(self, ctx: Any, words: Sequence[str]) -> set[int]:
        """Return the places of words that are neither flags nor what follows a flag."""
        flags = [p for p in self.get_params(ctx) if p.param_type_name == "option"]
        valued = {o for p in flags if not getattr(p, "is_flag", False) for o in p.opts}
        found, before, rest = set(), "", False
        for place, word in enumerate(words):
            if rest or (before not in valued and (word == "-" or not word.startswith("-"))):
                found.add(place)
            rest = rest or word == "--"
            before = word if before not in valued or word.startswith("-") else ""
        return found

    def _refuse_empty(self, ctx: Any, words: Sequence[str]) -> None:
        """Refuse a value of no characters, which a shell makes of a variable that is not set."""
        bare = [before for before, word in itertools.pairwise(["", *words]) if word == ""]
        bare += [word[:-1] for word in words if word.startswith("--") and word.endswith("=")]
        for flag in bare:
            taken = [p for p in self.get_params(ctx) if flag in p.opts]
            if any('""' in (getattr(p, "help", "") or "") for p in taken):
                continue  # a choice of its own
            if not taken:
                raise BadInput("an argument is empty", hint=f"see {ctx.command_path} --help")
            out = "" if any(p.required for p in taken) else ", or leave it out"
            raise BadInput(f"{flag} is empty", hint=f"give {flag} a value{out}")

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
