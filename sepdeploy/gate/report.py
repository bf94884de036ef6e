"""Bench reports as the gate sees them: checked, and split into entries that can be compared.

An entry holds the measurements of one kind of one artifact in one runtime on one device. Its key
says what must be equal for two entries to be comparable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sepdeploy.codec import read
from sepdeploy.errors import BENCH_AGAIN, BadInput
from sepdeploy.gate.evidence import is_latency, validate, variant
from sepdeploy.records import BenchReport, Kind, Measurement, Result


@dataclass(frozen=True, order=True)
class Key:
    """What must be equal before two numbers are compared.

    ``profile`` is the digest of the emulation and cluster parts of the device's profile, empty
    where there is none. ``emulator`` and ``libc`` are set for kind EMULATED only.
    """

    device: str
    artifact: str
    runtime: str
    precision: str
    threads: int
    kind: Kind
    runtime_version: str
    profile: str = ""
    emulator: str = ""
    libc: str = ""

    @property
    def slot(self) -> tuple[str, str, str, int, Kind]:
        """The part that names the entry; the rest says in which version of the world."""
        return (self.device, self.artifact, self.runtime, self.threads, self.kind)


@dataclass(frozen=True)
class Entry:
    """Measurements that share a key; ``sha256`` is the digest of the artifact."""

    key: Key
    sha256: str
    measurements: tuple[Measurement, ...]


def load_report(path: Path) -> BenchReport:
    """Read and check what ``bench --json`` wrote.

    Raises:
        BadInput: Unreadable, not a bench report, from a newer version, or with numbers that
            cannot be (NaN, duplicates, values that contradict their samples).
    """
    report = read(BenchReport, path)
    entries(report, where=str(path))
    return report


def entries(report: BenchReport, *, where: str = "result") -> tuple[Entry, ...]:
    """Return a report as entries, in order of their keys.

    Args:
        report: The report.
        where: Prefix of messages.

    Raises:
        BadInput: Two results have one key, or a number cannot be.
    """
    found: list[Entry] = []
    names = report.names()
    for result in report.results:
        kinds = dict.fromkeys(m.kind for m in result.measurements)
        for kind in kinds:
            members = tuple(_with_void(m, result) for m in result.measurements if m.kind is kind)
            found.append(Entry(result_key(result, kind, names), result.artifact.sha256, members))
    check_entries(found, where)
    return tuple(sorted(found, key=lambda e: e.key))


def check_entries(found: Iterable[Entry], where: str) -> None:
    """Refuse entries with one key, measurements with one name, and numbers that cannot be.

    Raises:
        BadInput: Naming the entry.
    """
    keys: Counter[Key] = Counter()
    for entry in found:
        keys[entry.key] += 1
        place = f"{where}: {describe(entry.key)}"
        if keys[entry.key] > 1:
            raise BadInput(
                f"{place} occurs twice",
                hint="artifacts are told apart by their paths; give each once",
            )
        names = Counter((m.metric, variant(m)) for m in entry.measurements)
        for (metric, parts), count in names.items():
            if count > 1:
                raise BadInput(
                    f"{place}: {' '.join([metric, *parts])} occurs twice", hint=BENCH_AGAIN
                )
        for measurement in entry.measurements:
            validate(measurement, place)


def result_key(result: Result, kind: Kind, names: Mapping[str, str]) -> Key:
    """Return the key of one kind of measurement in a result; ``names`` by the artifact's path."""
    device, emulator = result.device, result.device.get("emulator")
    is_emulated = kind is Kind.EMULATED and isinstance(emulator, Mapping)
    return Key(
        device=_text(device, "id") or "host",
        artifact=names[result.artifact.path],
        runtime=result.runtime.name,
        precision=result.artifact.quantization,
        threads=result.runtime.threads,
        kind=kind,
        runtime_version=result.runtime.version,
        profile=_text(device, "profile_sha256"),
        emulator=_emulator(emulator) if is_emulated else "",
        libc=_text(emulator, "libc") if is_emulated else "",
    )


def describe(key: Key) -> str:
    """Return a key in words: artifact, device, runtime, kind."""
    return f"{key.artifact} on {key.device} in {key.runtime} {key.runtime_version} ({key.kind})"


def _with_void(measurement: Measurement, result: Result) -> Measurement:
    """Mark a latency as void when the device says that it throttled."""
    if not is_latency(measurement) or not result.device.get("throttled"):
        return measurement
    return replace(measurement, details=measurement.details | {"throttled": True})


def _emulator(facts: Any) -> str:
    plugin = _text(facts, "plugin")
    parts = [_text(facts, "name"), _text(facts, "version"), f"plugin {plugin}" if plugin else ""]
    return " ".join(p for p in parts if p)


def _text(facts: Any, name: str) -> str:
    value = facts.get(name) if isinstance(facts, Mapping) else None
    return str(value) if isinstance(value, (str, int)) else ""
