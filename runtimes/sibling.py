"""The standard file of the same export, for where a custom one cannot run."""

from __future__ import annotations

from pathlib import Path

from sepdeploy.codec import read
from sepdeploy.errors import BadInput
from sepdeploy.files import sha256_file
from sepdeploy.records import ArtifactRecord, Manifest

MANIFESTS = "*.manifest.json"
MAX_MANIFEST = 64 << 20


def standard_sibling(path: Path) -> Path | None:
    """Return the standard file that a manifest beside a custom one names for it.

    None where no manifest names the file, or where the sibling is missing or was changed.
    """
    for manifest in sorted(path.parent.glob(MANIFESTS)):
        artifacts = _artifacts(manifest)
        own = next((a for a in artifacts if a.path == path.name), None)
        if own is None or not own.sibling:
            continue
        name = own.sibling
        row = next((a for a in artifacts if a.path == name), None)
        found = path.parent / name
        if row is None or Path(name).name != name or not found.is_file():
            continue
        if row.flavour == "standard" and sha256_file(found) == row.sha256:
            return found
    return None


def _artifacts(manifest: Path) -> tuple[ArtifactRecord, ...]:
    try:
        return read(Manifest, manifest, limit=MAX_MANIFEST).artifacts
    except BadInput:
        return ()
