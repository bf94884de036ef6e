"""``devices setup host`` and what ``doctor`` says about native kernels."""

import json

import pytest

from sepdeploy import cli
from sepdeploy.runtimes import native
from sepdeploy.runtimes.native import toolchain


def finding(capsys):
    assert cli.run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    return next(f for f in found if f["name"] == "native kernels")


def test_setup_host_finds_what_is_built(library, capsys):
    assert cli.run(["devices", "setup", "host"]) == 0
    assert f"ready for onnxruntime {native.native_status().runtimes['onnxruntime']}" in (
        capsys.readouterr().err
    )
    shown = finding(capsys)
    assert shown["present"]
    assert "onnxruntime" in shown["version"]


@pytest.mark.slow
def test_setup_host_builds_into_the_cache(empty_cache, library, monkeypatch, capsys):
    good = library.read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    monkeypatch.setattr(
        toolchain, "compile_library", lambda c, m, target, scratch: target.write_bytes(good)
    )
    assert cli.run(["devices", "setup", "host"]) == 0
    said = capsys.readouterr().err
    assert "building native kernels" in said
    assert "onnxruntime" in native.native_status().runtimes


def test_without_a_compiler_setup_host_is_exit_4(empty_cache, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cli.run(["devices", "setup", "host"]) == 4
    assert "next: " in capsys.readouterr().err
    shown = finding(capsys)
    assert not shown["present"]
    assert shown["install"] == "sepdeploy devices setup host"


@pytest.mark.parametrize("value", ["0", "off"])
def test_doctor_says_that_they_are_switched_off(library, monkeypatch, capsys, value):
    monkeypatch.setenv("SEPDEPLOY_NATIVE", value)
    shown = finding(capsys)
    assert not shown["present"]
    assert "SEPDEPLOY_NATIVE" in shown["version"]
