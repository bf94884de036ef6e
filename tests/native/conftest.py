"""A native library, built once into a cache of its own; and a file of custom nodes."""

import fcntl
from pathlib import Path

import pytest
from custom_graphs import two_layers, write_custom

from sepdeploy.errors import Missing
from sepdeploy.programs import processor_family
from sepdeploy.runtimes import native
from sepdeploy.runtimes.native import toolchain


@pytest.fixture(scope="session")
def built_cache(pytestconfig):
    """A cache with a built library: one for all processes, and for later runs (`make slow`)."""
    try:
        toolchain.find_compiler()
    except Missing as error:
        pytest.skip(f"{error.message}; {error.hint}")
    made_from = toolchain.digest(processor_family())
    cache = pytestconfig.cache.mkdir(f"native-{made_from[:16]}")
    with pytest.MonkeyPatch.context() as patch, (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.delenv("SEPDEPLOY_NATIVE", raising=False)
        assert native.build_native().state == "ready"
    return cache


@pytest.fixture
def library(built_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(built_cache))
    monkeypatch.delenv("SEPDEPLOY_NATIVE", raising=False)
    status = native.native_status()
    assert status.state == "ready"
    return Path(status.path)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    folder = tmp_path / "empty-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv("SEPDEPLOY_NATIVE", raising=False)
    return folder


@pytest.fixture
def custom_file(tmp_path):
    """Path of a custom-flavour .onnx file whose two layers are custom nodes, and its function."""
    model, reference = two_layers()
    return write_custom(model, tmp_path / "custom.onnx"), reference
