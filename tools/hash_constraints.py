"""Write constraints-hashed.txt: the pins of constraints.txt with the SHA-256 of each wheel.

The wheels are those that pip takes for this interpreter and machine; torch, whose wheel differs
by index, and pip itself are left out.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = re.compile(r"(torch|pip)\b(?!-)")


def main() -> None:
    """Download every pinned wheel and write the file."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line[:1] not in ("", "#") and not LEFT_OUT.match(line)]
    kind = f"Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.system()}"
    found = [f"# Written by tools/hash_constraints.py; wheels for {kind} {platform.machine()}."]
    with tempfile.TemporaryDirectory() as name:
        for number, pin in enumerate(pins):
            folder = Path(name) / str(number)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--only-binary=:all:", "-d", str(folder), pin], check=True)
            found += [
                f"{pin} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
                for wheel in folder.iterdir()  # none where the pin is for another Python
            ]
    text = "\n".join(found) + "\n"
    (ROOT / "constraints-hashed.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
