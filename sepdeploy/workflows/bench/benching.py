"""Measure exported files: what they weigh, how fast they are, and how well they hold.

Everything is taken from the file itself, in its runtime. Gradient attacks need the torch model
the file was made from (its digest must be the manifest's); without it the evaluation pack is
used, and an attack that is in neither cannot be measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy import __version__, measure
from sepdeploy.codec import from_json, parse_json, to_json
from sepdeploy.devices import DeviceProfile, profile
from sepdeploy.devices.connect import connect, is_addressed
from sepdeploy.devices.transports import Replay
from sepdeploy.errors import BadInput, Incomparable, Missing, SepdeployError, Unstable
from sepdeploy.exports.judged_images import choose_attacks
from sepdeploy.files import Watched, scratch
from sepdeploy.records import BenchReport, Kind, Notify, Result
from sepdeploy.workflows.bench.given_sets import given_set
from sepdeploy.workflows.bench.judging import Judging, JudgingSet, judging_sets
from sepdeploy.workflows.bench.measuring import Task
from sepdeploy.workflows.bench.on_device import DeviceBench, open_replay
from sepdeploy.workflows.bench.on_file import attacked_here, to_search
from sepdeploy.workflows.bench.on_host import dense_form, host_result
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.bench.pairs import with_pairs
from sepdeploy.workflows.bench.subjects import (
    Subject,
    choose_runtimes,
    find_subjects,
    no_runtime,
    refuse_other_formats,
    timed,
    watch,
)

REPLAY = "replay:"  # --device replay:FILE


def bench_artifacts(
    paths: Sequence[Path],
    options: BenchOptions,
    notify: Notify,
    on_report: Callable[[BenchReport], None] = lambda _: None,
) -> BenchReport:
    """Bench files on the devices of ``options``.

    What was measured goes to ``on_report`` before a device's failure is raised.

    Raises:
        ArtifactCheckFailed: A file is not the one its manifest describes.
        BadInput: A file or name that cannot be used.
        Incomparable: Nothing was measured.
        Missing: A runtime, a device or a required kind is absent.
        Unstable: A device was slowed down while it was measured.
    """
    wanted = None if options.require is None else Kind(options.require.upper())
    devices = _devices(options)
    _can_be_had(wanted, devices, options)
    found = _on_host(paths, options, notify, replay=devices[0].replay)
    results: list[Result] = []
    error: SepdeployError | None = None
    for device in devices:
        if device.profile.id == "host":
            results += [b.result for b in found.benched]
            continue
        on_device, failure = _on_device(device, found, options, notify)
        results += on_device
        error = error or failure
    if not results:
        raise Incomparable("nothing was measured", hint="sepdeploy doctor shows missing runtimes")
    found.watched.check()  # what is reported was measured on the bytes that were hashed
    report = BenchReport(
        tool={"name": "sepdeploy", "version": __version__, "command": "bench"},
        host=found.host,
        results=tuple(with_pairs(results)),
    )
    on_report(report)
    error = error or _unmet(wanted, report) or found.missing
    error = error or (_disturbed(report) if options.strict else None)
    if error is not None:
        raise error
    return report


@dataclass(frozen=True)
class _Device:
    profile: DeviceProfile
    replay: Replay | None = None


@dataclass(frozen=True)
class _Benched:
    subject: Subject
    judged: tuple[JudgingSet, ...]
    result: Result


@dataclass(frozen=True)
class _OnHost:
    host: dict[str, Any]
    benched: tuple[_Benched, ...]
    watched: Watched
    missing: Missing | None = None


@dataclass(frozen=True)
class _Recorded:
    """What a recording keeps of its own machine."""

    host: dict[str, Any]
    results: tuple[Result, ...]


def _devices(options: BenchOptions) -> list[_Device]:
    names = [name.strip() for name in options.device.split(",") if name.strip()]
    if not names:
        raise BadInput("no device named", hint="--device host")
    found = []
    for name in names:
        if name.startswith(REPLAY):
            found.append(_Device(*open_replay(Path(name.removeprefix(REPLAY)))))
        else:
            found.append(_Device(profile(name)))
    alone = len(found) == 1 and found[0].profile.id != "host"
    if not alone and (options.record is not None or any(d.replay for d in found)):
        raise BadInput("a recording is of one device alone", hint="give a single --device")
    return found


def _can_be_had(wanted: Kind | None, devices: list[_Device], options: BenchOptions) -> None:
    """Refuse what would fail after everything else was measured.

    Raises:
        Missing: A kind that none of the devices can give, or a device that does not answer.
    """
    others = [d for d in devices if d.profile.id != "host"]
    here = {Kind.STATIC, Kind.HOST}
    if wanted is not None and wanted not in here and not others:
        raise Missing(
            f"--require {wanted.value.lower()}: this machine alone gives static and host",
            hint="name a device: --device ID (sepdeploy devices list)",
        )
    reached = {"host": options.host or "", "serial": options.serial or ""}
    live = [d for d in others if d.replay is None and is_addressed(d.profile, **reached)]
    if wanted is Kind.MEASURED and not live and not any(d.replay for d in others):
        raise Missing(
            "--require measured: no device is addressed or attached",
            hint="pass --host USER@HOST, or --serial of an adb device",
        )
    for device in live:
        with connect(device.profile, **reached) as way:
            way.run(["true"])


def _on_host(
    paths: Sequence[Path], options: BenchOptions, notify: Notify, *, replay: Replay | None
) -> _OnHost:
    """Take what needs no device; a recording carries what its host measured at the time."""
    kept: dict[str, Result] = {}
    host = measure.host_facts() if replay is None else {}
    if replay is not None:
        recorded = _recorded(replay)
        host = recorded.host
        kept = {f"{r.artifact.sha256} {r.runtime.name}": r for r in recorded.results}
    benched: list[_Benched] = []
    judged: dict[Path, Judging] = {}
    subjects = find_subjects(paths, options)
    refuse_other_formats(subjects, options)
    watched = watch(subjects, options)
    for subject in subjects:  # what is wrong with a name or a radius is said before anything runs
        known = {} if subject.export is None else subject.export.manifest.provenance
        if options.adversarial is None:
            choose_attacks(known, options)
    for subject in subjects:
        chosen = choose_runtimes(subject.path, options.runtime)
        if not chosen:
            notify(f"{subject.path}: skipped, {no_runtime(subject.path)}")
            continue
        key = subject.export.path if subject.export else subject.path
        if key not in judged:
            judged[key] = _judging(subject, options, notify)
        for runtime in chosen:
            stored_result, sets = kept.get(f"{subject.sha256} {runtime}"), judged[key].sets
            if replay is not None and stored_result is None:
                raise BadInput(
                    f"the recording has nothing about {subject.path} in {runtime}",
                    hint="bench the files that it was recorded with, or record again with --record",
                )
            if stored_result is None:
                notify(f"measuring {subject.path} in {runtime}")
                sets = attacked_here(
                    subject, runtime, judged[key], options.asks_for_an_attack, notify
                )
                stored_result = host_result(subject, runtime, timed(subject, options), sets)
            benched.append(_Benched(subject, sets, stored_result))
    lacking = (j.missing for j in judged.values() if j.missing is not None)
    return _OnHost(host, tuple(benched), watched, next(lacking, None))


def _judging(subject: Subject, options: BenchOptions, notify: Notify) -> Judging:
    export, shape = subject.export, subject.sample
    if shape is None:
        if options.data is None and options.adversarial is None and not options.asks_for_an_attack:
            notify(f"{subject.path} does not take one float sample: accuracy is not measured")
            return Judging()
        raise BadInput(
            f"{subject.path} does not take one float sample of known size: no accuracy of it",
            hint="leave --data and --attack out; --input-shape fixes open sizes",
        )
    if options.adversarial is None:
        return judging_sets(export, shape, options, notify)
    given = given_set(options.adversarial, export, shape, options)
    return Judging((given,), export=None if given.transfer else export)


def _recorded(replay: Replay) -> _Recorded:
    """Return what the recording machine measured itself.

    Raises:
        BadInput: The recording does not hold it.
    """
    stored = replay.context.get("bench")
    if not isinstance(stored, str):
        raise BadInput("the recording holds no bench", hint="bench --record FILE")
    return from_json(_Recorded, parse_json(stored, where="recording"), where="recording")


def _on_device(
    device: _Device, found: _OnHost, options: BenchOptions, notify: Notify
) -> tuple[list[Result], SepdeployError | None]:
    context = {
        "profile": to_json(device.profile),
        # As text: a recording sorts its keys, and a report keeps its order.
        "bench": json.dumps(to_json(_Recorded(found.host, tuple(b.result for b in found.benched)))),
    }
    results = []
    with (
        scratch() as folder,
        DeviceBench(device.profile, options, notify, context=context, replay=device.replay) as own,
    ):
        for number, benched in enumerate(found.benched):
            place = folder / str(number)
            place.mkdir()
            dense, why = dense_form(benched.subject, options, place)
            recorded = options.record is not None or device.replay is not None
            sets = to_search(benched.judged) if recorded else benched.judged
            subject, runtime = benched.subject, benched.result.runtime.name
            task = Task(
                subject.path,
                runtime,
                sets,
                dense,
                why,
                timed(subject, options),
                open_sizes=subject.open_sizes,
                several=subject.sample is None,
            )
            results.append(own.result(benched.result, task))
            if own.error is not None:
                break
    return results, own.error


def _disturbed(report: BenchReport) -> SepdeployError | None:
    for result in report.results:
        for m in result.measurements:
            if "disturbed" in m.details:
                return Unstable(
                    f"--strict: {result.artifact.path}: {m.details['disturbed']}",
                    hint="bench again when nothing else runs here",
                )
    return None


def _unmet(wanted: Kind | None, report: BenchReport) -> SepdeployError | None:
    kinds = {m.kind for r in report.results for m in r.measurements if m.value is not None}
    if wanted is None or wanted in kinds:
        return None
    return Missing(
        f"--require {wanted.value.lower()}: only {', '.join(sorted(k.value for k in kinds))}"
        " could be had",
        hint="is the device reachable? sepdeploy doctor",
    )
