"""Device profiles: what a device is, as TOML files that are checked key by key.

Packaged profiles lie in ``profiles/``; a user's own lie in the configuration folder
(``~/.config/sepdeploy/devices``) or anywhere else, named by path. A user's file may start from
another profile (``extends = "rpi4"``) and set only what differs.

Every figure has its source in ``[sources]``, by its key (``"cluster.ghz"``) or a part of it
(``"memory"``); figures that nobody has checked are listed under ``unverified`` as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from sepdeploy.cache import config_folder
from sepdeploy.codec import (
    MAX_TOML_BYTES,
    KeyPath,
    check_schema,
    fault,
    from_json,
    parse_toml,
    to_json,
)
from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.files import read_bytes

PROFILE_SCHEMA = "sepdeploy.device/1"  # a profile says the number alone
KEYS_HINT = "the keys of a device profile: sepdeploy devices show rpi4"
SYSTEMS = ("linux", "android", "any")
ABIS = ("aarch64", "x86_64", "any")
ID = re.compile(r"[a-z0-9][a-z0-9+._-]{0,63}\Z")


@dataclass(frozen=True)
class Cluster:
    """Processor cores that are alike; the fastest cluster of a device comes first.

    Attributes:
        core: Its design, as qemu and compilers name it ("cortex-a72").
        count: How many.
        ghz: Highest clock, GHz.
        fp32_flop_cycle: Peak 32-bit floating-point operations a cycle and core (a fused
            multiply-add counts two).
        int8_mac_cycle: Peak 8-bit multiply-accumulates a cycle and core.
        dot: Whether it has int8 dot products.
        fp16: Whether it computes in 16-bit floating point.
        i8mm: Whether it has int8 matrix multiplication.
        midr_part: Its part number in the identification register.
        l1d_kib: First-level data cache of a core, KiB.
        l1i_kib: First-level instruction cache of a core, KiB.
    """

    core: str
    count: int
    ghz: float
    fp32_flop_cycle: int
    int8_mac_cycle: int
    dot: bool
    fp16: bool = False
    i8mm: bool = False
    midr_part: int = 0
    l1d_kib: int = 0
    l1i_kib: int = 0


@dataclass(frozen=True)
class Memory:
    """Memory and outer caches.

    Attributes:
        ram_mib: Memory of the smallest model, MiB.
        bw_gbs: Bandwidth that programs can sustain, GB/s (10⁹ bytes).
        l2_kib: Second-level cache: of a cluster, or of a core where each has its own; 0 unknown.
        l3_kib: Third-level cache, KiB; 0 none or unknown.
    """

    ram_mib: int
    bw_gbs: float
    l2_kib: int = 0
    l3_kib: int = 0


@dataclass(frozen=True)
class TransportSettings:
    """How the device is reached; empty values are taken from the command line or the defaults.

    Attributes:
        kind: "local", "ssh" or "adb".
        host: USER@HOST for ssh.
        port: Port for ssh; 0 leaves it to ssh's own configuration.
        ssh_config: An ssh configuration file to use instead of the user's.
        serial: The device for adb.
        python: The Python interpreter there, with numpy and the runtimes.
        workdir: Folder for files there.
    """

    kind: str = "ssh"
    host: str = ""
    port: int = 0
    ssh_config: str = ""
    serial: str = ""
    python: str = "python3"
    workdir: str = ""


@dataclass(frozen=True)
class DeviceProfile:
    """One device that ``--device`` can name.

    Attributes:
        schema: Version of this format.
        id: Its name on the command line.
        name: Its name for readers.
        os: "linux", "android" or "any".
        abi: The machine as ``uname -m`` prints it, or "any".
        note: A remark for readers.
        emulate: The core whose kernels are emulated for it; "" = it cannot be emulated.
        transport: How it is reached.
        cluster: Its cores, the fastest first; empty where they are not known (this machine).
        memory: Its memory; None where it is not known.
        sources: Where each figure is from, by key or part of a key.
        unverified: Keys of figures that nobody has checked.
    """

    schema: int
    id: str
    name: str
    os: str
    abi: str
    note: str = ""
    emulate: str = ""
    transport: TransportSettings = field(default_factory=TransportSettings)
    cluster: tuple[Cluster, ...] = ()
    memory: Memory | None = None
    sources: dict[str, str] = field(default_factory=dict)
    unverified: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of what the profile says about the device (not of how it is reached)."""
        data = to_json(self)
        del data["transport"]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    @property
    def estimable(self) -> bool:
        """Whether it says enough for an estimate."""
        return bool(self.cluster) and self.memory is not None

    def figures(self) -> tuple[Figure, ...]:
        """Return every figure with its source, for readers."""
        return tuple(_figures(self))


