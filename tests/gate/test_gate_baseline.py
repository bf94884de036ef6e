"""The baseline file: written atomically, read strictly, refused when it is nonsense."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepdeploy.codec import dump
from sepdeploy.errors import BadInput, Incomparable, SepdeployError, Unstable
from sepdeploy.gate import (
    check,
    format_baseline,
    load_baseline,
    load_report,
    make_baseline,
    update_baseline,
)
from sepdeploy.records import BenchReport, Kind


@pytest.fixture
def rich_report(build):
    """A report with one of everything that a baseline keeps."""
    emulated = {"id": "rpi4", "profile_sha256": "ee" * 32, "emulator": build.qemu}
    return BenchReport(
        {},
        {},
        (
            build.result(
                build.count("params", 1234, layers={"fc1": 1000, "fc2": 234}),
                build.count("instructions", 9_744_942, Kind.EMULATED, dot=7),
                build.outcomes(7, 10),
                build.outcomes(9, 10, metric="clean_accuracy"),
                build.latency([1.25, 1.5, 1.0], Kind.HOST),
                build.latency([2.5, 2.25, 2.75] * 10),
                build.count("condition_number", 3.5),
                build.count("load_ms", None, Kind.HOST),
                device=emulated,
            ),
            build.result(
                build.count("params", 1234), device="host", runtime="litert", version="2.3"
            ),
        ),
    )


def test_round_trip_keeps_samples_outcomes_and_keys(rich_report, tmp_path):
    path = tmp_path / "sepdeploy-baseline.json"
    written = update_baseline(rich_report, path)
    assert load_baseline(path) == written
    assert check(rich_report, written).exit_code == 0
    kept = {(e.key.kind, m.metric): m for e in written.entries for m in e.measurements}
    assert kept[Kind.MEASURED, "latency_ms"].samples == (2.5, 2.25, 2.75) * 10
    assert sum(kept[Kind.HOST, "adversarial_accuracy"].samples) == 7
    assert (Kind.HOST, "load_ms") not in kept
    # A host's clock is shown and never judged, so its samples would only swell the file.
    assert (kept[Kind.HOST, "latency_ms"].value, kept[Kind.HOST, "latency_ms"].samples) == (
        1.25,
        (),
    )
    emulated = next(e.key for e in written.entries if e.key.kind is Kind.EMULATED)
    assert (emulated.profile, emulated.libc) == ("ee" * 32, "2.36")
    assert emulated.emulator == "qemu-aarch64 7.2.22 plugin 1"


def test_the_file_is_made_for_review(rich_report, tmp_path):
    path = tmp_path / "b.json"
    update_baseline(rich_report, path)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["schema"] == "sepdeploy.baseline/1"
    assert '"samples": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]' in text
    assert '"samples": [2.5, 2.25, 2.75, 2.5,' in text
    assert text.endswith("}\n")
    update_baseline(rich_report, path)
    assert path.read_text(encoding="utf-8") == text
    other = tmp_path / "c.json"
    update_baseline(BenchReport({}, {}, rich_report.results[::-1]), other)
    assert other.read_text(encoding="utf-8") == text


def test_an_update_supersedes_what_it_measured_and_keeps_the_rest(build, tmp_path):
    path = tmp_path / "b.json"
    update_baseline(build.report(build.count("params", 1), device="rpi4"), path)
    update_baseline(build.report(build.count("params", 2), device="rpi5"), path)
    update_baseline(build.report(build.count("params", 3), device="rpi4", version="1.32.0"), path)
    found = {
        (e.key.device, e.key.runtime_version, e.measurements[0].value)
        for e in load_baseline(path).entries
    }
    assert found == {("rpi4", "1.32.0", 3), ("rpi5", "1.31.1", 2)}
    update_baseline(build.report(build.count("params", 4), device="rpi5"), path, replace=True)
    assert [e.key.device for e in load_baseline(path).entries] == ["rpi5"]


def test_interleaved_rounds_leave_their_new_side(build):
    turns = build.by_turns([[1.0, 1.0]] * 20, [[2.0, 3.0]] * 20, Kind.MEASURED)
    (entry,) = make_baseline(build.report(turns)).entries
    (kept,) = entry.measurements
    assert kept.samples == (2.0, 3.0) * 20
    assert "old_samples" not in kept.details
    assert "interleaved" not in kept.details
    (entry,) = make_baseline(build.report(turns, build.latency([7.0] * 40))).entries
    assert [m.samples[0] for m in entry.measurements] == [7.0]


@pytest.mark.parametrize("difference", [-0.05, 0.05])
def test_a_file_may_be_better_or_worse_than_another(build, difference):
    """A bench of two files holds their difference, which is below 0 as often as above."""
    known = {"accuracy": "clean_accuracy", "against": "a.onnx", "lost": 3, "gained": 1, "p": 0.6}
    between = build.count("accuracy_difference", difference, Kind.HOST, **known)
    report = build.report(build.count("params", 4), between)
    assert check(report, make_baseline(report)).exit_code == 0
    for name in known:  # tables and pages say them all
        bad = build.count("accuracy_difference", difference, Kind.HOST, **known | {name: []})
        with pytest.raises(BadInput, match=f"accuracy_difference has no {name}"):
            make_baseline(build.report(bad))


def test_nothing_is_written_when_the_result_is_refused(build, tmp_path):
    path = tmp_path / "b.json"
    update_baseline(build.report(build.count("params", 1)), path)
    before = path.read_bytes()
    good = build.count("params", 1)
    refused = [
        (build.report(build.count("params", float("nan"))), BadInput, "params is nan"),
        (build.report(build.count("params", -4)), BadInput, "negative"),
        (build.report(good, good), BadInput, "occurs twice"),
        (BenchReport({}, {}, (build.result(good), build.result(good))), BadInput, "occurs twice"),
        (build.report(build.count("latency_ms", 5.0, Kind.MEASURED)), BadInput, "no samples"),
        (build.report(build.count("clean_accuracy", 0.5, Kind.HOST)), BadInput, "no samples"),
        (BenchReport({}, {}, ()), Incomparable, "no measurement"),
        (build.report(build.count("params", None)), Incomparable, "no measurement"),
        (build.report(build.latency([5.0] * 50, throttled=True)), Unstable, "throttled"),
        (
            build.report(build.latency([5.0] * 50), device={"id": "rpi4", "throttled": True}),
            Unstable,
            "throttled",
        ),
    ]
    for report, error, match in refused:
        with pytest.raises(error, match=match):
            update_baseline(report, path)
        assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": "sepdeploy.baseline/2", "entries": []}',
        '{"schema": "sepdeploy.bench/1"}',
    ],
)
def test_an_unreadable_baseline_is_never_overwritten(build, tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput):
        load_baseline(path)
    with pytest.raises(BadInput):
        update_baseline(build.report(build.count("params", 1)), path)
    assert path.read_text(encoding="utf-8") == text


def test_a_missing_baseline_is_exit_three_and_says_how_to_write_one(tmp_path):
    with pytest.raises(Incomparable) as caught:
        load_baseline(tmp_path / "none.json")
    assert caught.value.exit_code == 3
    assert "baseline update" in caught.value.hint


def test_a_newer_schema_asks_for_an_upgrade(tmp_path):
    path = tmp_path / "b.json"
    path.write_text('{"schema": "sepdeploy.baseline/9", "entries": []}', encoding="utf-8")
    with pytest.raises(BadInput, match="newer") as caught:
        load_baseline(path)
    assert "upgrade" in caught.value.hint


def edited(document, path, value):
    changed = copy.deepcopy(document)
    *parents, last = path
    place = changed
    for key in parents:
        place = place[key]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    return changed


DELETE = object()
ENTRY, KEY, FIRST = ("entries", 0), ("entries", 0, "key"), ("entries", 0, "measurements", 0)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ((*KEY, "kind"), "FAST", "FAST"),
        ((*KEY, "threads"), "one", "threads"),
        ((*KEY, "device"), DELETE, "device"),
        ((*ENTRY, "measurements"), {}, "expected a list"),
        (("entries",), "none", "expected a list"),
        ((*FIRST, "value"), "many", "value"),
        ((*FIRST, "value"), None, "no value"),
        ((*FIRST, "value"), -0.5, "negative"),
        ((*FIRST, "value"), 1.5, "adversarial_accuracy is 1.5"),
        ((*FIRST, "value"), 0.9, "7 of 10 outcomes"),
        ((*FIRST, "n"), 11, "n 11 but 10 outcomes"),
        ((*FIRST, "samples"), [0.5] * 10, "other than 0 and 1"),
        ((*FIRST, "samples"), [], "no samples"),
        ((*FIRST, "metric"), DELETE, "metric"),
        ((*FIRST, "kind"), None, "kind"),
    ],
)
def test_baselines_edited_into_nonsense_are_named_and_refused(build, tmp_path, path, value, match):
    document = json.loads(format_baseline(make_baseline(build.report(build.outcomes(7, 10)))))
    file = tmp_path / "b.json"
    file.write_text(json.dumps(edited(document, path, value)), encoding="utf-8")
    with pytest.raises(BadInput, match=match) as caught:
        load_baseline(file)
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message


def test_duplicates_and_nan_in_the_file_are_refused(build, tmp_path):
    document = json.loads(format_baseline(make_baseline(build.report(build.count("params", 1)))))
    file = tmp_path / "b.json"
    doubled = edited(document, ("entries",), document["entries"] * 2)
    for text, match in [
        (json.dumps(doubled), "occurs twice"),
        ('{"schema": "sepdeploy.baseline/1", "entries": [], "entries": []}', "'entries' twice"),
        (json.dumps(edited(document, (*FIRST, "value"), float("nan"))), "nan is not a finite"),
        (
            json.dumps(edited(document, (*FIRST, "value"), 0)).replace(
                '"value": 0', '"value": 1e999'
            ),
            "inf is not a finite",
        ),
        (json.dumps(edited(document, (*FIRST, "value"), 10**4000)), "more than 24 digits"),
        ("[" * 100_000, "not valid JSON"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=match):
            load_baseline(file)
    file.write_bytes(b"\xff\xfe\x00 not text")
    with pytest.raises(BadInput):
        load_baseline(file)
    with pytest.raises(BadInput):
        load_baseline(tmp_path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["latency_ms", "MEASURED", "STATIC", True, [1, 0], {"layers": {"a": "b"}}]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(node, path=()):
    yield path
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_edit_of_either_file_breaks_the_gate(build, tmp_path, data):
    """Whatever a person or a merge does to the files: an answer or one clear line, no crash."""
    report = build.report(
        build.outcomes(7, 10),
        build.latency([1.0, 2.0, 3.0] * 20),
        build.count("instructions", 100, Kind.EMULATED, dot=3, layers={"a": 60, "b": 40}),
        build.count("noise_floor", 0.1, Kind.MEASURED, interleaved=0.05),
        build.by_turns([[1.0]] * 12, [[1.1]] * 12),
        device={"id": "rpi4", "emulator": build.qemu},
    )
    documents = {
        "baseline": json.loads(format_baseline(make_baseline(report))),
        "report": json.loads(dump(report)),
    }
    name = data.draw(st.sampled_from(sorted(documents)))
    spots = [p for p in places(documents[name]) if p]
    for path in data.draw(st.lists(st.sampled_from(spots), min_size=1, max_size=2)):
        value = data.draw(values | st.just(DELETE))
        try:
            documents[name] = edited(documents[name], path, value)
        except (KeyError, IndexError, TypeError):
            continue
    for key, document in documents.items():
        (tmp_path / key).write_text(json.dumps(document), encoding="utf-8")
    code, message = answer(tmp_path / "report", tmp_path / "baseline")
    assert code in (0, 1, 2, 3, 5)
    assert "\n" not in message


def answer(report, baseline):
    """Return the exit code and the error's line, as the command would."""
    try:
        return check(load_report(report), load_baseline(baseline)).exit_code, ""
    except SepdeployError as error:
        return error.exit_code, error.message


def test_a_place_that_cannot_be_written_is_bad_input(build, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="cannot write"):
        update_baseline(build.report(build.count("params", 1)), tmp_path / "file" / "b.json")


def test_reports_are_read_strictly(build, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(dump(build.report(build.outcomes(7, 10))), encoding="utf-8")
    assert load_report(path) == build.report(build.outcomes(7, 10))
    for text, match in [
        (path.read_text(encoding="utf-8").replace("bench/1", "bench/2"), "newer"),
        (
            path.read_text(encoding="utf-8").replace("bench/1", "inspect/1"),
            "expected 'sepdeploy.bench/1'",
        ),
        (path.read_text(encoding="utf-8").replace("0.7", "NaN"), "nan is not a finite"),
        (path.read_text(encoding="utf-8")[:200], "not valid JSON"),
    ]:
        broken = tmp_path / "broken.json"
        broken.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=match):
            load_report(broken)
    with pytest.raises(BadInput, match="cannot read"):
        load_report(tmp_path / "missing.json")
