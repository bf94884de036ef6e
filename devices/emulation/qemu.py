"""The emulator itself, and the plugins that count and record for it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sepdeploy.cache import cache_folder, digest, untrusted, whole_folder
from sepdeploy.codec import parse_json
from sepdeploy.devices.bundle.tools import compile_c
from sepdeploy.errors import BadInput, Missing
from sepdeploy.files import read_bytes, sha256_file
from sepdeploy.programs import find_tool, run

PROGRAM = "qemu-aarch64"
PACKAGES = "qemu-user"
PLUGIN_VERSION = "1"


@dataclass(frozen=True)
class Qemu:
    """The user-mode emulator of this machine; ``plugins`` tells whether it can count."""

    path: str
    version: str
    plugins: bool

    @property
    def numbers(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def plugin_api(self) -> int:
        """The version of the plugin interface to build for (see counting.c)."""
        if self.numbers < (9, 0):
            return 1
        return 2 if self.numbers < (9, 1) else 3


def find_qemu() -> Qemu:
    """Return the emulator of this machine.

    Raises:
        Missing: It is not installed, or does not say its version.
    """
    tool = find_tool(PROGRAM, purpose="it runs the ARM runtimes", packages=PACKAGES)
    found = re.search(r"version (\d+\.\d+\S*)", tool.version)
    if not found:
        raise Missing(f"{tool.path} does not tell its version", hint="reinstall qemu-user")
    usage = run([tool.path, "--help"], timeout=20).stdout
    return Qemu(tool.path, found[1], "-plugin" in usage)


def plugin_source(name: str = "counting") -> Path:
    """Return a plugin's C source in the installed package."""
    return Path(str(resources.files("sepdeploy.devices.emulation"))) / "c" / f"{name}.c"


def counting_plugin(qemu: Qemu, name: str = "counting") -> Path:
    """Return a plugin for this emulator, built at the first call.

    Only a file that was built here is handed out: its digest is kept beside it.

    Args:
        qemu: The emulator.
        name: "counting" (instructions), or "blocks" (what is executed, and the caches).

    Raises:
        Missing: The emulator has no plugins, no compiler is installed, or the file was changed.
    """
    if not qemu.plugins:
        raise Missing(
            f"{qemu.path} {qemu.version} was built without plugins and cannot count",
            hint=f"sudo apt-get install -y {PACKAGES} (the dynamically linked one, not -static)",
        )
    source = plugin_source(name)
    key = digest(PLUGIN_VERSION, str(qemu.plugin_api), source.read_bytes())
    folder = cache_folder() / "plugins" / key
    library, record = folder / f"{name}.so", folder / f"{name}.json"
    if not folder.is_dir():
        compiler = find_tool("cc", purpose="it builds the counter", packages="gcc libc6-dev")
        flags = ["-shared", "-fPIC", "-fvisibility=hidden", f"-DPLUGIN_API={qemu.plugin_api}"]
        with whole_folder(folder) as made:
            compile_c(compiler, [source], made / library.name, flags)
            entry = {"sha256": sha256_file(made / library.name), "compiler": compiler.version}
            (made / record.name).write_text(json.dumps(entry) + "\n", encoding="utf-8")
    try:
        known = str(parse_json(read_bytes(record, limit=1 << 16), where=str(record))["sha256"])
    except (BadInput, KeyError):
        known = ""
    why = "it has no record" if not known else untrusted(record, "") or untrusted(library, known)
    if why:
        raise Missing(
            f"{library} is damaged or not ours: {why}",
            hint=f"rm -r {folder} and run the set-up again",
        )
    return library
