"""Rules from TOML: every key, every way to get one wrong."""

from __future__ import annotations

import pytest

from sepdeploy.errors import BadInput
from sepdeploy.gate import Rules, load_rules, parse_rules


def test_a_pyproject_table_and_a_file_of_its_own_say_the_same(tmp_path):
    body = """
instructions_fail = "2%"
instructions_warn = 0.005
latency_effect = "15 %"
latency_p = 0.001
latency_samples = 100
accuracy_drop = 0.02
allow = { file_bytes = "2%", params = "any" }
ignore = ["metric=resident_bytes", "device=host, kind=HOST"]
new = "reported"
budgets = ["latency_ms <= 20", { rule = "file_bytes <= 500_000", artifact = "kron.*" }]
"""
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "x"\n[tool.sepdeploy.check]{body}', encoding="utf-8"
    )
    (tmp_path / "rules.toml").write_text(body, encoding="utf-8")
    rules = load_rules(None, tmp_path)
    assert rules == load_rules(tmp_path / "rules.toml") == load_rules(tmp_path / "pyproject.toml")
    assert rules.instructions_fail == 0.02
    assert rules.latency_effect == 0.15
    assert rules.latency_samples == 100
    assert rules.allow == {"file_bytes": 0.02, "params": float("inf")}
    assert rules.is_ignored(metric="resident_bytes", device="rpi4")
    assert rules.is_ignored(metric="x", device="host", kind="HOST")
    assert not rules.is_ignored(metric="x", device="host", kind="STATIC")
    assert [str(b) for b in rules.budgets] == ["latency_ms <= 20", "file_bytes <= 500,000"]
    assert rules.budgets[1].artifact == "kron.*"


def test_defaults_are_the_documented_ones():
    rules = Rules()
    assert (rules.instructions_fail, rules.instructions_warn) == (0.01, 0.0025)
    assert (rules.latency_effect, rules.latency_effect_interleaved, rules.latency_p) == (
        0.1,
        0.05,
        0.01,
    )
    assert (rules.accuracy_drop, rules.accuracy_p) == (0.01, 0.01)
    assert not rules.allow
    assert not rules.budgets


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "[tool.other]\na = 1\n"])
def test_a_pyproject_without_the_table_gives_the_defaults(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    assert load_rules(None, tmp_path) == Rules()


def test_an_unknown_key_names_the_three_closest(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("latency_efect = 0.1\n", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load_rules(path)
    closest = caught.value.message.split("closest: ")[1].split(", ")
    assert closest[0] == "latency_effect"
    assert len(closest) == 3
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"instructions_fail": 1}, "expected a fraction"),
        ({"instructions_fail": "5"}, "expected a fraction"),
        ({"instructions_fail": -0.1}, "expected a fraction"),
        ({"instructions_fail": True}, "expected a fraction"),
        ({"instructions_fail": float("nan")}, "expected a fraction"),
        ({"instructions_fail": "150%"}, "expected a fraction"),
        ({"instructions_fail": 0.001}, "above instructions_fail"),
        ({"latency_p": 0}, "probability"),
        ({"accuracy_p": 1.0}, "probability"),
        ({"latency_samples": 6}, "at least 7"),
        ({"latency_rounds": 30.0}, "whole number"),
        ({"allow": "file_bytes"}, "must be a table"),
        ({"allow": {"latency_ms": "2%"}}, "unknown STATIC metric 'latency_ms'"),
        ({"allow": {"file_bytes": 3}}, "expected a fraction"),
        ({"ignore": "metric=params"}, "list of texts"),
        ({"ignore": ["params"]}, "field=pattern"),
        ({"ignore": ["metrics=params"]}, "unknown field 'metrics'"),
        ({"ignore": ["metric=parms"]}, "unknown metric 'parms'; closest: params"),
        ({"new": "ignore"}, "incomparable, reported"),
        ({"budgets": "params <= 3"}, "must be a list"),
        ({"budgets": [3]}, "not a budget"),
        ({"budgets": ["params < 3"]}, "not a budget"),
        ({"budgets": ["params <= many"]}, "not a budget"),
        ({"budgets": ["latency <= 3"]}, "unknown metric 'latency'; closest: latency_ms"),
        ({"budgets": [{"rule": "params <= 3", "artefact": "x"}]}, "unknown key 'artefact'"),
        ({"budgets": [{"artifact": "x"}]}, "not a budget"),
        ("text", "must be a table"),
    ],
)
def test_wrong_values_are_refused_in_one_line(data, match):
    with pytest.raises(BadInput, match=match) as caught:
        parse_rules(data)
    assert "\n" not in caught.value.message


def test_files_that_are_not_toml(tmp_path):
    path = tmp_path / "rules.toml"
    for text in (b"= 3", b"\xff\xfe"):
        path.write_bytes(text)
        with pytest.raises(BadInput, match=r"(not valid|is no) TOML"):
            load_rules(path)
    with pytest.raises(BadInput, match="cannot read"):
        load_rules(tmp_path / "missing.toml")
    (tmp_path / "pyproject.toml").write_text("[tool.sepdeploy]\ncheck = 3\n", encoding="utf-8")
    with pytest.raises(BadInput, match="must be a table"):
        load_rules(None, tmp_path)
