"""Device profiles: what is packaged, what users add, and how mistakes are told."""

from __future__ import annotations

import contextlib
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.codec import dump, from_json, to_json
from sepdeploy.devices.emulation.cores import emulated_core
from sepdeploy.devices.profile import (
    Cluster,
    DeviceProfile,
    Memory,
    TransportSettings,
    load_profiles,
    parse_profile,
    profile,
)
from sepdeploy.errors import BadInput

PROMISED = {
    "host", "rpi-zero2w", "rpi3b+", "rpi4", "rpi5", "jetson-nano", "pixel6", "pixel7", "pixel8",
    "sd8gen2", "galaxy-a54", "android-emulator",
}  # fmt: skip
UNKNOWN = {"host", "android-emulator"}  # they are whatever machine runs them
FOLDER = Path(__file__).resolve().parents[2] / "devices/profiles"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config/sepdeploy/devices"
    folder.mkdir(parents=True)
    return folder


def test_every_promised_device_has_a_profile() -> None:
    profiles = load_profiles()
    assert set(profiles) == PROMISED
    for name, found in profiles.items():
        assert (found.id, found.schema) == (name, 1)
        assert found.estimable == (name not in UNKNOWN)
        assert (FOLDER / f"{name}.toml").is_file()


@pytest.mark.parametrize("name", sorted(PROMISED - UNKNOWN))
def test_every_figure_has_a_source_and_every_source_a_figure(name: str) -> None:
    found = profile(name)
    figures = found.figures()
    assert [f.key for f in figures if not f.source] == []
    keys = {f.key for f in figures}
    plain = {".".join(p for p in k.split(".") if not p.isdigit()) for k in keys}
    for named in (*found.sources, *found.unverified):
        assert any(k == named or k.startswith(f"{named}.") for k in keys | plain), named
    for f in figures:
        if "guess" in f.source or "commonly" in f.source:
            assert not f.verified, f.key


# GFLOP/s of one core of the fastest cluster, GB/s, dot: the table of the device study.
@pytest.mark.parametrize(
    ("name", "gflops", "gbs", "dot"),
    [
        ("rpi-zero2w", 8, 2.6, False),
        ("rpi3b+", 11.2, 2.3, False),
        ("rpi4", 14.4, 5.56, False),
        ("rpi5", 38.4, 10.5, True),
        ("jetson-nano", 11.4, 7.5, False),
        ("pixel6", 90, 22, True),
        ("pixel7", 91, 22, True),
        ("pixel8", 93, 27, True),
        ("sd8gen2", 102, 35, True),
        ("galaxy-a54", 38, 13.5, True),
    ],
)
def test_the_figures_agree_with_the_study(name: str, gflops: float, gbs: float, dot: bool) -> None:
    found = profile(name)
    big = found.cluster[0]
    assert big.ghz * big.fp32_flop_cycle == pytest.approx(gflops, rel=0.015)
    assert found.memory is not None
    assert found.memory.bw_gbs == gbs
    assert big.dot == dot
    peaks = [c.ghz * c.fp32_flop_cycle for c in found.cluster]
    assert peaks == sorted(peaks, reverse=True)
    for c in found.cluster:
        assert c.int8_mac_cycle == c.fp32_flop_cycle // 2 * (4 if c.dot else 2)


@pytest.mark.parametrize("name", sorted(PROMISED - UNKNOWN))
def test_the_core_to_emulate_is_known_to_the_emulator(name: str) -> None:
    found = profile(name)
    core = emulated_core(found.emulate).core
    assert core.dot == found.cluster[0].dot
    if found.cluster[0].core == core.name:
        assert found.cluster[0].midr_part == core.part


def test_a_profile_survives_json() -> None:
    found = profile("pixel6")
    assert from_json(type(found), to_json(found)) == found
    assert '"unverified"' in dump(found)


def test_how_a_device_is_reached_does_not_change_its_digest() -> None:
    text = (FOLDER / "rpi4.toml").read_text()
    moved = parse_profile(text.replace('host = ""', 'host = "pi@a"'), where="x")
    faster = parse_profile(text.replace("ghz = 1.8", "ghz = 2.0"), where="x")
    assert moved.digest == profile("rpi4").digest
    assert faster.digest != moved.digest


