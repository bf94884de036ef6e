"""What the state of a device says about numbers that were measured on it."""

from __future__ import annotations

from sepdeploy.devices.facts import DeviceFacts, integer
from sepdeploy.devices.profile import DeviceProfile
from sepdeploy.errors import BadInput, Missing, Unstable

MODERATE = 2  # Android thermal status from which the clock is lowered (0 none … 6 shutdown)

# Raspberry Pi firmware, `vcgencmd get_throttled`: now (bits 0-3) and since boot (16-19).
PI_BITS = {
    0: "under-voltage",
    1: "the clock is capped",
    2: "throttled",
    3: "the soft temperature limit is active",
}


def throttling(before: DeviceFacts, after: DeviceFacts) -> tuple[str, ...]:
    """Return why a measurement between the two moments is void; empty when it is not.

    Void is what happened during the run: a limit active at either end of it, or one that the
    Raspberry Pi's firmware noted in between (bits 16-19 that were clear before).
    """
    reasons = []
    for facts in (before, after):
        bits = facts.throttled_bits or 0
        reasons += [name for bit, name in PI_BITS.items() if bits >> bit & 1]
        reasons += [f"cooling by {name}" for name in facts.cooling]
        if (facts.thermal_status or 0) >= MODERATE:
            reasons.append(f"Android reports thermal status {facts.thermal_status}")
    fresh = (after.throttled_bits or 0) & ~(before.throttled_bits or 0)
    reasons += [f"{name} during the run" for bit, name in PI_BITS.items() if fresh >> bit + 16 & 1]
    return tuple(dict.fromkeys(reasons))


def require_steady(before: DeviceFacts, after: DeviceFacts, where: str) -> None:
    """Refuse a measurement during which the device was slowed down.

    Raises:
        Unstable: It was throttled or short of power.
    """
    reasons = throttling(before, after)
    if reasons:
        raise Unstable(
            f"{where}: the device was slowed down ({', '.join(reasons)}); its times are void",
            hint="let it cool, use its own power supply and a heat sink, then measure again",
        )


def remarks(facts: DeviceFacts) -> tuple[str, ...]:
    """Return what a reader of the numbers should know, though it does not void them."""
    found = []
    governors = sorted({c.governor for c in facts.clocks if c.governor})
    if governors and governors != ["performance"]:
        found.append(f"cpu governor is {', '.join(governors)}, not performance")
    capped = [c for c in facts.clocks if 0 < c.limit_khz < c.max_khz]
    if capped:
        found.append(
            f"clock of cpu {', '.join(str(c.cpu) for c in capped)} limited to "
            f"{capped[0].limit_khz / 1e6:.2f} of {capped[0].max_khz / 1e6:.2f} GHz"
        )
    earlier = [n for bit, n in PI_BITS.items() if (facts.throttled_bits or 0) >> bit + 16 & 1]
    if earlier:
        found.append(f"since boot: {', '.join(earlier)}")
    if facts.load is not None and facts.load > 0.5:
        found.append(f"load average {facts.load:.2f} before the run")
    return tuple(found)


def big_cores(facts: DeviceFacts, threads: int) -> tuple[int, ...]:
    """Return the cores to bind to: the fastest group that holds ``threads``; empty = all alike.

    Args:
        facts: The device.
        threads: Threads of the measurement.
    """
    speeds = {c.cpu: c.max_khz for c in facts.clocks if c.max_khz}
    if len(set(speeds.values())) < 2:
        return ()
    chosen: list[int] = []
    for speed in sorted(set(speeds.values()), reverse=True):
        chosen += [cpu for cpu, khz in speeds.items() if khz == speed]
        if len(chosen) >= threads:
            break
    return tuple(sorted(chosen)) if len(chosen) < len(speeds) else ()


def require_target(
    facts: DeviceFacts, *, runtime: str, where: str, profile: DeviceProfile | None = None
) -> None:
    """Refuse a device that cannot run what is about to be sent, or is another one than it should.

    Args:
        facts: The device.
        runtime: The runtime to be used there.
        where: Names the device in the message.
        profile: What it should be; None makes no claim.

    Raises:
        BadInput: It is another kind of machine than its profile says.
        Missing: Its programs are 32-bit ones, for which the runtime has no build.
    """
    narrow = facts.bits == 32 or facts.machine in ("armv6l", "armv7l", "armv8l", "i686")
    if narrow and runtime != "tflite-runtime":
        raise Missing(
            f"{where}: its system is 32-bit ({facts.machine}); {runtime} exists for 64-bit only",
            hint="install the 64-bit Raspberry Pi OS (any Pi from 3 on, and the Zero 2 W)",
        )
    if profile is None:
        return
    hint = "is it the right address? else choose the device that it is (--device)"
    if profile.abi not in ("any", facts.machine) and not narrow:
        raise BadInput(
            f"{where}: the machine there is {facts.machine}, the profile {profile.id} says "
            f"{profile.abi}",
            hint=hint,
        )
    known = {c.midr_part: c.core for c in profile.cluster if c.midr_part}
    found = {number for part in facts.parts if (number := integer(part)) is not None}
    if known and found and not found & known.keys():
        raise BadInput(
            f"{where}: the cores there are of part {', '.join(sorted(facts.parts))}, the profile "
            f"{profile.id} says {', '.join(f'{part:#x} ({core})' for part, core in known.items())}",
            hint=hint,
        )


def summary(before: DeviceFacts, after: DeviceFacts | None) -> dict[str, object]:
    """Return the facts of a run as the flat JSON object that results carry."""
    cores: dict[str, object] = {"parts": before.parts} if before.parts else {}
    ends = [before] if after is None else [before, after]
    return {
        "board": before.board,
        "machine": before.machine,
        "system": before.system,
        **({"android": before.android} if before.android else {}),
        **({"cpu": before.cpu} if before.cpu else {}),
        **cores,
        "governor": ", ".join(sorted({c.governor for c in before.clocks if c.governor})),
        "clock_khz": [[c.current_khz for c in f.clocks] for f in ends],
        "max_khz": [c.max_khz for c in before.clocks],
        "temperature_c": [f.temperature_c for f in ends],
        "throttled": [list(throttling(f, f)) for f in ends],
        "memory_kib": before.memory_kib,
        "available_kib": before.available_kib,
        "load": [f.load for f in ends],
        "remarks": list(remarks(before)),
    }
