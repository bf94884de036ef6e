"""What is known about a device at the moment it is measured, read with one small shell script.

The script needs no more than a POSIX shell; whatever the device does not have is left out. Facts
are taken before and after a measurement, so that a clock lowered by heat or weak power voids it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sepdeploy.devices.profile import DeviceProfile
from sepdeploy.devices.transports.base import Transport
from sepdeploy.errors import BadInput, Missing, Unstable

FACTS_TIMEOUT_S = 30.0
MODERATE = 2  # Android thermal status from which the clock is lowered (0 none … 6 shutdown)

# Every line printed is "key value"; keys may repeat.
SCRIPT = r"""
say() { [ -n "$2" ] && printf '%s %s\n' "$1" "$2"; }
first() { [ -r "$1" ] && tr -d '\000' < "$1" 2>/dev/null | head -n 1; }
say machine "$(uname -m)"
say kernel "$(uname -sr)"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say board "$(first /proc/device-tree/model)"
if command -v getprop >/dev/null 2>&1; then
  say android "$(getprop ro.build.version.release)"
  say board "$(getprop ro.product.manufacturer) $(getprop ro.product.model)"
  say abi "$(getprop ro.product.cpu.abi)"
  say emulator "$(getprop ro.kernel.qemu)$(getprop ro.boot.qemu)"
  say hardware "$(getprop ro.hardware)"
fi
say board "$(first /sys/class/dmi/id/product_name)"
say os "$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release 2>/dev/null)"
sed -n 's/^CPU part[^:]*: */part /p' /proc/cpuinfo 2>/dev/null | sort | uniq -c |
  while read -r n key value; do say "$key" "$value*$n"; done
say cpu "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)"
say online "$(first /sys/devices/system/cpu/online)"
for c in /sys/devices/system/cpu/cpu[0-9]*; do
  f=$c/cpufreq
  [ -d "$f" ] || continue
  g=$(first "$f/scaling_governor") n=$(first "$f/scaling_cur_freq")
  l=$(first "$f/scaling_max_freq") m=$(first "$f/cpuinfo_max_freq")
  say clock "${c##*/cpu} ${g:--} ${n:-0} ${l:-0} ${m:-0}"
done
for z in /sys/class/thermal/thermal_zone*; do
  t=$(first "$z/temp") && say zone "$t $(first "$z/type")"
done
for d in /sys/class/thermal/cooling_device*; do
  s=$(first "$d/cur_state") && say cooling "$s $(first "$d/type")"
done
if command -v vcgencmd >/dev/null 2>&1; then
  say throttled "$(vcgencmd get_throttled 2>/dev/null)"
fi
b=$(first /sys/devices/platform/soc/soc:firmware/get_throttled)
[ -n "$b" ] && say throttled "throttled=0x$b"
command -v dumpsys >/dev/null 2>&1 &&
  say thermal "$(dumpsys thermalservice 2>/dev/null | sed -n 's/^Thermal Status: *//p' | head -n 1)"
sed -n -e 's/^\(MemTotal\): *\([0-9]*\) kB/\1 \2/p' \
  -e 's/^\(MemAvailable\): *\([0-9]*\) kB/\1 \2/p' /proc/meminfo 2>/dev/null
