"""A verdict as GitHub workflow commands, which show up as annotations of the run."""

from __future__ import annotations

from sepdeploy.errors import printable
from sepdeploy.gate.verdict import Item, Outcome, Verdict
from sepdeploy.gate.wording import number
from sepdeploy.reports import View
from sepdeploy.reports.plain import headline, worst_first

_COMMANDS = {
    Outcome.REGRESSION: "error",
    Outcome.UNSTABLE: "error",
    Outcome.INCOMPARABLE: "error",
    Outcome.WARNING: "warning",
}


def render_annotations(verdict: Verdict, view: View) -> str:
    """Return one workflow command a line, worst first: services show ten of a kind at most."""
    lines = [f"::notice title=sepdeploy check::{_data(headline(verdict))}"]
    place = f"file={_property(view.source)},line=1," if view.source else ""
    for item in worst_first(verdict):
        if item.verdict in _COMMANDS:
            lines.append(
                f"::{_COMMANDS[item.verdict]} {place}title={_property(_title(item))}"
                f"::{_data(_message(item))}"
            )
    return "\n".join(lines) + "\n"


def _title(item: Item) -> str:
    return f"sepdeploy {item.verdict}: {item.metric} of {item.artifact} on {item.device}"


def _message(item: Item) -> str:
    kind = f" ({item.kind})" if item.kind else ""
    numbers = f"{number(item.baseline)} -> {number(item.current)}"
    return f"{item.metric}{kind} {numbers}: {item.why}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
