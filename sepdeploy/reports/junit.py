"""A verdict as JUnit XML: one suite per artifact and device, one case per number.

A regression is a ``failure``; what could not be judged is an ``error``, as a test that did not
run would be; what is only reported is ``skipped``.
"""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree as ET

from sepdeploy.errors import printable
from sepdeploy.gate.verdict import Item, Outcome, Verdict
from sepdeploy.gate.wording import number
from sepdeploy.reports import View
from sepdeploy.reports.plain import headline

_TAGS = {
    Outcome.REGRESSION: "failure",
    Outcome.UNSTABLE: "error",
    Outcome.INCOMPARABLE: "error",
    Outcome.REPORTED: "skipped",
}


def render_junit(verdict: Verdict, view: View) -> str:
    """Return a JUnit XML document."""
    root = ET.Element("testsuites", {"name": "sepdeploy check"} | _counts(verdict.items))
    for artifact, device in dict.fromkeys((i.artifact, i.device) for i in verdict.items):
        items = tuple(i for i in verdict.items if (i.artifact, i.device) == (artifact, device))
        skipped = sum(i.verdict is Outcome.REPORTED for i in items)
        names = {"name": printable(f"{artifact} on {device}")}
        suite = ET.SubElement(
            root, "testsuite", names | _counts(items) | {"skipped": str(skipped), "time": "0"}
        )
        seen: Counter[str] = Counter()
        for item in items:
            name = f"{item.metric} {item.kind}" if item.kind else item.metric
            seen[name] += 1
            # Readers merge cases of one name; runtimes and batches are told apart by a number.
            _case(suite, item, name if seen[name] == 1 else f"{name} ({seen[name]})")
    root[-1].append(_output(headline(verdict)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _counts(items: tuple[Item, ...]) -> dict[str, str]:
    tags = Counter(_TAGS.get(i.verdict) for i in items)
    return {
        "tests": str(len(items)),
        "failures": str(tags["failure"]),
        "errors": str(tags["error"]),
    }


def _case(suite: ET.Element, item: Item, name: str) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "name": printable(name),
            "classname": printable(f"{item.device}.{item.artifact}"),
            "time": "0",
        },
    )
    why = printable(item.why)
    tag = _TAGS.get(item.verdict)
    if tag == "skipped":
        ET.SubElement(case, tag, {"message": why})
    elif tag:
        message = {"message": f"{printable(item.metric)} {why}", "type": item.verdict.value}
        ET.SubElement(case, tag, message).text = _numbers(item)
    else:
        case.append(_output(f"{item.verdict}: {why}; {_numbers(item)}"))


def _numbers(item: Item) -> str:
    return (
        f"baseline {number(item.baseline)}, now {number(item.current)}, limit {number(item.limit)}"
    )


def _output(text: str) -> ET.Element:
    element = ET.Element("system-out")
    element.text = text
    return element
