"""Setting up: what is fetched, what is built, and what is said when something is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sepdeploy.cache import cache_folder, digest, whole_folder
from sepdeploy.devices.bundle import ABIS, build_bundle, bundle_plan, open_bundle
from sepdeploy.devices.bundle import build as bundle_build
from sepdeploy.devices.bundle.fetch import (
    cached_packages,
    cached_wheel,
    cross_libraries,
    downloads_folder,
)
from sepdeploy.devices.bundle.launch import bundle_launcher
from sepdeploy.devices.bundle.pins import DEBIAN_PACKAGES, LIBRARIES
from sepdeploy.devices.emulation import (
    CORES,
    can_emulate,
    device_transport,
    emulated_core,
    qemu_transport,
    setup,
    setup_plan,
)
from sepdeploy.devices.emulation.qemu import Qemu, counting_plugin, find_qemu
from sepdeploy.devices.emulation.setup import board_of, core_of
from sepdeploy.devices.emulation.view import Board, board_view, view_files
from sepdeploy.devices.profile import load_profiles, profile
from sepdeploy.errors import BadInput, Missing

MB = 1_000_000


def test_the_plan_names_everything_and_stays_small(empty_cache: Path) -> None:
    plan = setup_plan("cortex-a72")
    text = "\n".join(plan.downloads)
    assert "onnxruntime 1.31.1" in text
    assert "ai-edge-litert 2.3.0" in text
    assert "libc6" in text
    assert 30 * MB < plan.size <= 60 * MB
    assert not plan.ready
    assert not empty_cache.exists(), "a plan writes nothing"


@pytest.mark.parametrize("abi", ABIS)
def test_no_network_says_what_to_run_later(
    abi: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_build, "find_compiler", lambda name: None)
    for name in ("PIP_NO_INDEX", "PIP_NO_CACHE_DIR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty_cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(Missing, match="cannot download onnxruntime") as caught:
        build_bundle(abi)
    assert caught.value.exit_code == 4
    assert "pip download" in caught.value.hint
    assert f"onnxruntime=={ABIS[abi].wheels[0].version}" in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    assert not list((empty_cache / "bundles").glob("*")), "nothing half-made stays"


def test_a_machine_without_apt_says_what_to_run_elsewhere(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sepdeploy.devices.bundle import fetch

    monkeypatch.setattr(shutil, "which", lambda name, *rest: None)
    with pytest.raises(Missing, match="no apt") as caught:
        fetch.fetch_packages(ABIS["aarch64"])
    assert "apt-get download libc6:arm64" in caught.value.hint


def test_an_apt_that_fails_is_reported_in_one_line(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sepdeploy.devices.bundle import fetch

    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'E: Unable to locate package libc6' >&2\nexit 100\n")
    program.chmod(0o755)
    (program.parent / "dpkg-deb").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(Missing, match="Unable to locate package libc6") as caught:
        fetch.fetch_packages(ABIS["aarch64"])
    assert "\n" not in caught.value.message


def test_missing_programs_are_named_with_the_command_that_installs_them(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    plan = setup_plan("cortex-a53")
    assert len(plan.missing) == 3
    with pytest.raises(Missing, match="qemu-aarch64") as caught:
        setup("cortex-a53")
    assert "apt-get install -y qemu-user" in caught.value.hint
    with pytest.raises(Missing):
        qemu_transport("cortex-a53")


def test_what_was_not_set_up_is_not_opened(empty_cache: Path) -> None:
    with pytest.raises(Missing, match="not built") as caught:
        open_bundle("aarch64", setup="sepdeploy devices setup rpi5")
    assert caught.value.hint == "sepdeploy devices setup rpi5"


@pytest.mark.parametrize("damage", ["bytes", "absent", "manifest"])
def test_a_damaged_bundle_is_named(damage: str, copied_cache: Path) -> None:
    bundle = open_bundle("aarch64")
    assert bundle.folder.is_relative_to(copied_cache)
    file = bundle.folder / "runner"
    if damage == "bytes":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    elif damage == "absent":
        file.unlink()
    else:
        (bundle.folder / "bundle.json").write_text("{")
    with pytest.raises(Missing, match="damaged") as caught:
        open_bundle("aarch64")
    assert caught.value.hint.startswith(f"rm -r {bundle.folder}")


def test_the_bundle_is_the_same_wherever_it_lies(copied_cache: Path) -> None:
    bundle = open_bundle("aarch64")
    launcher = bundle_launcher(bundle)
    folder = f"bundle-{bundle.key}"
    assert launcher.argv[0] == f"{folder}/ld-linux-aarch64.so.1"
    assert launcher.argv[-1] == f"{folder}/runner"
    assert launcher.runnable <= set(launcher.files)
    assert all(path.is_file() for path in launcher.files.values())
    assert bundle_plan("aarch64") == ([], 0)


def test_a_changed_plugin_is_not_loaded(copied_cache: Path) -> None:
    try:
        qemu = find_qemu()
    except Missing as error:
        pytest.skip(error.message)
    library = counting_plugin(qemu)
    assert library.is_relative_to(copied_cache)
    library.write_bytes(b"something else")
    with pytest.raises(Missing, match="damaged"):
        counting_plugin(qemu)


def test_an_emulator_without_plugins_is_refused() -> None:
    with pytest.raises(Missing, match="without plugins") as caught:
        counting_plugin(Qemu("/usr/bin/qemu-aarch64-static", "7.2.22", plugins=False))
    assert "qemu-user" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "api"),
    [("6.2.0", 1), ("7.2.22", 1), ("8.2.2", 1), ("9.0.1", 2), ("9.1.0", 3), ("10.0.2", 3)],
)
def test_the_plugin_is_built_for_the_emulators_interface(version: str, api: int) -> None:
    assert Qemu("q", version, plugins=True).plugin_api == api


def test_only_whole_folders_appear(empty_cache: Path) -> None:
    def half() -> None:
        with whole_folder(empty_cache / "x") as made:
            (made / "a").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert list(empty_cache.iterdir()) == []
    for text in ("first", "second"):
        with whole_folder(empty_cache / "x") as made:
            (made / "a").write_text(text)
    assert (empty_cache / "x" / "a").read_text() == "first"
    assert len(list(empty_cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadInput, match="cannot write"),
        whole_folder(tmp_path / "file" / "x"),
    ):
        pass


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/sepdeploy")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification: ignore it
    assert cache_folder() == Path.home() / ".cache" / "sepdeploy"


def test_digests_tell_parts_apart() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("abc", "")}) == 4


def test_only_wheels_of_the_pinned_content_are_taken(empty_cache: Path) -> None:
    abi = ABIS["aarch64"]
    folder = downloads_folder(abi)
    folder.mkdir(parents=True)
    wheel = abi.wheels[0]
    path = folder / f"onnxruntime-{wheel.version}-cp311-cp311-manylinux_2_28_aarch64.whl"
    path.write_bytes(b"\0" * 1000)
    assert cached_wheel(wheel, abi) is None


def test_packages_put_there_by_hand_are_found(empty_cache: Path) -> None:
    abi = ABIS["aarch64"]
    folder = downloads_folder(abi)
    folder.mkdir(parents=True)
    for name in DEBIAN_PACKAGES[:-1]:
        (folder / f"{name}_1.0_arm64.deb").write_text("")
    assert cached_packages(abi) == []
    (folder / f"{DEBIAN_PACKAGES[-1]}_1.0_arm64.deb").write_text("")
    assert len(cached_packages(abi)) == len(DEBIAN_PACKAGES)


def test_the_cross_compilers_libraries_serve_only_when_complete(tmp_path: Path) -> None:
    abi = ABIS["aarch64"]
    folder = tmp_path / "aarch64-linux-gnu" / "lib"
    folder.mkdir(parents=True)
    for name in LIBRARIES:
        (folder / name).write_text("")
    assert cross_libraries(abi, tmp_path) is None
    (folder / abi.loader).write_text("")
    assert cross_libraries(abi, tmp_path) == folder


@pytest.mark.parametrize("core", CORES)
def test_the_board_describes_its_core(core: str, empty_cache: Path) -> None:
    """The identification register is what Linux shows; see the architecture manual, MIDR_EL1."""
    folder = board_view(CORES[core], Board())
    text = (folder / "proc/cpuinfo").read_text()
    assert text.count("processor\t:") == 4
    assert f"CPU part\t: 0x{CORES[core].part:03x}" in text
    assert ("asimddp" in text) == CORES[core].dot
    register = folder / "sys/devices/system/cpu/cpu3/regs/identification/midr_el1"
    assert int(register.read_text(), 16) >> 4 & 0xFFF == CORES[core].part
    assert (folder / "sys/devices/system/cpu/possible").read_text() == "0-3\n"
    assert board_view(CORES[core], Board()) == folder
    assert board_view(CORES[core], Board(processors=8)) != folder


def test_one_processor_has_no_range() -> None:
    assert view_files(CORES["cortex-a53"], Board(1))["sys/devices/system/cpu/online"] == "0\n"


def test_known_register_values() -> None:
    assert CORES["cortex-a72"].midr == 0x410FD083  # Raspberry Pi 4
    assert CORES["cortex-a53"].midr == 0x410FD034  # Raspberry Pi 3
    assert CORES["cortex-a76"].midr == 0x414FD0B1  # Raspberry Pi 5


def test_other_cores_have_a_stand_in_that_is_named() -> None:
    exact, mapped = emulated_core("cortex-a72"), emulated_core("cortex-x1")
    assert exact.exact
    assert exact.note == ""
    assert not mapped.exact
    assert mapped.core.name == "cortex-a76"
    assert "cortex-x1" in mapped.note
    assert "cortex-a76" in mapped.note
    with pytest.raises(BadInput, match=r"cortex-a99.*closest"):
        emulated_core("cortex-a99")


def test_the_manifest_lists_every_file() -> None:
    try:
        bundle = open_bundle("aarch64")
    except Missing as error:
        pytest.skip(f"{error.message}; {error.hint}")
    data = json.loads((bundle.folder / "bundle.json").read_text())
    names = {p.name for p in bundle.folder.iterdir()} - {"bundle.json"}
    assert names == set(data["files"])
    assert bundle.versions["onnxruntime"] == "1.31.1"


def test_every_device_with_arm_cores_has_one_to_emulate() -> None:
    for known in load_profiles().values():
        assert can_emulate(known) == (known.abi == "aarch64")
        if can_emulate(known):
            target = emulated_core(core_of(known))
            own = next(c for c in known.cluster if c.core == known.emulate)
            assert target.core.dot == own.dot, known.id
            if target.exact:
                assert target.core.part == own.midr_part, known.id
            assert board_of(known).processors == sum(c.count for c in known.cluster)


def test_the_board_is_the_devices_own() -> None:
    assert board_of(profile("rpi-zero2w")) == Board(4, 1_000_000, 512, 32, 32)
    caches = board_of(profile("rpi5")).caches(CORES["cortex-a76"])
    assert caches == "l1d=64,l1i=64,l2=512,l3=2048"
    files = view_files(CORES["cortex-a53"], board_of(profile("rpi-zero2w")))
    assert files["sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"] == "1000000\n"


def test_a_device_without_cores_is_not_emulated() -> None:
    with pytest.raises(Missing, match="host cannot be emulated"):
        device_transport(profile("host"))