def test_a_file_of_the_user_by_path(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('extends = "rpi4"\nid = "attic"\n[transport]\nhost = "pi@attic"\n')
    found = profile(str(path))
    assert (found.id, found.transport.host, found.transport.python) == (
        "attic",
        "pi@attic",
        "python3",
    )
    assert found.cluster == profile("rpi4").cluster
    assert found.sources == profile("rpi4").sources


def test_an_extending_profile_changes_one_figure(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text('extends = "pixel6"\n[[cluster]]\nghz = 1.5\n')
    found, base = profile(str(path)), profile("pixel6")
    assert found.cluster[0].ghz == 1.5
    assert found.cluster[0].core == "cortex-x1"
    assert found.cluster[1:] == base.cluster[1:]


def test_files_in_the_config_folder_add_and_replace(own: Path) -> None:
    (own / "a.toml").write_text('extends = "rpi5"\nid = "lab-pi"\nname = "the one in the lab"\n')
    (own / "b.toml").write_text('extends = "rpi4"\n[transport]\nhost = "pi@raspberrypi.local"\n')
    (own / "notes.txt").write_text("not a profile")
    profiles = load_profiles()
    assert set(profiles) == PROMISED | {"lab-pi"}
    assert profile("lab-pi").name == "the one in the lab"
    assert profile("rpi4").transport.host == "pi@raspberrypi.local"


def test_two_files_with_one_id_are_refused(own: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (own / name).write_text('extends = "rpi4"\n')
    with pytest.raises(BadInput, match=r"b\.toml repeats the device id 'rpi4'"):
        load_profiles()


def test_an_unknown_device_names_the_closest() -> None:
    with pytest.raises(BadInput, match=r"unknown device 'rpi-4'; closest: rpi4") as error:
        profile("rpi-4")
    assert error.value.exit_code == 2


GOOD = (FOLDER / "rpi4.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "bw_gbs = 5.56",
            "bw_gsb = 5.56",
            r"key in x 'memory\.bw_gsb'; closest: memory\.bw_gbs",
        ),
        ("bw_gbs = 5.56", 'bw_gbs = "fast"', r"x: memory\.bw_gbs: expected float, found str"),
        ("bw_gbs = 5.56", "", r"x: key 'memory\.bw_gbs' is missing"),
        ("bw_gbs = 5.56", "bw_gbs = 0", r"x: memory: ram_mib and bw_gbs must be positive"),
        ("bw_gbs = 5.56", "bw_gbs = nan", r"x: memory\.bw_gbs: nan is not a finite number"),
        ("count = 4", "count = 4.5", r"x: cluster\[0\]\.count: expected int, found float"),
        ("count = 4", "count = -4", r"x: cluster\[0\]\.count: -4 is out of range"),
        ("count = 4", "count = true", r"x: cluster\[0\]\.count: expected int, found bool"),
        ("count = 4", "cuont = 4", r"unknown key in x 'cluster\[0\]\.cuont'"),
        ('kind = "ssh"', 'kind = "usb"', r"x: transport\.kind: 'usb' is not one of local"),
        ('host = ""', "port = 70000", r"x: transport\.port: 70000 is not a port"),
        ("schema = 1", "schema = 2", r"x has schema 'sepdeploy\.device/2'"),
        ('id = "rpi4"', 'id = "Rpi 4"', r"x: id: 'Rpi 4' is not lower-case"),
        ('id = "rpi4"', "", r"x: key 'id' is missing"),
        ('os = "linux"', 'os = "macos"', r"x: os: 'macos' is not one of"),
        ('abi = "aarch64"', 'abi = "arm64"', r"x: abi: 'arm64' is not one of"),
        ("[memory]", "[memory", r"x is not valid TOML"),
        ("schema = 1", 'extends = "rpi44"', r"unknown device in x 'rpi44'"),
        ("[[cluster]]", "[cluster]", r"x: cluster: expected a list, found dict"),
        ("[memory]", "[memry]", r"unknown key in x 'memry'; closest: memory"),
    ],
)
def test_a_mistake_is_told_with_its_key(old: str, new: str, message: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    with pytest.raises(BadInput) as error:
        parse_profile(text, where="x", bases={"rpi4": {}})
    said = error.value.message
    assert re.search(message, said), said


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"id = ", b"[" * 5000, b"a" * (1 << 21)])
def test_a_file_that_is_not_a_profile(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"my\.toml"):
        profile(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        profile(str(tmp_path / "absent.toml"))


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(BadInput):
        parse_profile(text, where="x")


@given(st.sampled_from(GOOD.splitlines()), st.text(max_size=12))
def test_no_change_of_a_line_breaks_the_parser(line: str, new: str) -> None:
    with contextlib.suppress(BadInput):
        parse_profile(GOOD.replace(line, new, 1), where="x")


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/devices.md").read_text()
    for record in (DeviceProfile, TransportSettings, Cluster, Memory):
        for f in fields(record):
            if f.name not in ("transport", "cluster", "memory", "sources"):
                assert f"`{f.name}`" in page, f.name
