"""Is an export still what its manifest says? Digests, parity and the re-densification check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sepdeploy.errors import EXPORT_AGAIN, VERIFY, ArtifactCheckFailed, BadInput, Missing, NoRoom
from sepdeploy.exporters.formats import named_format
from sepdeploy.exports.export import MISSING, Export
from sepdeploy.exports.proof import prove
from sepdeploy.exports.source import Source
from sepdeploy.files import Watched
from sepdeploy.records import ArtifactRecord, FileRef, Manifest, Notify
from sepdeploy.workflows.options import ProofOptions

if TYPE_CHECKING:
    from sepdeploy.exporters.entry import Entry

VERIFY_SCHEMA = "sepdeploy.verify/1"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class VerifyItem:
    """One check of one file; ``found`` is what a person reads.

    ``result`` is "ok", "failed" or "skipped" (with the reason in ``found``).
    """

    path: str
    check: str
    result: str
    found: str


@dataclass(frozen=True)
class VerifyReport:
    """All checks; ``exit_code`` is 6 when one failed, else 0."""

    items: tuple[VerifyItem, ...]
    exit_code: int
    schema: str = VERIFY_SCHEMA


def find_manifests(path: Path | None) -> tuple[Path, ...]:
    """Return one manifest, or every one of the current folder.

    Raises:
        BadInput: There is none.
    """
    if path is not None and not path.is_dir():
        if named_format(path) or path.suffix == ".pt":
            manifest = quote(str(path.with_suffix(".manifest.json")))
            raise BadInput(f"{path} is no manifest", hint=f"sepdeploy verify {manifest}")
        return (path,)
    folder = path or Path()
    found = tuple(sorted(folder.glob("*.manifest.json")))
    if not found:
        raise BadInput(
            f"no *.manifest.json in {folder.resolve()}",
            hint="sepdeploy export model.pt writes one; or name the file",
        )
    return found


def verify_exports(path: Path | None, wanted: ProofOptions, notify: Notify) -> VerifyReport:
    """Verify one manifest or a folder of them; see ``sepdeploy.api.verify``."""
    items: list[VerifyItem] = []
    for found in find_manifests(path):
        notify(f"verifying {found}")
        items += _verify(Export(found), wanted)
    return VerifyReport(tuple(items), 6 if any(i.result == FAILED for i in items) else 0)


def _verify(export: Export, wanted: ProofOptions) -> list[VerifyItem]:
    manifest = export.manifest
    source, _ = export.source(wanted.arch)
    files: list[FileRef | ArtifactRecord] = [manifest.model, *manifest.artifacts]
    files += [] if manifest.eval_pack is None else [manifest.eval_pack]
    same = Watched(known={export.place(f): f.sha256 for f in files if not export.fault(f)})
    items = []
    if export.fault(manifest.model) != MISSING:  # an export is whole without its model
        items.append(_digest(export, manifest.model))
    if manifest.eval_pack is not None:
        items.append(_digest(export, manifest.eval_pack))
    for artifact in manifest.artifacts:
        own = (artifact,) if artifact.data is None else (artifact, artifact.data)
        items += [_digest(export, file) for file in own]
        if not any(export.fault(file) for file in own):
            items += _artifact(export, artifact, source, wanted.seed)
    same.check()  # what was proven is what was hashed
    return items


def _digest(export: Export, named: FileRef | ArtifactRecord) -> VerifyItem:
    fault = export.fault(named)
    return VerifyItem(named.path, "digest", FAILED if fault else OK, fault or "as exported")


def _artifact(
    export: Export, artifact: ArtifactRecord, source: Source | None, seed: int
) -> list[VerifyItem]:
    from sepdeploy.exporters.entry import read_entry

    path, manifest = export.folder / artifact.path, export.manifest

    def parity() -> str:
        reference = export.reference(artifact, source, seed)
        proof = prove(
            path,
            reference,
            manifest.layers,
            quantization=artifact.quantization,
            precisions=artifact.precisions,
        )
        if not proof.parity:
            raise Missing(proof.notes[0], hint=VERIFY)
        worst = max(proof.parity, key=lambda p: p.max_rel)
        runtimes = ", ".join(dict.fromkeys(p.runtime for p in proof.parity))
        n = len(proof.residency)
        kept = f"; {n} structured layers keep their factors" if n else ""
        notes = "".join(f"; {note}" for note in proof.notes)
        return f"{worst.max_rel:.1e} against {reference.said_by} ({runtimes}){kept}{notes}"

    found = [_attempt(artifact.path, "parity", parity)]
    if manifest.input is not None:
        entry = _attempt(artifact.path, "entry", lambda: _entry(read_entry(path), manifest))
        found.insert(0, entry)
    return found


def _entry(entry: Entry, manifest: Manifest) -> str:
    if entry.layers != manifest.layers:
        raise ArtifactCheckFailed(
            "its embedded layer table differs from the manifest", hint=EXPORT_AGAIN
        )
    if entry.input != manifest.input:
        raise ArtifactCheckFailed("its embedded input differs from the manifest", hint=EXPORT_AGAIN)
    return "embedded entry matches the manifest"


def _attempt(name: str, check: str, run: Callable[[], str]) -> VerifyItem:
    try:
        return VerifyItem(name, check, OK, run())
    except NoRoom:
        raise
    except (ArtifactCheckFailed, BadInput) as error:
        return VerifyItem(name, check, FAILED, error.message)
    except Missing as error:
        return VerifyItem(name, check, SKIPPED, error.message)
