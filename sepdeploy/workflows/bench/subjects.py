"""Which files are benched, with their manifests, and in which runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

from sepdeploy import runtimes
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exporters.entry import Entry, has_entry, read_entry
from sepdeploy.exporters.facts import Described, Shapes, describe
from sepdeploy.exporters.formats import FORMATS, format_of, named_format
from sepdeploy.exporters.onnx_file.disk import external_data
from sepdeploy.exports.export import Export
from sepdeploy.exports.proof import able_runtimes
from sepdeploy.files import Watched, sha256_file
from sepdeploy.measure.proof.ways import NO_KERNEL_HINT
from sepdeploy.records import ArtifactRecord, ArtifactRef
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.verifying import find_manifests


@dataclass(frozen=True)
class Subject:
    """One file to bench, with its export and its row there, where both exist.

    It has an ``entry`` of ours, or was written by others and is ``described`` by itself. ``shapes``
    are the sizes that were chosen where it leaves some open.
    """

    path: Path
    sha256: str
    entry: Entry | None = None
    export: Export | None = None
    record: ArtifactRecord | None = None
    described: Described | None = None
    shapes: Shapes = field(default_factory=dict)

    @property
    def sample(self) -> tuple[int, ...] | None:
        """Shape of the one sample that it takes, None where it takes something else."""
        if self.entry is not None:
            return self.entry.input.shape
        return None if self.described is None else self.described.sample

    @property
    def open_sizes(self) -> bool:
        """Whether it leaves sizes besides the batch open, chosen or not."""
        ports = self.described.file.inputs if self.described is not None else ()
        return bool(self.shapes) or any(
            isinstance(n, str) for p in ports for n in (p.shape or ())[1:]
        )

    @property
    def ref(self) -> ArtifactRef:
        """The file as it stands in a result."""
        record = self.record
        return ArtifactRef(
            path=str(self.path),
            sha256=self.sha256,
            format=format_of(self.path).name,
            flavour=record.flavour if record else "unknown",
            quantization=record.quantization if record else "unknown",
        )


def find_subjects(
    paths: Sequence[Path], options: BenchOptions | None = None
) -> tuple[Subject, ...]:
    """Return the files to bench, each once: those named, those of named manifests, else all here.

    Args:
        paths: The files.
        options: Which sizes of others' files are fixed.

    Raises:
        ArtifactCheckFailed: A file differs from what its manifest says.
        BadInput: A path is neither artifact nor manifest, or there is none.
    """
    subjects: list[Subject] = []
    options = options or BenchOptions()
    for path in paths or find_manifests(None):
        if path.name.endswith(".json"):
            export = Export(path)
            subjects += [
                _subject(export.folder / a.path, export, options) for a in export.manifest.artifacts
            ]
        elif named_format(path):
            subjects.append(_subject(path, _export_of(path), options))
        else:
            known = ", ".join(row.suffix for row in FORMATS.values())
            raise BadInput(
                f"{path} is neither {known} nor a manifest",
                hint=f"sepdeploy export {quote(str(path)) if path.suffix == '.pt' else 'model.pt'}",
            )
    once = {subject.path.resolve(): subject for subject in reversed(subjects)}
    return tuple(reversed(once.values()))


def timed(subject: Subject, options: BenchOptions) -> BenchOptions:
    """Return the options with the batch that a file insists on, where nobody named one."""
    insists = subject.described.batch if subject.described is not None else None
    return replace(options, batch=insists) if insists and options.batch == 1 else options


def refuse_other_formats(subjects: Sequence[Subject], options: BenchOptions) -> None:
    """Refuse a file to compare with that no subject can be compared with.

    Raises:
        BadInput: It is of another format than all of them.
    """
    formats = {subject.path.suffix for subject in subjects}
    for flag, path in (("--dense", options.dense), ("--against", options.against)):
        if path is not None and path.suffix not in formats:
            raise BadInput(
                f"{flag} {path} is of another format than {subjects[0].path}",
                hint=f"give {flag} a {' or '.join(sorted(formats))} file",
            )


def watch(subjects: Sequence[Subject], options: BenchOptions) -> Watched:
    """Watch all files whose numbers will be told, and those that they are judged by."""
    known = {subject.path: subject.sha256 for subject in subjects}
    others = {path for path in (options.dense, options.against) if path is not None}
    for subject in subjects:
        data = external_data(subject.path)
        others |= set() if data is None else {data}
        if subject.export is not None:
            others.add(subject.export.path)
            named = (subject.export.manifest.model, subject.export.manifest.eval_pack)
            known |= {
                subject.export.place(file): file.sha256
                for file in named
                if file is not None and not subject.export.fault(file)
            }
    return Watched(others - set(known), known)


def _export_of(path: Path) -> Export | None:
    """Return the export beside a file whose manifest names it, by its stem first."""
    own = path.with_suffix(".manifest.json")
    for candidate in dict.fromkeys([own, *sorted(path.parent.glob("*.manifest.json"))]):
        if candidate.is_file():
            try:
                export = Export(candidate)
            except BadInput:
                if candidate == own:
                    raise
                continue  # a broken manifest of something else
            if any(a.path == path.name for a in export.manifest.artifacts):
                return export
    return None


def _subject(path: Path, export: Export | None, options: BenchOptions) -> Subject:
    if export is None and not has_entry(path):
        return Subject(
            path, sha256_file(path), described=describe(path, options.shapes), shapes=options.shapes
        )
    if export is not None and export.manifest.input is None:
        record = export.artifact(path)
        return Subject(
            path,
            record.sha256,
            None,
            export,
            record,
            describe(path, options.shapes),
            options.shapes,
        )
    options.refuse_shapes(path)
    if export is None:
        return Subject(path, sha256_file(path), read_entry(path))
    record = export.artifact(path)
    return Subject(path, record.sha256, read_entry(path), export, record)


def choose_runtimes(path: Path, wanted: str | None) -> tuple[str, ...]:
    """Return the runtime that was asked for, else every installed one that the file is for.

    Raises:
        BadInput: No such runtime, or it takes another format.
        Missing: It is not installed.
    """
    if wanted is None:
        return tuple(r for r in able_runtimes(path) if not _lacks_kernels(path, r))
    name = runtimes.choose(path, wanted)
    if name not in runtimes.installed(format_of(path).name):
        raise Missing(f"runtime '{name}' is not installed", hint=runtimes.RUNTIMES[name].hint)
    if lacking := _lacks_kernels(path, name):
        raise Missing(f"{path.name} in {name}: {lacking}", hint=NO_KERNEL_HINT)
    return (name,)


def _lacks_kernels(path: Path, runtime: str) -> str:
    """Return why nothing can run a file's custom nodes, "" where something can."""
    claim, kind = runtimes.custom_nodes(path, runtime), runtimes.KINDS[format_of(path).name]
    return claim.note if claim.nodes and not claim.library and not kind.bodies else ""


def no_runtime(path: Path) -> str:
    """Return why a file cannot be run here, with the command that helps."""
    for name in runtimes.installed(format_of(path).name):
        if lacking := _lacks_kernels(path, name):
            return f"{lacking} ({NO_KERNEL_HINT})"
    hints = [r.hint for r in runtimes.RUNTIMES.values() if r.format == format_of(path).name]
    return f"no runtime for {path.suffix} is installed ({hints[0]})"
