"""The action and the page about CI say what the code does."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import textwrap
import tomllib
from pathlib import Path

import pytest

from sepdeploy.codec import dump
from sepdeploy.gate import Rules, format_baseline, make_baseline, parse_rules

ROOT = Path(__file__).resolve().parents[2]
ACTION = (ROOT / "action.yml").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def script():
    """The action's last step, as the runner hands it to bash."""
    return textwrap.dedent(ACTION.rsplit("run: |\n", 1)[1])


@pytest.fixture
def run_action(tmp_path):
    """Run the step with a stand-in for Python that notes its arguments."""
    stub = tmp_path / "python stub"
    stub.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" > "$ARGUMENTS"\n'
        'while [ $# -gt 0 ]; do [ "$1" = --markdown ] && echo "# verdict" > "$2"; shift; done\n'
        'exit "$STUB_CODE"\n',
        encoding="utf-8",
    )
    stub.chmod(0o755)
    places = {
        n: tmp_path / n.lower() for n in ("ARGUMENTS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
    }

    def run(code=0, **inputs):
        defaults = {
            "RESULT": "result.json",
            "BASELINE": "b.json",
            "CONFIG": "",
            "TOLERATE": "",
            "JUNIT": "j.xml",
            "SARIF": "s.sarif",
            "MARKDOWN": "c.md",
        }
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHON": str(stub),
            "STUB_CODE": str(code),
            **defaults,
            **inputs,
            **{n: str(p) for n, p in places.items()},
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script()],
            env=environment,
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        texts = {n: p.read_text(encoding="utf-8") for n, p in places.items()}
        return done, texts

    return run


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5])
def test_the_action_passes_the_exit_code_on(run_action, code):
    done, texts = run_action(code)
    assert done.returncode == code
    assert texts["GITHUB_OUTPUT"] == f"exit-code={code}\n"
    assert texts["GITHUB_STEP_SUMMARY"] == "# verdict\n"
    assert texts["ARGUMENTS"].split("\n")[:5] == [
        "-m",
        "sepdeploy",
        "check",
        "result.json",
        "--baseline",
    ]
    assert "--config" not in texts["ARGUMENTS"]


def test_the_action_tolerates_what_it_is_told_to_only(run_action):
    assert run_action(5, TOLERATE="3 5")[0].returncode == 0
    assert run_action(1, TOLERATE="3 5")[0].returncode == 1


def test_inputs_of_the_action_cannot_run_as_code(run_action, tmp_path):
    evil = "a b;touch pwned $(touch pwned) `touch pwned` \"'"
    _, texts = run_action(RESULT=evil, CONFIG=evil)
    assert texts["ARGUMENTS"].split("\n").count(evil) == 2
    assert not (tmp_path / "pwned").exists()
    # Nothing of the workflow's is pasted into a script.
    scripts = re.findall(r"run: (?:\|\n((?: {8}.*\n|\n)+)|(.*)\n)", ACTION)
    assert len(scripts) == 2
    assert not any("${{" in part for pair in scripts for part in pair)


def test_the_rules_of_the_page_are_the_defaults():
    (table,) = (tomllib.loads(text)["tool"]["sepdeploy"]["check"] for text in blocks("toml"))
    rules = parse_rules(table)
    assert set(table) == {f.name for f in dataclasses.fields(Rules)}
    examples = {"allow": {}, "ignore": (), "budgets": ()}
    assert dataclasses.replace(rules, **examples) == Rules()


def test_the_python_of_the_page_runs(build, tmp_path, monkeypatch, capsys):
    report = build.report(build.count("params", 3))
    (tmp_path / "result.json").write_text(dump(report), encoding="utf-8")
    text = format_baseline(make_baseline(report))
    (tmp_path / "sepdeploy-baseline.json").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block, "docs/ci.md", "exec"), {})
    assert capsys.readouterr().out == "ok params kron.onnx unchanged [onnxruntime 1.31.1]\n"


def test_recipes_pin_one_runtime_and_use_known_options():
    known = {
        "check": {
            "--baseline",
            "--config",
            "--junit",
            "--sarif",
            "--markdown",
            "--github",
            "--json",
        },
        "bench": {"--device", "--json", "--require", "--against", "--calibrate", "--host"},
    }
    for command, options in known.items():
        for line in re.findall(rf"sepdeploy {command} ([^\n`]*)", PAGE + ACTION):
            assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= options, line
    assert len(set(re.findall(r"onnxruntime==([\d.]+)", PAGE))) == 1
