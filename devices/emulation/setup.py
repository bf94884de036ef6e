"""Sets the emulation of a device up, and opens what was set up."""

from __future__ import annotations

from dataclasses import dataclass

from sepdeploy.devices.bundle import build_bundle, bundle_plan, open_bundle
from sepdeploy.devices.bundle.pins import RUNTIMES
from sepdeploy.devices.bundle.tools import find_compiler
from sepdeploy.devices.emulation.cores import emulated_core
from sepdeploy.devices.emulation.qemu import PLUGIN_VERSION, counting_plugin, find_qemu
from sepdeploy.devices.emulation.view import Board, board_view
from sepdeploy.devices.profile import DeviceProfile
from sepdeploy.devices.transports.qemu import Machine, QemuTransport
from sepdeploy.errors import Missing
from sepdeploy.programs import find_tool
from sepdeploy.records import Notify

ABI = "aarch64"
# What the emulation needs from the distribution, in one command.
PACKAGES = "qemu-user gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
INSTALL = f"sudo apt-get update && sudo apt-get install -y {PACKAGES}"

DEFAULT_BOARD = Board()
PLUGINS = ("counting", "blocks")


@dataclass(frozen=True)
class SetupPlan:
    """What a set-up would do.

    ``downloads`` is a line for each thing that is fetched, ``size`` their bytes (about);
    ``missing`` the programs that must be installed first, ``install`` the command that does it.
    """

    downloads: tuple[str, ...]
    size: int
    missing: tuple[str, ...]
    install: str = INSTALL

    @property
    def ready(self) -> bool:
        """Whether nothing has to be downloaded or installed."""
        return not self.downloads and not self.missing


def setup_plan(core: str) -> SetupPlan:
    """Return what emulating a core still needs; nothing is fetched or written.

    Raises:
        BadInput: Unknown core.
    """
    emulated_core(core)
    missing = []
    for look in (
        find_qemu,
        lambda: find_compiler(ABI),
        lambda: find_tool("cc", purpose="it builds the counter", packages="gcc libc6-dev"),
    ):
        try:
            look()
        except Missing as error:
            missing.append(error.message)
    lines, size = bundle_plan(ABI)
    return SetupPlan(tuple(lines), size, tuple(missing))


def setup(
    core: str,
    *,
    device: str = "rpi4",
    board: Board = DEFAULT_BOARD,
    say: Notify = lambda line: None,
) -> None:
    """Fetch, build and write whatever emulating a core still needs.

    Args:
        core: The device's core, "cortex-a72".
        device: The device's id, for messages.
        board: What is around the core.
        say: Gets what will be downloaded and how much, then a line a step.

    Raises:
        BadInput: Unknown core, or the cache cannot be written.
        Missing: A program is not installed, there is no network, or not a Debian-like machine;
            the hint holds the command.
    """
    plan = setup_plan(core)
    if plan.missing:
        raise Missing("; ".join(plan.missing), hint=plan.install)
    if plan.downloads:
        say(f"{device}: {plan.size / 1e6:.0f} MB to download into the cache")
        for line in plan.downloads:
            say(f"  {line}")
    qemu = find_qemu()
    if qemu.plugins:
        for name in PLUGINS:
            counting_plugin(qemu, name)
    else:
        say(f"qemu {qemu.version} has no plugins: logits and memory, but no instruction counts")
    build_bundle(ABI, say=say)
    target = emulated_core(core)
    if target.note:
        say(target.note)
    board_view(target.core, board)


def qemu_transport(
    core: str, *, device: str = "rpi4", board: Board = DEFAULT_BOARD
) -> QemuTransport:
    """Return the way to a core that was set up before; nothing is downloaded.

    Raises:
        BadInput: Unknown core.
        Missing: Not set up; the hint is the command that does it.
    """
    target = emulated_core(core)
    qemu = find_qemu()
    bundle = open_bundle(ABI, setup=f"sepdeploy devices setup {device}")
    facts = {
        "core": target.core.name,
        "core_exact": target.exact,
        **({"core_note": target.note} if target.note else {}),
        "qemu": qemu.version,
        "plugin": PLUGIN_VERSION if qemu.plugins else "",
        "libc": bundle.versions.get("libc6", ""),
        "compiler": bundle.compiler,
        "runtimes": {name: bundle.versions[name] for name in RUNTIMES if name in bundle.versions},
    }
    view = board_view(target.core, board)
    plugin, recorder = (counting_plugin(qemu, n) if qemu.plugins else None for n in PLUGINS)
    return QemuTransport(
        Machine(
            qemu.path,
            target.core.name,
            view,
            plugin,
            bundle.folder,
            facts,
            recorder,
            board.caches(target.core),
        )
    )


def can_emulate(profile: DeviceProfile) -> bool:
    """Whether a device's profile names a core to emulate."""
    return bool(profile.emulate)


def board_of(profile: DeviceProfile) -> Board:
    """Return what a device's profile says about its board."""
    own = [c for c in profile.cluster if c.core == profile.emulate] or list(profile.cluster)
    first = own[0] if own else None
    return Board(
        l1d_kib=first.l1d_kib if first else 0,
        l1i_kib=first.l1i_kib if first else 0,
        l3_kib=profile.memory.l3_kib if profile.memory else 0,
        processors=sum(c.count for c in profile.cluster) or DEFAULT_BOARD.processors,
        khz=round(own[0].ghz * 1e6) if own else 0,
        l2_kib=profile.memory.l2_kib if profile.memory else 0,
    )


def core_of(profile: DeviceProfile) -> str:
    """Return the core whose kernels are emulated for a device.

    Raises:
        Missing: Its profile names none.
    """
    if not profile.emulate:
        raise Missing(
            f"{profile.id} cannot be emulated: its profile names no core",
            hint='set emulate = "cortex-a72", or the core it has, in a profile of your own',
        )
    return profile.emulate


def setup_device(profile: DeviceProfile, *, say: Notify = lambda line: None) -> None:
    """Set the emulation of a device up; see ``setup``."""
    setup(core_of(profile), device=profile.id, board=board_of(profile), say=say)


def device_transport(profile: DeviceProfile) -> QemuTransport:
    """Return the way to a device's emulated core; see ``qemu_transport``."""
    return qemu_transport(core_of(profile), device=profile.id, board=board_of(profile))
