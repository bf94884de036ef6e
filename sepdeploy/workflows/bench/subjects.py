"""Which files are benched, with their manifests, and in which runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepdeploy import runtimes
from sepdeploy.errors import ArtifactCheckFailed, BadInput, Missing
from sepdeploy.exporters.entry import Entry, read_entry
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.proof import able_runtimes
from sepdeploy.files import sha256_file
from sepdeploy.measure.proof.ways import NO_KERNEL_HINT
from sepdeploy.records import ArtifactRecord, ArtifactRef, Manifest
from sepdeploy.workflows.verifying import find_manifests

SUFFIXES = (".onnx", ".tflite")


@dataclass(frozen=True)
class Subject:
    """One file to bench, with its manifest and its row there, where both exist."""

    path: Path
    sha256: str
    entry: Entry
    manifest_path: Path | None = None
    manifest: Manifest | None = None
    record: ArtifactRecord | None = None

    @property
    def ref(self) -> ArtifactRef:
        """The file as it stands in a result."""
        record = self.record
        return ArtifactRef(
            path=str(self.path),
            sha256=self.sha256,
            format=self.path.suffix[1:],
            flavour=record.flavour if record else "unknown",
            quantization=record.quantization if record else "unknown",
        )


def find_subjects(paths: Sequence[Path]) -> tuple[Subject, ...]:
    """Return the files to bench, each once: those named, those of named manifests, else all here.

    Raises:
        ArtifactCheckFailed: A file differs from what its manifest says.
        BadInput: A path is neither artifact nor manifest, or there is none.
    """
    subjects: list[Subject] = []
    for path in paths or find_manifests(None):
        if path.name.endswith(".json"):
            manifest = read_manifest(path)
            subjects += [
                _subject(path.parent / record.path, path, manifest) for record in manifest.artifacts
            ]
        elif path.suffix in SUFFIXES:
            found = _manifest_of(path)
            subjects.append(_subject(path, *found) if found else _subject(path, None, None))
        else:
            raise BadInput(
                f"{path} is neither .onnx, .tflite nor a manifest",
                hint="sepdeploy export model.pt first",
            )
    once = {subject.path.resolve(): subject for subject in reversed(subjects)}
    return tuple(reversed(once.values()))


def _manifest_of(path: Path) -> tuple[Path, Manifest] | None:
    """Return the manifest beside a file that names it, by its stem first."""
    own = path.with_suffix(".manifest.json")
    for candidate in dict.fromkeys([own, *sorted(path.parent.glob("*.manifest.json"))]):
        if candidate.is_file():
            try:
                manifest = read_manifest(candidate)
            except BadInput:
                if candidate == own:
                    raise
                continue  # a broken manifest of something else
            if any(a.path == path.name for a in manifest.artifacts):
                return candidate, manifest
    return None


def _subject(path: Path, manifest_path: Path | None, manifest: Manifest | None) -> Subject:
    digest = sha256_file(path)
    record = None
    if manifest is not None:
        record = next(a for a in manifest.artifacts if a.path == path.name)
        if record.sha256 != digest:
            raise ArtifactCheckFailed(
                f"{path} is not the file that {manifest_path} describes (digest differs)",
                hint="export the model again",
            )
    return Subject(path, digest, read_entry(path), manifest_path, manifest, record)


def choose_runtimes(path: Path, wanted: str | None) -> tuple[str, ...]:
    """Return the runtime that was asked for, else every installed one that the file is for.

    Raises:
        BadInput: No such runtime, or it takes another format.
        Missing: It is not installed.
    """
    if wanted is None:
        return tuple(r for r in able_runtimes(path) if not _lacks_kernels(path, r))
    name = runtimes.choose(path, wanted)
    if name not in runtimes.installed(path.suffix[1:]):
        raise Missing(f"runtime '{name}' is not installed", hint=runtimes.RUNTIMES[name].hint)
    if lacking := _lacks_kernels(path, name):
        raise Missing(f"{path.name} in {name}: {lacking}", hint=NO_KERNEL_HINT)
    return (name,)


def _lacks_kernels(path: Path, runtime: str) -> str:
    """Return why nothing can run a .tflite file's custom nodes, "" where something can."""
    claim = runtimes.custom_nodes(path, runtime)
    return claim.note if path.suffix == ".tflite" and claim.nodes and not claim.library else ""


def no_runtime(path: Path) -> str:
    """Return why a file cannot be run here, with the command that helps."""
    for name in runtimes.installed(path.suffix[1:]):
        if lacking := _lacks_kernels(path, name):
            return f"{lacking} ({NO_KERNEL_HINT})"
    hints = [r.hint for r in runtimes.RUNTIMES.values() if r.format == path.suffix[1:]]
    return f"no runtime for {path.suffix} is installed ({hints[0]})"
