"""A new report is a file and a row of ``REPORTS``: its flag, its help and its output follow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOY = """
import sys
from sepdeploy.reports import REPORTS, Report

def render_html(verdict, view):
    return f"<b>{verdict.verdict}</b> {view.source}"

REPORTS["html"] = Report("toy_report:render_html", "Write HTML.")
if __name__ == "__main__":
    from sepdeploy.cli import run
    sys.exit(run(sys.argv[1:]))
"""


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "import runpy; runpy.run_module('toy_report', None, '__main__')",
    ]
    return subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_a_report_is_a_flag_of_check(tmp_path: Path) -> None:
    (tmp_path / "toy_report.py").write_text(TOY)
    result = {
        "device": {"id": "host"},
        "artifact": {"path": "a.onnx", "sha256": "0" * 64, "format": "onnx",
                     "flavour": "standard", "quantization": "none"},
        "runtime": {"name": "onnxruntime", "version": "1"},
        "measurements": [{"metric": "params", "value": 3, "unit": "parameters", "kind": "STATIC"}],
    }  # fmt: skip
    report = {"schema": "sepdeploy.bench/1", "tool": {}, "host": {}, "results": [result]}
    (tmp_path / "bench.json").write_text(json.dumps(report))
    assert "--html <path>" in call(tmp_path, "check", "--help").stdout
    assert call(tmp_path, "baseline", "update", "bench.json").returncode == 0
    found = call(tmp_path, "check", "bench.json", "--html", "found.html")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "found.html").read_text() == "<b>ok</b> sepdeploy-baseline.json"
