"""Is an export still what its manifest says? Digests, parity and the re-densification check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy.data.evalpack import EvalPack, read_pack
from sepdeploy.errors import ArtifactCheckFailed, BadInput, Missing
from sepdeploy.exports.judged_images import Notify, reference_inputs, torch_logits
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.proof import PARITY_SAMPLES, prove
from sepdeploy.exports.quantize.files import only_runtimes
from sepdeploy.exports.requirements import has_torch
from sepdeploy.files import sha256_file
from sepdeploy.records import ArtifactRecord, Manifest

if TYPE_CHECKING:
    from sepdeploy.exporters.entry import Entry

VERIFY_SCHEMA = "sepdeploy.verify/1"
MAX_BATCH = 256
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
        if path.suffix in (".onnx", ".tflite", ".pt"):
            raise BadInput(
                f"{path} is no manifest", hint=f"verify {path.with_suffix('.manifest.json')}"
            )
        return (path,)
    folder = path or Path()
    found = tuple(sorted(folder.glob("*.manifest.json")))
    if not found:
        raise BadInput(
            f"no *.manifest.json in {folder.resolve()}",
            hint="sepdeploy export model.pt writes one; or name the file",
        )
    return found


def verify_exports(
    path: Path | None, *, arch: str | None = None, seed: int, notify: Notify
) -> VerifyReport:
    """Verify one manifest, or every one of the current folder.

    Args:
        path: Manifest or folder; None is the current folder.
        arch: ``package.module:factory`` of a model of the user's own architecture.
        seed: Seed of synthetic inputs, where there is no data.
        notify: Told what goes on.

    Raises:
        BadInput: No manifest, or one that cannot be read.
    """
    items: list[VerifyItem] = []
    for found in find_manifests(path):
        notify(f"verifying {found}")
        items += _verify(found, read_manifest(found), arch, seed)
    return VerifyReport(tuple(items), 6 if any(i.result == FAILED for i in items) else 0)


def _verify(path: Path, manifest: Manifest, arch: str | None, seed: int) -> list[VerifyItem]:
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
        if pack_item.result == OK:
            pack = read_pack(folder / manifest.eval_pack.path)
    foreign = model_path if model_ok and model_path.suffix == ".onnx" else None
    own_model = model_path if model_ok and foreign is None else None
    reference = _reference(own_model, manifest, pack, arch, seed)
    for artifact in manifest.artifacts:
        found = [_digest(folder, artifact.path, artifact.sha256)]
        if artifact.data is not None:
            found.append(_digest(folder, artifact.data.path, artifact.data.sha256))
        items += found
        if any(item.result != OK for item in found):
            continue
        if foreign is not None:
            items += _foreign(folder, artifact, manifest, foreign, seed)
        else:
            own = reference or _sibling(folder, artifact, manifest, seed)
            items += _artifact(folder, artifact, manifest, own)
    return items


def _batches(artifacts: Sequence[ArtifactRecord]) -> tuple[int, ...]:
    """Return the batch sizes that files were proven with, as far as they make sense."""
    found = sorted({p.batch for a in artifacts for p in a.parity if 1 <= p.batch <= MAX_BATCH})
    return tuple(found) or (PARITY_SAMPLES,)


def _foreign(
    folder: Path, artifact: ArtifactRecord, manifest: Manifest, model_path: Path, seed: int
) -> list[VerifyItem]:
    """Check a file that was made from somebody else's .onnx file."""
    from sepdeploy.exporters.entry import read_entry
    from sepdeploy.exports.foreign_proof import verify_foreign

    path = folder / artifact.path
    return [
        _attempt(artifact.path, "entry", lambda: _entry(read_entry(path), manifest)),
        _attempt(
            artifact.path,
            "parity",
            lambda: verify_foreign(model_path, path, artifact, _batches([artifact]), seed),
        ),
    ]


