"""``sepdeploy doctor``."""

from __future__ import annotations

from sepdeploy.commands.shell import JSON, give


def doctor(json: JSON = None) -> None:
    """Show what is installed and how to get the rest."""
    from sepdeploy import api
    from sepdeploy.reports import terminal

    findings = api.diagnose()
    document = {"schema": "sepdeploy.doctor/1", "findings": findings}
    give(document, json, lambda: terminal.doctor_table(findings))
