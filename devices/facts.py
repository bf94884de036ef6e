"""What is known about a device at the moment it is measured, read with one small shell script.

The script needs no more than a POSIX shell; whatever the device does not have is left out. Facts
are taken before and after a measurement, so that a clock lowered by heat or weak power voids it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sepdeploy.devices.transports.base import Transport
from sepdeploy.errors import Missing

FACTS_TIMEOUT_S = 30.0

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


def at_home(transport: Transport, path: str) -> str:
    """Return a path on a device with its home folder in place of ``~/``."""
    if not path.startswith("~/"):
        return path
    home = transport.shell('printf "%s" "$HOME"').text
    return f"{home}{path[1:]}"


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
        bits=integer(one("bits")) or 0,
        board=one("board"),
        system=", ".join(part for part in (one("os"), one("kernel")) if part),
        android=android,
        emulator=bool(one("emulator").strip("0")) or one("hardware") in ("ranchu", "goldfish"),
        parts={p: integer(n) or 0 for p, _, n in (v.partition("*") for v in seen.get("part", []))},
        cpu=one("cpu"),
        clocks=tuple(_clock(v) for v in seen.get("clock", [])),
        temperature_c=_temperature(seen.get("zone", [])),
        cooling=_cooling(seen.get("cooling", [])),
        throttled_bits=integer(one("throttled").partition("=")[2]),
        thermal_status=integer(one("thermal")),
        memory_kib=integer(one("MemTotal")) or 0,
        available_kib=integer(one("MemAvailable")) or 0,
        load=_number(one("load").split(" ")[0]),
        disk_kib=integer(one("disk")) or 0,
    )


def integer(text: str) -> int | None:
    """Return a number as C writes it, None where there is none or one that no device has."""
    try:
        return int(text, 0) if len(text) <= 24 else None
    except ValueError:
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _clock(value: str) -> Clock:
    words = [*value.split(), *"-----"][:5]
    numbers = [integer(words[i]) or 0 for i in (0, 2, 3, 4)]
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
        if (integer(state) or 0) > 0 and ("cpufreq" in kind or kind == "Processor"):
            active.append(kind)
    return tuple(sorted(set(active)))
