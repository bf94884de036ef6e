"""The kernels by themselves: every set against dense matrices, in child processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sepdeploy.errors import Missing
from sepdeploy.programs import processor_family
from sepdeploy.runtimes.native import toolchain
from sepdeploy.runtimes.native.library import LIBRARY

TRIALS = Path(__file__).with_name("kernel_trials.py")
SETS = [name for name, _ in toolchain.sets_of(processor_family())]


@pytest.mark.parametrize("wanted", SETS)
def test_random_layers_equal_dense_matrices(library, wanted):
    done = subprocess.run(
        [sys.executable, str(TRIALS), str(library), "1"],
        env={**os.environ, "SEPDEPLOY_NATIVE_SET": wanted, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    used, error = done.stdout.split()
    if used != wanted:
        pytest.skip(f"this processor does not run {wanted}")
    assert float(error) < 1e-5


def compile_trial(compiler, library, folder):
    """A program that needs no Python and dies of an access beyond the samples."""
    source, program = Path(__file__).with_name("layers_trial.cpp"), folder / "trial"
    command = [*compiler.command, "-std=c++17", "-O2", source, library, "-o", program]
    subprocess.run([*command, f"-Wl,-rpath,{library.parent}"], check=True)
    return program


@pytest.fixture(scope="module")
def trial(built_cache, tmp_path_factory):
    (library,) = built_cache.rglob(LIBRARY)
    return compile_trial(toolchain.find_compiler(), library, tmp_path_factory.mktemp("trial"))


@pytest.mark.parametrize("wanted", SETS)
def test_layers_touch_nothing_beyond_their_samples(trial, wanted):
    done = subprocess.run(
        [trial], env={**os.environ, "SEPDEPLOY_NATIVE_SET": wanted},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    used, error = done.stdout.split()
    if used != wanted:
        pytest.skip(f"this processor does not run {wanted}")
    assert float(error) < 1e-5


def test_a_set_that_does_not_exist_is_not_taken(library):
    code = (
        "from sepdeploy.runtimes.native.selftest import Direct; import sys;"
        "print(Direct(sys.argv[1]).kernel_set)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library)],
        env={**os.environ, "SEPDEPLOY_NATIVE_SET": "nonsense"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "base"


def test_the_library_exports_its_interface_and_nothing_else(library):
    if (nm := shutil.which("nm")) is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run([nm, "-D", "--defined-only", library], capture_output=True, text=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    own = {n for n in names if not n.startswith("_Z")}  # templates of the C++ library itself
    assert own <= {
        "RegisterCustomOps", "sepdeploy_native_calls", "sepdeploy_native_digest",
        "sepdeploy_native_free", "sepdeploy_native_kron", "sepdeploy_native_lowrank",
        "sepdeploy_native_run", "sepdeploy_native_set",
        "tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate",
    }  # fmt: skip
    assert "RegisterCustomOps" in own


def test_the_library_needs_no_runtime_library(library):
    if (tool := shutil.which("readelf")) is None:
        pytest.skip("readelf is not installed")
    text = subprocess.run([tool, "-d", library], capture_output=True, text=True).stdout
    needed = {line.split("[")[1].rstrip("]") for line in text.splitlines() if "NEEDED" in line}
    assert not [name for name in needed if "onnx" in name or "tensorflow" in name]


@pytest.fixture(scope="module")
def arm_library(tmp_path_factory):
    """The library for 64-bit ARM, cross-compiled."""
    try:
        compiler = toolchain.find_compiler("aarch64-linux-gnu-g++")
    except Missing as error:
        pytest.skip(error.message)
    folder = tmp_path_factory.mktemp("arm")
    toolchain.compile_library(compiler, "aarch64", folder / "library.so", folder)
    return compiler, folder / "library.so"


@pytest.mark.slow
def test_the_sources_compile_for_aarch64(arm_library):
    head = arm_library[1].read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == 183  # EM_AARCH64


@pytest.mark.slow
def test_random_layers_on_an_emulated_arm_core(arm_library, tmp_path):
    compiler, library = arm_library
    sysroot = Path("/usr/aarch64-linux-gnu")
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if qemu is None or not sysroot.is_dir():
        pytest.skip("no qemu-aarch64, or no C library for it: apt-get install qemu-user")
    done = subprocess.run(
        [qemu, "-cpu", "cortex-a72", "-L", sysroot, compile_trial(compiler, library, tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    used, error = done.stdout.split()
    assert used == "base"
    assert float(error) < 1e-5
