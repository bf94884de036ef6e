"""``sepdeploy doctor``."""

from __future__ import annotations

from sepdeploy import console
from sepdeploy.commands.shell import JSON_FLAG


def doctor(json: JSON_FLAG = False) -> None:
    """Show what is installed and how to get the rest."""
    from sepdeploy import api
    from sepdeploy.codec import dump
    from sepdeploy.reports import terminal

    findings = api.diagnose()
    if json:
        console.write(dump({"schema": "sepdeploy.doctor/1", "findings": findings}))
    else:
        console.show(terminal.doctor_table(findings))
