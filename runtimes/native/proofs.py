"""Self-tests in child processes: kernels that crash a runtime end only their child.

What the kernels in Python were proven in is kept in the cache; the compiled library's proofs
stand in its record.
"""

from __future__ import annotations

import contextlib
import json
import sys
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from sepdeploy.codec import parse_json
from sepdeploy.errors import BadInput
from sepdeploy.files import read_bytes, write_text
from sepdeploy.programs import run
from sepdeploy.runtimes.native.library import MAX_RECORD, cache_folder

REFERENCE = "reference"
SELF_TEST_S = 120.0
PACKAGE = Path(__file__).parent


def self_test(library: str, what: str) -> str:
    """Try kernels out in a child process.

    Args:
        library: Path of a library, or "reference".
        what: "kernels", or the name of a runtime.

    Returns:
        What went wrong, one line; "" if nothing did.
    """
    module = "sepdeploy.runtimes.native.selftest"
    done = run([sys.executable, "-P", "-m", module, library, what], timeout=SELF_TEST_S)
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


@lru_cache(maxsize=64)
def reference_works(runtime: str, version: str) -> bool:
    """Whether the kernels in Python give right results in a version of a runtime.

    Tried out once; the answer is kept in the cache, if that can be written.
    """
    path = cache_folder() / f"reference-{_reference_digest()}.json"
    known = _known(path)
    key = f"{runtime} {version} {sys.version}"
    if key not in known:
        known[key] = not self_test(REFERENCE, runtime)
        with contextlib.suppress(BadInput):
            write_text(path, json.dumps(known, indent=1) + "\n")
    return known[key]


def _known(path: Path) -> dict[str, bool]:
    try:
        known = parse_json(read_bytes(path, limit=MAX_RECORD), where=str(path))
    except BadInput:
        return {}
    return {runtime: works is True for runtime, works in known.items()}


def _reference_digest() -> str:
    texts = [(PACKAGE / name).read_bytes() for name in ("reference.py", "selftest.py")]
    return sha256(b"\0".join(texts)).hexdigest()[:16]