@dataclass(frozen=True)
class Figure:
    """One figure of a profile: its key, value and source; ``verified`` if it was checked."""

    key: str
    value: float | bool
    source: str
    verified: bool


def _figures(profile: DeviceProfile) -> Iterator[Figure]:
    records: list[tuple[tuple[str, ...], Any]] = [
        (("cluster", str(i)), cluster) for i, cluster in enumerate(profile.cluster)
    ]
    if profile.memory is not None:
        records.append((("memory",), profile.memory))
    for path, record in records:
        for f in fields(record):
            value = getattr(record, f.name)
            if isinstance(value, (int, float)) and (value or isinstance(value, bool)):
                names = list(_names((*path, f.name)))
                source = next((profile.sources[n] for n in names if n in profile.sources), "")
                checked = bool(source) and not any(n in profile.unverified for n in names)
                yield Figure(".".join((*path, f.name)), value, source, checked)


def _names(path: tuple[str, ...]) -> Iterator[str]:
    """Return the names under which a figure may be listed, the most exact one first."""
    for end in range(len(path), 0, -1):
        yield ".".join(path[:end])
        if len(path) > 1 and path[1].isdigit() and end != 2:
            yield ".".join(p for i, p in enumerate(path[:end]) if i != 1)


def parse_profile(
    text: str | bytes, *, where: str, bases: dict[str, dict[str, Any]] | None = None
) -> DeviceProfile:
    """Parse one TOML profile.

    Args:
        text: TOML.
        where: File name for messages.
        bases: Raw profiles that ``extends`` may name.

    Raises:
        BadInput: Not TOML, an unknown or missing key, a wrong type or a figure out of range,
            naming the file and the key.
    """
    data = _merged(parse_toml(text, where=where), where, bases or {})
    try:
        profile = from_json(DeviceProfile, data, where=where)
    except BadInput as error:
        raise BadInput(error.message, hint=KEYS_HINT) from error
    check_schema(f"sepdeploy.device/{profile.schema}", PROFILE_SCHEMA, where=where)
    for path, what in _faults(profile):
        raise BadInput(fault(where, path, what).message, hint=KEYS_HINT)
    return profile