def _digest(folder: Path, name: str, sha256: str) -> VerifyItem:
    path = folder / name
    if not path.is_file():
        return VerifyItem(name, "digest", FAILED, "the file is missing")
    return _digest_item(name, sha256_file(path) == sha256)


def _digest_item(name: str, same: bool) -> VerifyItem:
    found = "as exported" if same else "the file was changed after the export"
    return VerifyItem(name, "digest", OK if same else FAILED, found)


def _reference(
    model_path: Path | None, manifest: Manifest, pack: EvalPack | None, arch: str | None, seed: int
) -> _Reference | None:
    """Return inputs and logits to compare with: the torch model's, else the pack's."""
    n = max(_batches(manifest.artifacts))
    images, kind = reference_inputs(
        manifest.input.shape, None if pack is None else pack.clean(), n, seed
    )
    if model_path is not None and has_torch():
        from sepdeploy.models import load

        try:
            model = load(model_path, arch=arch)
        except BadInput:
            if arch is not None:
                raise
            model = None  # the user's own network, and its code was not named
        if model is not None:
            return _Reference(images, torch_logits(model, images), kind, "torch model")
    if pack is not None:
        return _Reference(images, pack.logits[: len(images)], kind, "evaluation pack")
    return None


def _sibling(
    folder: Path, artifact: ArtifactRecord, manifest: Manifest, seed: int
) -> _Reference | None:
    """Return the logits of the manifest's .onnx file, for a file of another format."""
    from sepdeploy import measure, runtimes

    sibling = next((a for a in manifest.artifacts if a.format == "onnx"), None)
    if sibling is None or artifact.format == "onnx" or not runtimes.installed("onnx"):
        return None
    path = folder / sibling.path
    if not path.is_file() or sha256_file(path) != sibling.sha256:
        return None
    n = max(_batches([sibling]))
    images, kind = reference_inputs(manifest.input.shape, None, n, seed)
    logits, _ = measure.run_logits(path, runtimes.installed("onnx")[0], images)
    return _Reference(images, logits[0], kind, sibling.path)


def _artifact(
    folder: Path, artifact: ArtifactRecord, manifest: Manifest, reference: _Reference | None
) -> list[VerifyItem]:
    from sepdeploy.exporters.entry import read_entry

    path = folder / artifact.path
    items = [_attempt(artifact.path, "entry", lambda: _entry(read_entry(path), manifest))]
    if reference is None:
        why = "neither the model (with torch; --arch for your own) nor an evaluation pack at hand"
        return [*items, VerifyItem(artifact.path, "parity", SKIPPED, why)]

    def run() -> str:
        parity, residency, notes = prove(
            path, artifact.format, manifest.layers, reference.images, reference.logits,
            reference.kind, quantization=artifact.quantization, precisions=artifact.precisions,
            only=only_runtimes(path), batches=_batches([artifact]),
        )  # fmt: skip
        if notes:
            raise Missing(notes[0])
        worst = max(parity, key=lambda p: p.max_rel)
        runtimes = ", ".join(dict.fromkeys(p.runtime for p in parity))
        kept = f"; {len(residency)} structured layers keep their factors" if residency else ""
        return f"{worst.max_rel:.1e} against the {reference.source} ({runtimes}){kept}"

    return [*items, _attempt(artifact.path, "parity", run)]


def _entry(entry: Entry, manifest: Manifest) -> str:
    if entry.layers != manifest.layers:
        raise ArtifactCheckFailed("its embedded layer table differs from the manifest")
    if entry.input != manifest.input:
        raise ArtifactCheckFailed("its embedded input differs from the manifest")
    return "embedded entry matches the manifest"


def _attempt(name: str, check: str, run: Callable[[], str]) -> VerifyItem:
    try:
        return VerifyItem(name, check, OK, run())
    except (ArtifactCheckFailed, BadInput) as error:
        return VerifyItem(name, check, FAILED, error.message)
    except Missing as error:
        return VerifyItem(name, check, SKIPPED, error.message)
