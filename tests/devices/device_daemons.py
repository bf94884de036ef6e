"""A real ssh daemon on the loopback, and real Android debug daemons in a network of their own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sepdeploy.devices.transports.ssh import SshTransport


def wait_for(ready: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError("it did not come up")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@dataclass
class Sshd:
    """A running daemon; ``small`` is a folder on a file system of 2 MB, None without root."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    small: Path | None

    def config(self, name: str = "config", **changes: str) -> Path:
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.folder / "key"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.folder / "known"),
            "GlobalKnownHostsFile": "/dev/null",
            **changes,
        }
        path = self.folder / name
        path.write_text("Host pi\n" + "".join(f" {k} {v}\n" for k, v in settings.items()))
        return path

    def transport(self, workdir: Path, config: Path | None = None) -> SshTransport:
        return SshTransport("pi", config=config or self.config(), workdir=str(workdir))

    def behind(self, shell: str, workdir: Path) -> SshTransport:
        """Return the way to an account whose login shell is this script."""
        (self.folder / "shell").write_text(f"#!/bin/bash\n{shell}\n")
        (self.folder / "shell").chmod(0o755)
        key = str(self.folder / "talker")
        return self.transport(workdir, self.config("talking", IdentityFile=key))

    def drop(self) -> None:
        """End every connection, as a device does that loses its power."""
        for pid in children(self.process.pid):
            for inner in [*children(pid), pid]:
                if b"sshd" in Path(f"/proc/{inner}/comm").read_bytes():
                    os.kill(inner, signal.SIGKILL)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(p) for p in text.split()]


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("no ssh daemon: apt install openssh-server openssh-client")
    folder = tmp_path_factory.mktemp("sshd")
    root = os.geteuid() == 0
    if root:
        Path("/run/sshd").mkdir(exist_ok=True)  # the daemon insists on it
    for name in ("host", "key", "stranger", "talker"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    talker = f'command="{folder}/shell" {(folder / "talker.pub").read_text()}'
    (folder / "authorized").write_text((folder / "key.pub").read_text() + talker)
    port, small = free_port(), folder / "small"
    small.mkdir()
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n"
    )
    start = [program, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "log")]
    if root:
        mount = f'mount -t tmpfs -o size=2m none {small} && exec "$@"'
        start = ["unshare", "-m", "sh", "-c", mount, "sh", *start]
    process = subprocess.Popen(start)
    try:
        wait_for(lambda: answers(port))
        yield Sshd(process, port, folder, small if root else None)
    finally:
        process.terminate()
        process.wait()


GETPROP = """#!/bin/sh
case $1 in
  ro.product.manufacturer) echo Google ;;
  ro.product.model) echo "Pixel 6" ;;
  ro.build.version.release) echo 14 ;;
  ro.product.cpu.abi) echo arm64-v8a ;;
  ro.kernel.qemu) echo "$SEPDEPLOY_TEST_EMULATOR" ;;
esac
"""

# Runs inside the namespaces: $1 = folder of the test, $2 = root of adbd's packages.
WORLD = r"""
set -e
ip link set lo up
mount -t tmpfs none /mnt
mkdir -p /mnt/phone /mnt/emulator /mnt/small "$1/tmp"
mount -t tmpfs -o size=2m none /mnt/small
cat > "$1/daemon" <<'END'
#!/bin/sh
ROOT=@ROOT@
L=$(echo "$ROOT"/usr/lib/*-linux-gnu)
export ADBD_PORT=$1 SEPDEPLOY_TEST_EMULATOR=$2 PATH=@BIN@:$PATH LD_LIBRARY_PATH=$L/android:$L
exec "$ROOT/usr/lib/android-sdk/platform-tools/adbd"
END
sed -i "s|@ROOT@|$2|; s|@BIN@|$1/bin|" "$1/daemon"
chmod +x "$1/daemon"
: > "$1/emulator.log"  # its reader may be quicker than the daemon's shell
"$1/daemon" 5555 1 >> "$1/emulator.log" 2>&1 &
"$1/daemon" 6001 0 > "$1/phone.log" 2>&1 &
echo $$ > "$1/pid"
while :; do sleep 1; done
"""


@dataclass
class AdbWorld:
    """Daemons in a network of their own: ``emulator-5554`` and ``localhost:6001`` (a phone).

    ``adb`` is a program that enters that network and is the system's adb there.
    """

    folder: Path
    pid: int
    adb: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self, *argv: str) -> list[str]:
        enter = ["nsenter", "-t", str(self.pid), "-U", "-n", "-m", "--preserve-credentials", "--"]
        return [*enter, *argv]

    def call(self, *argv: str) -> str:
        done = subprocess.run([self.adb, *argv], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def daemon(self, port: int) -> subprocess.Popen[bytes]:
        """Start one more daemon and connect to it."""
        process = subprocess.Popen(
            self.inside(str(self.folder / "daemon"), str(port), "0"), stderr=subprocess.DEVNULL
        )
        self.started.append(process)
        wait_for(lambda: f"connected to localhost:{port}" in self.connect(port))
        return process

    def connect(self, port: int) -> str:
        return self.call("connect", f"localhost:{port}")


@pytest.fixture(scope="session")
def adb_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbWorld]:
    real = shutil.which("adb")
    usual = Path.home() / ".cache/sepdeploy/test-adbd"  # as tools/fetch_adbd.sh
    root = Path(os.environ.get("SEPDEPLOY_TEST_ADBD", usual)) / "root"
    if real is None:
        pytest.skip("no adb: apt install adb")
    if not (root / "usr/lib/android-sdk/platform-tools/adbd").is_file():
        pytest.skip("no Android debug daemon: run tools/fetch_adbd.sh")
    if shutil.which("nsenter") is None or shutil.which("ip") is None:
        pytest.skip("no nsenter or ip: apt install util-linux iproute2")
    trial = subprocess.run(["unshare", "-rnm", "true"], capture_output=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"no user namespaces here: {trial.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("adb")
    (folder / "bin").mkdir()
    (folder / "bin/getprop").write_text(GETPROP)
    (folder / "bin/getprop").chmod(0o755)
    keeper = subprocess.Popen(
        ["unshare", "-rnm", "sh", "-c", WORLD, "sh", str(folder), str(root)],
        start_new_session=True,
    )
    world = AdbWorld(folder, 0, str(folder / "adb"))
    try:
        wait_for(lambda: (folder / "pid").is_file() and (folder / "pid").read_text())
        world.pid = int((folder / "pid").read_text())
        settings = f"HOME={folder} TMPDIR={folder}/tmp ANDROID_ADB_SERVER_PORT=5137"
        enter = " ".join(world.inside("env", settings, real))
        (folder / "adb").write_text(f'#!/bin/sh\nexec {enter} "$@"\n')
        (folder / "adb").chmod(0o755)
        wait_for(lambda: "listening on tcp:5555" in (folder / "emulator.log").read_text())
        wait_for(lambda: "connected to localhost:6001" in world.connect(6001))
        wait_for(lambda: "emulator-5554" in world.call("devices"))
        yield world
    finally:
        with contextlib.suppress(OSError):
            world.call("kill-server")
        for process in world.started:
            process.kill()
            process.wait()
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
