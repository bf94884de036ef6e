"""The standard file of the same export, for where a custom one cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput
from sepdeploy.files import read_bytes, sha256_file

MANIFESTS = "*.manifest.json"
MAX_MANIFEST = 64 << 20


def standard_sibling(path: Path) -> Path | None:
    """Return the standard file that a manifest beside a custom one names for it.

    None where no manifest names the file, or where the sibling is missing or was changed.
    """
    for manifest in sorted(path.parent.glob(MANIFESTS)):
        artifacts = _artifacts(manifest)
        own = next((a for a in artifacts if a.get("path") == path.name), None)
        if own is None or not own.get("sibling"):
            continue
        name = str(own["sibling"])
        row = next((a for a in artifacts if a.get("path") == name), None)
        found = path.parent / name
        if row is None or Path(name).name != name or not found.is_file():
            continue
        if row.get("flavour") == "standard" and sha256_file(found) == row.get("sha256"):
            return found
    return None


def _artifacts(manifest: Path) -> list[dict[str, Any]]:
    try:
        data = json.loads(read_bytes(manifest, limit=MAX_MANIFEST))
    except (BadInput, ValueError, RecursionError):
        return []
    rows = data.get("artifacts") if isinstance(data, dict) else None
    return [a for a in rows if isinstance(a, dict)] if isinstance(rows, list) else []
