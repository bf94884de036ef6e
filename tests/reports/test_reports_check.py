"""Every rendering of a verdict: against its schema, against hostile names, byte for byte."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from functools import partial
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from schemas import CHECK_SCHEMA, check_junit, sarif_validator

from sepdeploy.codec import dump
from sepdeploy.errors import printable
from sepdeploy.gate.verdict import Finding, Item, Outcome, Verdict, conclude
from sepdeploy.records import Kind
from sepdeploy.reports import REPORTS, View, render
from sepdeploy.reports.check_terminal import verdict_table
from sepdeploy.reports.markdown import MAX_ROWS
from sepdeploy.reports.plain import headline

PLAIN = View()


def render_terminal(verdict: Verdict, view: View = PLAIN) -> str:
    return str(verdict_table(verdict, view))


render_junit = partial(render, "junit")
render_sarif = partial(render, "sarif")
render_markdown = partial(render, "markdown")
render_annotations = partial(render, "github")

RENDERERS = {
    **{name: partial(render, name) for name in REPORTS},
    "terminal": render_terminal,
    "verbose": lambda verdict: render_terminal(verdict, View(verbose=True)),
    "json": dump,
}

HOSTILE = "x\x1b[2J\n::error::]]>&<b>`|@all\u202e,%\x00\ud800"


def make(outcome=Outcome.REGRESSION, **changes) -> Item:
    finding = Finding(
        outcome,
        changes.pop("why", "+1.5 %, more than +1 %; layer fc2 (+1,024) [onnxruntime 1.31.1]"),
        changes.pop("baseline", 9_744_942),
        changes.pop("current", 9_891_117),
        changes.pop("limit", 9_842_391),
    )
    names = {"metric": "instructions", "artifact": "kron.onnx", "device": "rpi4"}
    return finding.about(**({"kind": Kind.EMULATED} | names | changes))


names = st.text(max_size=40) | st.sampled_from(["kron.onnx", HOSTILE, "a" * 200, ""])
numbers = (
    st.none() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
)
items = st.builds(
    Item,
    metric=names,
    artifact=names,
    device=names,
    kind=st.none() | st.sampled_from(Kind),
    baseline=numbers,
    current=numbers,
    limit=numbers,
    verdict=st.sampled_from(Outcome),
    why=names,
)


def odd(metric):
    nothing = dict.fromkeys(("kind", "baseline", "current", "limit"))
    return Item(metric=metric, artifact="", device="", verdict=Outcome.WARNING, why="", **nothing)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(items, max_size=4))
@example([odd("\x1f"), odd("\x1e")])  # two names that print alike
def test_any_verdict_is_valid_in_every_output(found):
    verdict = conclude(found)
    jsonschema.validate(json.loads(dump(verdict)), CHECK_SCHEMA)
    sarif_validator().validate(json.loads(render_sarif(verdict)))
    check_junit(render_junit(verdict))
    for draw in RENDERERS.values():
        assert draw(verdict).encode("utf-8")
    assert render_terminal(verdict, View(verbose=True)).replace("\n", "").isprintable()
    for line in verdict_table(verdict, View(verbose=True)).lines(80):
        assert cell_len(line.plain) <= 80
    for line in render_annotations(verdict).splitlines():
        assert line.startswith(("::error ", "::warning ", "::notice "))


@pytest.mark.parametrize("name", RENDERERS)
def test_the_same_verdict_gives_the_same_bytes(name):
    verdict = conclude([make(o) for o in Outcome])
    assert RENDERERS[name](verdict) == RENDERERS[name](conclude([make(o) for o in Outcome]))


@pytest.mark.parametrize("name", RENDERERS)
@pytest.mark.parametrize("outcome", [Outcome.REGRESSION, Outcome.UNSTABLE, Outcome.INCOMPARABLE])
def test_every_output_names_what_moved_and_by_how_much(name, outcome):
    text = RENDERERS[name](conclude([make(outcome)]))
    for part in ("instructions", "kron.onnx", "rpi4", "EMULATED", "fc2", "+1.5"):
        assert part in text, part
    assert "9744942" in text.replace(",", "")
    assert "9891117" in text.replace(",", "")
    assert outcome.value in text


@pytest.mark.parametrize("name", RENDERERS)
def test_an_empty_verdict_says_why_it_does_not_pass(name):
    assert "nothing was measured" in RENDERERS[name](conclude([]))


def test_the_verdicts_agree():
    for mixture in itertools.combinations_with_replacement(Outcome, 2):
        verdict = conclude([make(o) for o in mixture])
        counts = Counter(i.verdict for i in verdict.items)
        run = json.loads(render_sarif(verdict))["runs"][0]
        assert run["invocations"][0]["exitCode"] == verdict.exit_code
        levels = Counter(r["level"] for r in run["results"])
        assert levels["error"] == counts[Outcome.REGRESSION]
        assert levels["warning"] == counts[Outcome.UNSTABLE] + counts[Outcome.INCOMPARABLE]
        assert levels["note"] == counts[Outcome.WARNING]
        root = check_junit(render_junit(verdict))
        assert int(root.attrib["failures"]) == counts[Outcome.REGRESSION]
        commands = Counter(line.split(" ")[0] for line in render_annotations(verdict).splitlines())
        assert commands["::error"] == levels["error"] + levels["warning"]
        assert headline(verdict).startswith(f"{verdict.verdict}: ")
        for text in (
            render_terminal(verdict),
            render_markdown(verdict),
            render_annotations(verdict),
        ):
            assert headline(verdict) in text


def test_a_long_headline_is_wrapped():
    verdict = conclude([make(o) for o in Outcome] * 11)
    lines = [line.plain for line in verdict_table(verdict, View()).lines(80)]
    assert max(len(line) for line in lines) <= 80
    assert lines[-1].endswith("(exit 1)")


def test_a_reason_of_several_rows_stands_once():
    rows = [make(Outcome.INCOMPARABLE, metric=f"m{i}", why="no such device") for i in range(12)]
    text = render_terminal(conclude([*rows, make(why="grew")]))
    assert text.count("no such device") == 1
    assert "N/A, 12 rows: no such device" in text
    assert text.count("grew") == 1


def test_sarif_points_at_a_file_of_the_repository():
    verdict = conclude([make()])
    log = json.loads(render_sarif(verdict, View("bench results/base line.json")))
    sarif_validator().validate(log)
    (found,) = log["runs"][0]["results"]
    location = found["locations"][0]
    assert (
        location["physicalLocation"]["artifactLocation"]["uri"]
        == "bench%20results/base%20line.json"
    )
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "rpi4/kron.onnx/instructions"
    assert log["runs"][0]["tool"]["driver"]["rules"][found["ruleIndex"]]["id"] == found["ruleId"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), "2.2"),
        (("runs", 0, "results", 0, "level"), "fatal"),
        (("runs", 0, "results", 0, "message"), "text"),
        (("runs", 0, "extra"), 1),
    ],
)
def test_the_schema_would_notice(path, value):
    log = json.loads(render_sarif(conclude([make()])))
    place = log
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        sarif_validator().validate(log)


def test_sarif_fingerprints_survive_other_numbers_and_tell_results_apart():
    def prints(*found):
        results = json.loads(render_sarif(conclude(found)))["runs"][0]["results"]
        return [r["partialFingerprints"]["sepdeploy/1"] for r in results]

    assert prints(make()) == prints(make(current=10_000_000, why="+2.6 %"))
    twice = prints(make(), make(), make(device="rpi5"))
    assert len(set(twice)) == 3
    assert twice[0] == prints(make())[0]


def test_a_warning_does_not_fail_a_suite_and_is_still_readable():
    root = check_junit(render_junit(conclude([make(Outcome.WARNING), make(Outcome.OK)])))
    assert root.attrib["failures"] == root.attrib["errors"] == "0"
    assert "warning: +1.5 %" in ET.tostring(root, encoding="unicode")


def test_cases_of_one_suite_have_names_of_their_own():
    root = check_junit(render_junit(conclude([make(), make(), make(kind=None)])))
    assert [c.attrib["name"] for c in root.iter("testcase")] == [
        "instructions EMULATED",
        "instructions EMULATED (2)",
        "instructions",
    ]


def test_markdown_is_inert():
    text = render_markdown(conclude([make(artifact=HOSTILE, why=HOSTILE, device="a|b`c")]))
    assert "\x1b" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| ❌")]
    cells = row.replace("\\|", "").strip("| ").split("|")
    assert len(cells) == 8
    outside_of_code = "".join(row.split("`")[::2])
    assert "@" not in outside_of_code
    assert "<b>" not in outside_of_code


def test_markdown_folds_what_is_fine_and_stays_within_a_comment():
    verdict = conclude([make(), make(Outcome.OK), *[make(Outcome.REPORTED)] * 3])
    loud, folded = render_markdown(verdict).split("<details>")
    assert loud.count("kron.onnx") == 1
    assert folded.count("kron.onnx") == 4
    many = conclude([make(why="w" * 150)] * 1000)
    text = render_markdown(many)
    assert f"{1000 - MAX_ROWS} more" in text
    assert len(text) < 65_536


def test_annotations_escape_what_would_end_them():
    text = render_annotations(
        conclude([make(why="50 % done\nnext", device="a:b,c")]), View("b.json")
    )
    error = text.splitlines()[1]
    assert error.startswith("::error file=b.json,line=1,title=sepdeploy regression%3A instructions")
    assert "a%3Ab%2Cc::" in error
    assert "50 %25 done" in error


def test_the_worst_annotation_comes_first():
    verdict = conclude(
        [make(Outcome.WARNING), make(Outcome.INCOMPARABLE), make(Outcome.REGRESSION)]
    )
    titles = [line.split("title=")[1] for line in render_annotations(verdict).splitlines()[1:]]
    assert [t.split("%3A")[0] for t in titles] == [
        "sepdeploy regression",
        "sepdeploy incomparable",
        "sepdeploy warning",
    ]


def test_the_terminal_shows_reasons_only_where_needed():
    verdict = conclude([make(), make(Outcome.OK, why="fine"), make(Outcome.REPORTED, why="shown")])
    text = render_terminal(verdict)
    assert "fc2" in text
    assert "fine" not in text
    assert "1 more measured but not judged" in text
    verbose = render_terminal(verdict, View(verbose=True))
    assert "fine" in verbose
    assert "shown" in verbose


GOLDEN = """\
        metric        kind       baseline        now

kron.onnx on rpi4
  FAIL  instructions  EMULATED  9,744,942  9,891,117
        +1.5 %, more than +1 %; layer fc2 (+1,024) [onnxruntime 1.31.1]
  ok    file_bytes    STATIC       50,001     50,001
  N/A   latency_ms    MEASURED         12          -
        in the baseline but not measured now

regression: 2 compared, 1 worse, 1 not comparable (exit 1)
"""


def test_the_terminal_looks_like_this():
    verdict = conclude(
        [
            make(),
            make(
                Outcome.OK, metric="file_bytes", kind=Kind.STATIC, baseline=50_001, current=50_001
            ),
            make(
                Outcome.INCOMPARABLE,
                metric="latency_ms",
                kind=Kind.MEASURED,
                baseline=12.0,
                current=None,
                why="in the baseline but not measured now",
            ),
        ]
    )
    assert render_terminal(verdict) == GOLDEN


def test_words():
    assert printable("a\x1b[0m\nb") == "a\N{REPLACEMENT CHARACTER}[0m b"


def test_a_verdict_reads_back():
    from sepdeploy.codec import parse

    verdict = conclude([make(), make(Outcome.OK, kind=None, limit=None)])
    assert parse(Verdict, dump(verdict), where="x") == verdict