def _merged(data: dict[str, Any], where: str, bases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a profile with what it takes over from the one it extends."""
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str) or base not in bases:
        raise unknown_name(f"device in {where}", str(base), bases)
    merged = dict(bases[base])
    for key, value in data.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = {**old, **value}
        elif key == "cluster" and isinstance(old, list) and isinstance(value, list):
            merged[key] = _clusters(old, value)
        else:
            merged[key] = value
    return merged


def _clusters(old: list[Any], new: list[Any]) -> list[Any]:
    """Return the clusters of an extending profile: one that names no core changes the old one."""
    if any(not isinstance(c, dict) or "core" in c for c in new) or len(new) > len(old):
        return new
    return [{**c, **change} for c, change in zip(old, new, strict=False)] + old[len(new) :]


def _faults(profile: DeviceProfile) -> Iterator[tuple[KeyPath, str]]:
    """Return what is wrong with the values of a profile."""
    if not ID.match(profile.id):
        yield ("id",), f"'{profile.id}' is not lower-case letters, digits and + . _ -"
    for key, value, known in (
        ("os", profile.os, SYSTEMS),
        ("abi", profile.abi, ABIS),
        ("transport.kind", profile.transport.kind, ("local", "ssh", "adb")),
    ):
        if value not in known:
            yield tuple(key.split(".")), f"'{value}' is not one of {', '.join(known)}"
    if not 0 <= profile.transport.port < 65536:
        yield ("transport", "port"), f"{profile.transport.port} is not a port"
    for figure in _figures(profile):
        if isinstance(figure.value, bool):
            continue
        if not 0 < figure.value < 1e9:
            path = tuple(int(p) if p.isdigit() else p for p in figure.key.split("."))
            yield path, f"{figure.value} is out of range"
    for i, cluster in enumerate(profile.cluster):
        for name in ("count", "ghz", "fp32_flop_cycle", "int8_mac_cycle"):
            if not getattr(cluster, name) > 0:
                yield ("cluster", i, name), "must be positive"
    if profile.memory is not None and not (
        profile.memory.bw_gbs > 0 and profile.memory.ram_mib > 0
    ):
        yield ("memory",), "ram_mib and bw_gbs must be positive"


def _packaged() -> dict[str, str]:
    """Return the texts of the packaged profiles by file name, in the order of their names."""
    folder = resources.files("sepdeploy.devices") / "profiles"
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if Path(entry.name).suffix == ".toml"
    }


@functools.cache
def _bases() -> dict[str, dict[str, Any]]:
    raw = (parse_toml(text, where=name) for name, text in _packaged().items())
    return {str(data["id"]): data for data in raw}


def load_profiles() -> dict[str, DeviceProfile]:
    """Return all profiles by id: the packaged ones, and the user's own, which replace them.

    Raises:
        BadInput: A file is broken, or two of one folder have the same id.
    """
    found: dict[str, DeviceProfile] = {}
    for name, text in _packaged().items():
        _add(found, parse_profile(text, where=name), name)
    own: dict[str, DeviceProfile] = {}
    bases = _bases()
    folder = config_folder() / "devices"  # ``XDG_CONFIG_HOME`` is honoured
    for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
        _add(own, _read(path, bases), str(path))
    return {**found, **own}


# What starts programs, on this machine or as another than the user would: only the user says it.
CHOOSING = ("ssh_config", "python")


def _check_choices(profile: DeviceProfile, where: Path) -> None:
    """Refuse a file from elsewhere that chooses programs.

    Raises:
        BadInput: Naming the key.
    """
    own = config_folder() / "devices"
    if where.resolve().parent == own.resolve():
        return
    usual = TransportSettings()
    chosen = [key for key in CHOOSING if getattr(profile.transport, key) != getattr(usual, key)]
    if profile.transport.kind == "local":
        chosen.insert(0, "kind")
    for key in chosen:
        raise BadInput(
            f"{where}: transport.{key} = '{getattr(profile.transport, key)}': "
            "files from elsewhere never choose what is run",
            hint=f"if it is yours, move it to {own} and give its id",
        )


def _read(path: Path, bases: dict[str, dict[str, Any]]) -> DeviceProfile:
    return parse_profile(read_bytes(path, limit=MAX_TOML_BYTES), where=str(path), bases=bases)


def _add(found: dict[str, DeviceProfile], profile: DeviceProfile, where: str) -> None:
    if profile.id in found:
        raise BadInput(f"{where} repeats the device id '{profile.id}'", hint="give it another id")
    found[profile.id] = profile


def profile(device: str) -> DeviceProfile:
    """Return a profile by id, or by path where the name ends in ``.toml`` or has a slash.

    Raises:
        BadInput: No such device (the closest ids are named), or the file is broken.
    """
    if device.endswith(".toml") or "/" in device:
        path = Path(device).expanduser()
        found = _read(path, _bases())
        _check_choices(found, path)
        return found
    profiles = load_profiles()
    if device not in profiles:
        raise unknown_name("device", device, profiles, hint="sepdeploy devices list")
    return profiles[device]