say load "$(first /proc/loadavg)"
say disk "$(df -k . 2>/dev/null | tail -n 1 | awk '{print $4}')"
exit 0
"""

# Raspberry Pi firmware, `vcgencmd get_throttled`: now (bits 0-3) and since boot (16-19).
PI_BITS = {
    0: "under-voltage",
    1: "the clock is capped",
    2: "throttled",
    3: "the soft temperature limit is active",
}


@dataclass(frozen=True)
class Clock:
    """The clock of one core: its governor and its frequencies in kHz (0 = unknown).

    ``limit_khz`` is what the system allows now, ``max_khz`` what the core can do.
    """

    cpu: int
    governor: str = ""
    current_khz: int = 0
    limit_khz: int = 0
    max_khz: int = 0


@dataclass(frozen=True)
class DeviceFacts:
    """A device at one moment.

    Attributes:
        machine: As ``uname -m`` prints it.
        bits: Width of its programs (32 or 64; 0 unknown): a 64-bit kernel may run 32-bit ones.
        board: Name of the board or phone.
        system: Operating system and kernel.
        android: Android version, "" elsewhere.
        emulator: Whether it is an Android emulator.
        parts: ARM core parts with their number, {"0xd08": 4}.
        cpu: The processor's name where /proc/cpuinfo has one.
        clocks: One entry per core that reveals it.
        temperature_c: Of the hottest thermal zone that is about the processor; None unknown.
        cooling: Names of the processor's cooling limits that are active.
        throttled_bits: Of the Raspberry Pi's firmware; None elsewhere.
        thermal_status: Android's (0 none … 6 shutdown); None elsewhere.
        memory_kib: Total memory.
        available_kib: Memory that programs can still get.
        load: One-minute load average.
        disk_kib: Room in the working folder.
    """

    machine: str
    bits: int = 0
    board: str = ""
    system: str = ""
    android: str = ""
    emulator: bool = False
    parts: dict[str, int] = field(default_factory=dict)
    cpu: str = ""
    clocks: tuple[Clock, ...] = ()
    temperature_c: float | None = None
    cooling: tuple[str, ...] = ()
    throttled_bits: int | None = None
    thermal_status: int | None = None
    memory_kib: int = 0
    available_kib: int = 0
    load: float | None = None
    disk_kib: int = 0


def read_facts(transport: Transport) -> DeviceFacts:
    """Ask a device about itself.

    Raises:
        Missing: It has no shell that answers, or cannot be reached.
    """
    done = transport.shell(SCRIPT, timeout=FACTS_TIMEOUT_S)
    facts = parse_facts(done.stdout.decode(errors="replace"))
    if not facts.machine:
        raise Missing(
            f"{transport.where}: the device says nothing about itself"
            + (f": {done.error_line}" if done.error_line else ""),
            hint="its login shell must be able to run: sh -c 'uname -m'",
        )
    return facts


def parse_facts(text: str) -> DeviceFacts:
    """Return what the lines of the script say; unknown and unreadable lines are left out."""
    seen: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if value.strip():
            seen.setdefault(key, []).append(" ".join(value.split()))

    def one(key: str) -> str:
        return seen.get(key, [""])[0]

    android = one("android")
    return DeviceFacts(
        machine=one("machine"),
        bits=_integer(one("bits")) or 0,
        board=one("board"),
        system=", ".join(part for part in (one("os"), one("kernel")) if part),
        android=android,
        emulator=bool(one("emulator").strip("0")) or one("hardware") in ("ranchu", "goldfish"),
        parts={p: _integer(n) or 0 for p, _, n in (v.partition("*") for v in seen.get("part", []))},
        cpu=one("cpu"),
        clocks=tuple(_clock(v) for v in seen.get("clock", [])),
        temperature_c=_temperature(seen.get("zone", [])),
        cooling=_cooling(seen.get("cooling", [])),
        throttled_bits=_integer(one("throttled").partition("=")[2]),
        thermal_status=_integer(one("thermal")),
        memory_kib=_integer(one("MemTotal")) or 0,
        available_kib=_integer(one("MemAvailable")) or 0,
        load=_number(one("load").split(" ")[0]),
        disk_kib=_integer(one("disk")) or 0,
    )


def _integer(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _clock(value: str) -> Clock:
    words = [*value.split(), *"-----"][:5]
    numbers = [_integer(words[i]) or 0 for i in (0, 2, 3, 4)]
    return Clock(numbers[0], words[1].strip("-"), *numbers[1:])


def _temperature(zones: list[str]) -> float | None:
    """Return the hottest zone about the processor in °C, of all zones when none says so."""
    readings = []
    for zone in zones:
        value, _, kind = zone.partition(" ")
        degrees = _number(value)
        if degrees is not None:
            degrees = degrees / 1000 if abs(degrees) > 200 else degrees
            if -40 < degrees < 150:  # unconnected sensors read nonsense
                readings.append((degrees, kind.lower()))
    about = [d for d, kind in readings if "cpu" in kind or "soc" in kind or "pkg" in kind]
    return max(about or [d for d, _ in readings], default=None)


def _cooling(devices: list[str]) -> tuple[str, ...]:
    """Return the cooling devices that hold the processor's clock down now."""
    active = []
    for device in devices:
        state, _, kind = device.partition(" ")
        if (_integer(state) or 0) > 0 and ("cpufreq" in kind or kind == "Processor"):
            active.append(kind)
    return tuple(sorted(set(active)))


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
    found = {number for part in facts.parts if (number := _integer(part)) is not None}
    if known and found and not found & known.keys():
        raise BadInput(
            f"{where}: the cores there are of part {', '.join(sorted(facts.parts))}, the profile "
            f"{profile.id} says {', '.join(f'{part:#x} ({core})' for part, core in known.items())}",
            hint=hint,
        )


def summary(before: DeviceFacts, after: DeviceFacts | None) -> dict[str, Any]:
    """Return the facts of a run as the flat JSON object that results carry."""
    cores: dict[str, Any] = {"parts": before.parts} if before.parts else {}
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
