"""``--help`` in plain text with options under headings, for commands that have many."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

REST = "Options"


class PanelledCommand(TyperCommand):
    """A command whose help lists options under the headings that ``rich_help_panel`` names."""

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
