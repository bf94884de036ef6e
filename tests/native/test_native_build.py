"""Building and trusting: only what was built here is loaded, and every failure says what to do."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sepdeploy import runtimes
from sepdeploy.errors import ArtifactCheckFailed, BadInput, Missing
from sepdeploy.runtimes import native
from sepdeploy.runtimes.native import build, proofs, toolchain
from sepdeploy.runtimes.native.library import LIBRARY, RECORD, build_folder


@pytest.fixture
def copied(built_cache, tmp_path, monkeypatch):
    """A build that a test may damage."""
    cache = tmp_path / "copied"
    shutil.copytree(built_cache, cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv("SEPDEPLOY_NATIVE", raising=False)
    assert native.native_status().state == "ready"
    return build_folder()


def test_a_build_is_found_again_and_not_repeated(library, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("built again")

    monkeypatch.setattr(toolchain, "compile_library", fail)
    status = native.build_native()
    assert status.state == "ready"
    assert Path(status.path) == library
    assert status.runtimes == {
        name: version for name, version in runtimes.versions().items() if name in status.runtimes
    }
    assert "onnxruntime" in status.runtimes
    assert status.compiler


def test_a_library_for_another_version_of_the_runtime_is_not_used(library, custom_file):
    path, now = custom_file[0], runtimes.versions()["onnxruntime"]
    assert native.claim_onnx(path, "onnxruntime", now).library == str(library)
    assert native.claim_onnx(path, "onnxruntime", "0.0.1").library == ""
    assert native.claim_onnx(path, "another-runtime", now).library == ""


def _changed(folder):
    with (folder / LIBRARY).open("ab") as file:
        file.write(b"\0")


def _swapped(folder):
    victim = Path(shutil.which("true")).read_bytes()
    (folder / LIBRARY).write_bytes(victim)


def _no_record(folder):
    (folder / RECORD).unlink()


def _nonsense_record(folder):
    (folder / RECORD).write_text("[" * 5000)


def _writable_by_all(folder):
    (folder / LIBRARY).chmod(0o666)


def _folder_writable_by_all(folder):
    folder.chmod(0o777)


def _linked(folder):
    real = folder.parent / "elsewhere.so"
    (folder / LIBRARY).rename(real)
    (folder / LIBRARY).symlink_to(real)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (_changed, "digest differs"),
        (_swapped, "digest differs"),
        (_no_record, "no record"),
        (_nonsense_record, "no record"),
        (_writable_by_all, "written by other users"),
        (_folder_writable_by_all, "written by other users"),
        (_linked, "is a link"),
    ],
)
def test_a_library_that_was_not_built_here_is_refused(copied, custom_file, harm, why):
    harm(copied)
    status = native.native_status()
    assert status.state == "refused"
    assert why in status.why
    claim = runtimes.custom_nodes(custom_file[0], "onnxruntime")
    assert claim.library == ""
    assert why in claim.note


def test_a_library_beside_the_model_is_never_looked_at(empty_cache, custom_file):
    path, _ = custom_file
    (path.parent / LIBRARY).write_bytes(b"\x7fELF")
    assert runtimes.custom_nodes(path, "onnxruntime").library == ""


@pytest.mark.slow
def test_refused_libraries_are_built_again(copied, monkeypatch):
    good = (copied / LIBRARY).read_bytes()
    monkeypatch.setattr(
        toolchain, "compile_library", lambda c, m, target, scratch: target.write_bytes(good)
    )
    _changed(copied)
    assert native.build_native().state == "ready"


def test_without_a_compiler_the_hint_says_how_to_get_one(empty_cache, monkeypatch):
    monkeypatch.setenv("PATH", str(empty_cache))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(Missing, match=r"no C\+\+ compiler") as caught:
        native.build_native()
    assert "apt-get install" in caught.value.hint
    assert native.native_status().state == "not built"
    assert not empty_cache.exists()


@pytest.mark.parametrize("cxx", ["no-such-compiler", "false", "'unclosed"])
def test_a_cxx_that_is_no_compiler_is_named(empty_cache, monkeypatch, cxx):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(Missing):
        native.build_native()


def test_a_compiler_that_fails_leaves_nothing_behind(empty_cache, monkeypatch, tmp_path):
    fake = tmp_path / "fake-c++"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo fake 1.0 && exit\n'
        "echo 'x.cpp:1: fatal error: cstddef: No such file' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(Missing, match="cstddef"):
        native.build_native()
    assert not list((empty_cache / "sepdeploy" / "native").iterdir())


def test_a_cache_that_cannot_be_written_is_bad_input(tmp_path, monkeypatch):
    try:
        toolchain.find_compiler()
    except Missing as error:
        pytest.skip(error.message)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("SEPDEPLOY_NATIVE", raising=False)
    with pytest.raises(BadInput, match="cannot write"):
        native.build_native()


def test_switched_off_kernels_are_not_built(empty_cache, monkeypatch):
    monkeypatch.setenv("SEPDEPLOY_NATIVE", "0")
    assert native.native_status().state == "off"
    with pytest.raises(BadInput, match="switched off"):
        native.build_native()


def test_kernels_with_wrong_results_do_not_count_as_built(empty_cache, monkeypatch):
    try:
        toolchain.find_compiler()
    except Missing as error:
        pytest.skip(error.message)
    monkeypatch.setattr(proofs, "self_test", lambda path, what: "relative error 1.0e+00")
    monkeypatch.setattr(
        toolchain, "compile_library", lambda c, m, target, scratch: target.write_bytes(b"")
    )
    with pytest.raises(ArtifactCheckFailed, match="self-test"):
        native.build_native()
    assert native.native_status().state == "not built"


def test_a_library_that_crashes_ends_only_its_child(tmp_path):
    path = tmp_path / "crash.so"
    path.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(ArtifactCheckFailed, match="self-test"):
        build.self_test(path)


def test_the_digest_follows_the_sources_and_flags(monkeypatch):
    before = toolchain.digest("x86_64")
    assert before == toolchain.digest("x86_64")
    assert before != toolchain.digest("aarch64")
    monkeypatch.setattr(toolchain, "FLAGS", (*toolchain.FLAGS, "-O3"))
    assert before != toolchain.digest("x86_64")


def test_the_record_says_what_was_built(library):
    data = json.loads((library.parent / RECORD).read_text())
    assert data["digest"] in library.parent.name
    assert data["sha256"] == native.native_status().sha256


def test_the_sources_compile_without_a_warning(tmp_path):
    try:
        compiler = toolchain.find_compiler()
    except Missing as error:
        pytest.skip(error.message)
    for path in toolchain.sources():
        if path.name != toolchain.KERNELS:
            continue
        done = subprocess.run(
            [*compiler.command, *toolchain.FLAGS, "-Wall", "-Wextra", "-Werror",
             "-DSEPDEPLOY_SET=base", "-fsyntax-only", str(path)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
