"""The file that vouches for an export's other files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sepdeploy.codec import read
from sepdeploy.errors import EXPORT_AGAIN, BadInput, SepdeployError, unknown_name
from sepdeploy.exporters.formats import format_of
from sepdeploy.exporters.modes import MODES
from sepdeploy.files import file_beside
from sepdeploy.records import ArtifactRecord, Manifest

MAX_MANIFEST = 64 << 20


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; the files it names must lie beside it.

    Raises:
        BadInput: Unreadable, not a manifest, or it names no files or files outside its folder.
    """
    manifest = read(Manifest, path, limit=MAX_MANIFEST)
    if not manifest.artifacts:
        raise BadInput(f"{path} names no exported file", hint="export the model again")
    for artifact in manifest.artifacts:
        if format_of(artifact.path, where=f"{path}: ").name != artifact.format:
            raise BadInput(
                f"{path}: '{artifact.path}' is no {artifact.format} file", hint=EXPORT_AGAIN
            )
        if artifact.quantization not in MODES:
            raise unknown_name(f"quantisation in {path}", artifact.quantization, MODES)
    names = [manifest.model.path, *(a.path for a in manifest.artifacts)]
    names += [a.data.path for a in manifest.artifacts if a.data]
    names += [manifest.eval_pack.path] if manifest.eval_pack else []
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise BadInput(f"{path}: names a file outside its folder: '{name}'", hint=EXPORT_AGAIN)
        if (path.parent / name).is_symlink() or (path.parent / name).exists():
            file_beside(path, name, what="an export")  # no link that leads elsewhere
    return manifest


def with_earlier(
    path: Path, digest: str, new: Sequence[ArtifactRecord]
) -> tuple[ArtifactRecord, ...]:
    """Keep what an earlier export of the same model wrote and this one does not replace."""
    replaced = {a.path for a in new}
    try:
        earlier = read_manifest(path)
    except SepdeployError:
        return tuple(new)
    if earlier.model.sha256 != digest:
        return tuple(new)
    kept = [a for a in earlier.artifacts if a.path not in replaced]
    return tuple([a for a in kept if (path.parent / a.path).is_file()] + list(new))
