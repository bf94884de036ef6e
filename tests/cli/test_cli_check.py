"""``check`` and ``baseline update`` on real bench results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sepdeploy as sd


@pytest.fixture(scope="module")
def result(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench result of the tiny model, with A/A rounds and rounds against itself."""
    path = tmp_path_factory.mktemp("result") / "result.json"
    from sepdeploy.codec import dump

    report = sd.bench(
        [exported / "tiny.onnx"], attack="pgd-3", samples=40, calibrate=True,
        against=exported / "tiny.onnx",
    )  # fmt: skip
    found = json.loads(dump(report))
    for measurement in found["results"][0]["measurements"]:
        measurement.pop("disturbed", None)  # what else this machine does is not asked here
    path.write_text(json.dumps(found))
    return path


def edited(result: Path, target: Path, metric: str, value: float) -> Path:
    report = json.loads(result.read_text())
    for measurement in report["results"][0]["measurements"]:
        if measurement["metric"] == metric:
            measurement["value"] = value
    target.write_text(json.dumps(report))
    return target


def test_a_result_passes_against_itself(
    result: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("baseline", "update", result).code == 0
    got = call("check", result, "--json")
    assert got.code == 0, got.out
    assert json.loads(got.out)["verdict"] == "ok"


def test_a_larger_file_fails_with_1_and_every_output_says_so(
    result: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("baseline", "update", result, "--baseline", "base.json")
    larger = edited(result, tmp_path / "larger.json", "file_bytes", 10**6)
    got = call("check", larger, "--baseline", "base.json", "--junit", "j.xml", "--sarif", "s.json",
               "--markdown", "m.md", "--github")  # fmt: skip
    assert got.code == 1
    for text in (got.out, *(Path(n).read_text() for n in ("j.xml", "s.json", "m.md"))):
        assert "file_bytes" in text
    assert "::error" in got.out


def test_a_rule_of_the_project_can_allow_it(
    result: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("baseline", "update", result)
    larger = edited(result, tmp_path / "larger.json", "file_bytes", 10**6)
    Path("pyproject.toml").write_text('[tool.sepdeploy.check]\nallow = { file_bytes = "any" }\n')
    assert call("check", larger).code == 0


def test_without_a_baseline_only_interleaved_rounds_are_judged(
    result: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    got = call("check", result, "--json")
    assert got.code in (0, 5), got.out  # one file against itself: never a regression
    judged = [i for i in json.loads(got.out)["items"] if i["verdict"] != "reported"]
    assert {i["metric"] for i in judged} == {"latency_ms"}


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 3), ("{", 2), ('{"schema": "sepdeploy.baseline/999"}', 2), ("[]", 2)],
)
def test_bad_baselines(result: Path, tmp_path: Path, call, content: str | None, code: int) -> None:
    base = tmp_path / "base.json"
    if content is not None:
        base.write_text(content)
    got = call("check", result, "--baseline", base)
    assert got.code == code
    assert "next: " in got.err
    assert got.line
    if content is not None:
        assert base.read_text() == content


def test_a_result_that_is_none_is_bad_input(tmp_path: Path, call) -> None:
    path = tmp_path / "r.json"
    path.write_text("{}")
    assert call("check", path).code == 2
    assert call("baseline", "update", path, "--baseline", tmp_path / "b.json").code == 2
    assert not (tmp_path / "b.json").exists()
