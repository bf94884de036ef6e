"""A verdict as SARIF 2.1.0, for code scanning: one rule per metric, one result per finding."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any
from urllib.parse import quote

from sepdeploy import __version__
from sepdeploy.errors import printable
from sepdeploy.gate.verdict import Item, Outcome, Verdict
from sepdeploy.gate.wording import number
from sepdeploy.metrics import row
from sepdeploy.reports import View
from sepdeploy.reports.plain import headline, worst_first

SCHEMA_URI = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {
    Outcome.REGRESSION: "error",
    Outcome.UNSTABLE: "warning",
    Outcome.INCOMPARABLE: "warning",
    Outcome.WARNING: "note",
}


def render_sarif(verdict: Verdict, view: View) -> str:
    """Return a SARIF log."""
    findings = [i for i in worst_first(verdict) if i.verdict in _LEVELS]
    metrics = list(dict.fromkeys(printable(i.metric) for i in findings))  # rules must differ
    driver = {
        "name": "sepdeploy",
        "version": __version__,
        "rules": [_rule(metric) for metric in metrics],
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [
            {
                "executionSuccessful": verdict.verdict
                not in (Outcome.UNSTABLE, Outcome.INCOMPARABLE),
                "exitCode": verdict.exit_code,
                "exitCodeDescription": headline(verdict),
            }
        ],
        "results": _results(findings, metrics, view.source),
        "columnKind": "unicodeCodePoints",
    }
    log = {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _rule(metric: str) -> dict[str, Any]:
    text = row(metric).worse or f"The value of {printable(metric)} could not be accepted."
    return {
        "id": _rule_id(metric),
        "name": printable(metric),
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": "error"},
    }


def _results(findings: list[Item], metrics: list[str], source: str) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    results = []
    for item in findings:
        # What stays the same as long as it is the same finding, whatever its numbers are.
        names = [item.metric, item.artifact, item.device, str(item.kind), item.verdict.value]
        identity = "\n".join(printable(name) for name in names)
        seen[identity] += 1
        fingerprint = hashlib.sha256(f"{identity}\n{seen[identity]}".encode()).hexdigest()[:32]
        result = _result(item, source)
        result["ruleIndex"] = metrics.index(printable(item.metric))
        result["partialFingerprints"] = {"sepdeploy/1": fingerprint}
        results.append(result)
    return results


def _result(item: Item, source: str) -> dict[str, Any]:
    place = printable(f"{item.artifact} on {item.device}")
    kind = f" ({item.kind})" if item.kind else ""
    numbers = f"{number(item.baseline)} -> {number(item.current)}"
    return {
        "ruleId": _rule_id(item.metric),
        "level": _LEVELS[item.verdict],
        "message": {
            "text": f"{item.verdict}: {printable(item.metric)}{kind} of {place}: {numbers}; "
            f"{printable(item.why)}"
        },
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(printable(source).replace("\\", "/"))},
                    "region": {"startLine": 1},
                },
                "logicalLocations": [
                    {
                        "name": printable(item.metric),
                        "fullyQualifiedName": printable(
                            f"{item.device}/{item.artifact}/{item.metric}"
                        ),
                        "kind": "member",
                    }
                ],
            }
        ],
        "properties": {
            "baseline": item.baseline,
            "current": item.current,
            "limit": item.limit,
            "verdict": item.verdict.value,
        },
    }


def _rule_id(metric: str) -> str:
    return "sepdeploy/" + (quote(printable(metric), safe="") if metric != "*" else "comparison")
