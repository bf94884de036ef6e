"""Is an export still what its manifest says? Digests, parity and the re-densification check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepdeploy.data.evalpack import EvalPack, read_pack
from sepdeploy.errors import ArtifactCheckFailed, BadInput, Missing
from sepdeploy.files import sha256_file
from sepdeploy.records import ArtifactRecord, Manifest
from sepdeploy.workflows.evaluation import Notify, reference_inputs, torch_logits
from sepdeploy.workflows.exporting import PARITY_SAMPLES, prove, read_manifest
from sepdeploy.workflows.requirements import has_torch

VERIFY_SCHEMA = "sepdeploy.verify/1"


@dataclass(frozen=True)
class VerifyItem:
    """One check of one file; ``found`` is what a person reads."""

    path: str
    check: str
    passed: bool
    found: str


@dataclass(frozen=True)
class VerifyReport:
    """All checks; ``exit_code`` is 6 when one failed, else 0."""

    items: tuple[VerifyItem, ...]
    exit_code: int
    schema: str = VERIFY_SCHEMA


@dataclass(frozen=True)
class _Reference:
    images: NDArray[np.float32]
    logits: NDArray[np.float32]
    kind: str
    source: str


def find_manifests(path: Path | None) -> tuple[Path, ...]:
    """Return one manifest, or every one of the current folder.

    Raises:
        BadInput: There is none.
    """
    if path is not None and not path.is_dir():
        return (path,)
    folder = path or Path()
    found = tuple(sorted(folder.glob("*.manifest.json")))
    if not found:
        raise BadInput(
            f"no *.manifest.json in {folder.resolve()}",
            hint="sepdeploy export model.pt writes one; or name the file",
        )
    return found


def verify_exports(path: Path | None, *, seed: int, notify: Notify) -> VerifyReport:
    """Verify one manifest, or every one of the current folder.

    Raises:
        BadInput: No manifest, or one that cannot be read.
    """
    items: list[VerifyItem] = []
    for found in find_manifests(path):
        notify(f"verifying {found}")
        items += _verify(found, read_manifest(found), seed)
    return VerifyReport(tuple(items), 0 if all(i.passed for i in items) else 6)


def _verify(path: Path, manifest: Manifest, seed: int) -> list[VerifyItem]:
    folder = path.parent
    items: list[VerifyItem] = []
    model_path = folder / manifest.model.path
    model_ok = model_path.is_file() and sha256_file(model_path) == manifest.model.sha256
    if model_path.is_file():
        items.append(_digest_item(manifest.model.path, model_ok))
    pack: EvalPack | None = None
    if manifest.eval_pack is not None:
        pack_item = _digest(folder, manifest.eval_pack.path, manifest.eval_pack.sha256)
        items.append(pack_item)
        if pack_item.passed:
            pack = read_pack(folder / manifest.eval_pack.path)
    reference = _reference(model_path if model_ok else None, manifest, pack, seed)
    for artifact in manifest.artifacts:
        item = _digest(folder, artifact.path, artifact.sha256)
        items.append(item)
        if item.passed:
            items += _artifact(folder, artifact, manifest, reference)
    return items


def _digest(folder: Path, name: str, sha256: str) -> VerifyItem:
    path = folder / name
    if not path.is_file():
        return VerifyItem(name, "digest", False, "the file is missing")
    return _digest_item(name, sha256_file(path) == sha256)


def _digest_item(name: str, same: bool) -> VerifyItem:
    found = "as exported" if same else "the file was changed after the export"
    return VerifyItem(name, "digest", same, found)


def _reference(
    model_path: Path | None, manifest: Manifest, pack: EvalPack | None, seed: int
) -> _Reference | None:
    """Return inputs and logits to compare with: the torch model's, else the pack's."""
    images, kind = reference_inputs(
        manifest.input.shape, None if pack is None else pack.clean(), PARITY_SAMPLES, seed
    )
    if model_path is not None and has_torch():
        from sepdeploy.models import load

        try:
            model = load(model_path)
        except BadInput:
            model = None  # the user's own network: its code is not named by the file
        if model is not None:
            return _Reference(images, torch_logits(model, images), kind, "torch model")
    if pack is not None:
        return _Reference(images, pack.logits[: len(images)], kind, "evaluation pack")
    return None


def _artifact(
    folder: Path, artifact: ArtifactRecord, manifest: Manifest, reference: _Reference | None
) -> list[VerifyItem]:
    from sepdeploy.exporters.entry import read_entry

    path = folder / artifact.path
    items = [_attempt(artifact.path, "entry", lambda: _entry(read_entry(path).layers, manifest))]
    if reference is None:
        why = "skipped: neither the model with torch nor an evaluation pack is at hand"
        return [*items, VerifyItem(artifact.path, "parity", True, why)]

    def run() -> str:
        parity, residency, notes = prove(
            path, artifact.format, manifest.layers, reference.images, reference.logits,
            reference.kind,
        )  # fmt: skip
        if notes:
            return notes[0]
        worst = max(parity, key=lambda p: p.max_rel)
        runtimes = ", ".join(dict.fromkeys(p.runtime for p in parity))
        kept = f"; {len(residency)} structured layers keep their factors" if residency else ""
        return f"{worst.max_rel:.1e} against the {reference.source} ({runtimes}){kept}"

    return [*items, _attempt(artifact.path, "parity", run)]


def _entry(layers: object, manifest: Manifest) -> str:
    if layers != manifest.layers:
        raise ArtifactCheckFailed("its embedded layer table differs from the manifest")
    return "embedded entry matches the manifest"


def _attempt(name: str, check: str, run: Callable[[], str]) -> VerifyItem:
    try:
        return VerifyItem(name, check, True, run())
    except (ArtifactCheckFailed, BadInput) as error:
        return VerifyItem(name, check, False, error.message)
    except Missing as error:
        return VerifyItem(name, check, True, f"skipped: {error.message}")
