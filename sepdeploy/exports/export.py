"""An export opened by its manifest: every part of it is read and checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sepdeploy.codec import from_json
from sepdeploy.data.evalpack import EvalPack, read_pack
from sepdeploy.errors import DATA, ArtifactCheckFailed, BadInput, Missing
from sepdeploy.exporters.formats import ONNX
from sepdeploy.exports.judged_images import find_data, reference_inputs
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.named import NamedReference
from sepdeploy.exports.onnx_file import OnnxFile, is_foreign
from sepdeploy.exports.options import JudgingOptions
from sepdeploy.exports.requirements import has_torch
from sepdeploy.exports.source import Array, Reference, Source
from sepdeploy.exports.torch_model import TorchModel
from sepdeploy.exports.witness import witnessed
from sepdeploy.files import sha256_file
from sepdeploy.records import ArtifactRecord, FileRef

MISSING = "the file is missing"
CHANGED = "the file was changed after the export"
NO_REFERENCE = "neither the model (with torch; --arch for your own) nor an evaluation pack at hand"
PARITY_SAMPLES, MAX_BATCH = 32, 256


@dataclass(frozen=True)
class Chosen:
    """What an ONNX file was exported with: the outputs kept, and sizes of inputs by name."""

    outputs: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Export:
    """The files that one manifest vouches for.

    Attributes:
        path: The manifest.
        folder: Where everything that it names lies.
        manifest: What it says.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        self.manifest = read_manifest(path)
        self._faults: dict[tuple[str, str], str] = {}
        self._sources: dict[str | None, tuple[Source | None, str]] = {}

    @cached_property
    def _model(self) -> Path | None:
        """Where the model lies: beside the manifest, in the folder above, or the current one.

        The manifest gives a plain name and a digest, so it chooses nothing: elsewhere than beside
        it, only the very file that was exported counts.
        """
        named = self.manifest.model
        for folder in (self.folder, self.folder.resolve().parent, Path.cwd()):
            file = folder / named.path
            if file.is_file() and sha256_file(file) == named.sha256:
                return file
        taken = {artifact.path for artifact in self.manifest.artifacts}
        return None if named.path in taken else self.folder / named.path

    def place(self, named: FileRef | ArtifactRecord) -> Path:
        """Return where a file that the manifest names lies."""
        if named is self.manifest.model and self._model is not None:
            return self._model
        return self.folder / named.path

    def fault(self, named: FileRef | ArtifactRecord) -> str:
        """Return what is wrong with a file that the manifest names; "" where it is as exported."""
        if named is self.manifest.model and self._model is None:
            return MISSING  # an artifact has its name
        key = (named.path, named.sha256)
        if key not in self._faults:
            file = self.place(named)
            same = file.is_file() and sha256_file(file) == named.sha256
            self._faults[key] = "" if same else CHANGED if file.is_file() else MISSING
        return self._faults[key]

    def artifact(self, path: Path) -> ArtifactRecord:
        """Return the manifest's row of a file.

        Raises:
            ArtifactCheckFailed: The file is not the one that was exported.
            BadInput: It is missing.
        """
        record = next(a for a in self.manifest.artifacts if a.path == path.name)
        if self.fault(record) == MISSING:
            raise BadInput(f"{path}: no such file", hint="export the model again")
        if self.fault(record):
            raise ArtifactCheckFailed(
                f"{path} is not the file that {self.path} describes (digest differs)",
                hint="export the model again",
            )
        return record

    @cached_property
    def pack(self) -> EvalPack | None:
        """The evaluation pack, None where there is none.

        Raises:
            ArtifactCheckFailed: It is not the one that the manifest describes.
        """
        named = self.manifest.eval_pack
        if named is None or self.fault(named) == MISSING:
            return None
        if self.fault(named):
            raise ArtifactCheckFailed(
                f"{self.folder / named.path} is not the evaluation pack that {self.path.name} "
                "describes",
                hint="export the model again",
            )
        return read_pack(self.folder / named.path)

    def source(self, arch: str | None = None) -> tuple[Source | None, str]:
        """Return what the files were made from; or None, and why it is not at hand.

        Args:
            arch: ``package.module:factory`` of a model of the user's own architecture.

        Raises:
            BadInput: The model cannot be loaded, though its code was named.
        """
        if arch not in self._sources:
            self._sources[arch] = self._open_source(arch)
        return self._sources[arch]

    def _open_source(self, arch: str | None) -> tuple[Source | None, str]:
        path = self.place(self.manifest.model)
        if found := self.fault(self.manifest.model):
            return None, (
                f"{path} is missing"
                if found == MISSING
                else f"{path} is not the model that was exported (digest differs)"
            )
        if is_foreign(path):
            chosen = self._chosen()
            return OnnxFile(path, lambda _: None, chosen.outputs, chosen.shapes), ""
        if not has_torch():
            return None, "torch is not installed"
        from sepdeploy.models import load

        try:
            return TorchModel(load(path, arch=arch), path), ""
        except BadInput as error:
            if arch is not None:
                raise
            return None, error.message  # the user's own network, and its code was not named

    def _chosen(self) -> Chosen:
        """Return what the manifest says of an ONNX file.

        Raises:
            BadInput: It says something else than names and sizes.
        """
        said = self.manifest.provenance
        where = f"{self.path}: provenance"
        asked = {name: said[name] for name in ("outputs", "shapes") if name in said}
        found = from_json(Chosen, asked, where=where)
        if any(size < 1 for shape in found.shapes.values() for size in shape):
            raise BadInput(f"{where}.shapes: a size below 1", hint="export the file again")
        return found

    def reference(
        self, artifact: ArtifactRecord, source: Source | None, seed: int
    ) -> Reference | NamedReference:
        """Return what a file is to be compared with, from the best witness at hand.

        That is the source itself, else the evaluation pack, else the export's .onnx file.

        Args:
            artifact: The file.
            source: As ``source`` gave it.
            seed: Of synthetic inputs, where there is no data.

        Raises:
            BadInput: The witness cannot be run.
            Missing: There is none; or the data that the file was calibrated with is not at hand.
        """
        batches = sorted({p.batch for p in artifact.parity if 1 <= p.batch <= MAX_BATCH})
        sizes = tuple(batches) or (PARITY_SAMPLES,)
        named = self.manifest.eval_pack
        pack = None if named is None or self.fault(named) else self.pack
        if source is not None:
            images = pack.clean() if pack else self._calibrated_on(artifact, max(sizes), seed)
            return source.reference(images, sizes, seed)
        if pack is not None:
            images, logits = pack.clean()[: max(sizes)], pack.logits[: max(sizes)]
            return Reference(images, logits, "data", sizes, "the evaluation pack")
        return self._by_stand_in(artifact, sizes, seed)

    def stand_in(self, artifact: ArtifactRecord) -> ArtifactRecord | None:
        """Return the .onnx file of the export, for another file of it."""
        others = (a for a in self.manifest.artifacts if a.path != artifact.path)
        found = next((a for a in others if a.format == ONNX.name), None)
        return None if found is None or self.fault(found) else found

    def _by_stand_in(
        self, artifact: ArtifactRecord, batches: tuple[int, ...], seed: int
    ) -> Reference:
        from sepdeploy import measure, runtimes

        found, able = self.stand_in(artifact), runtimes.installed(ONNX.name)
        spec = self.manifest.input
        if found is None or not able or spec is None:
            raise Missing(
                NO_REFERENCE,
                hint="put the model file beside its manifest, or export with data at hand (--data)",
            )
        images, kind = reference_inputs(spec.shape, None, max(batches), seed)
        return witnessed(
            lambda asked: measure.run_logits(self.folder / found.path, able[0], asked)[0][0],
            images,
            kind=kind,
            batches=batches,
            said_by=found.path,
        )

    def _calibrated_on(self, artifact: ArtifactRecord, n: int, seed: int) -> Array | None:
        """Return test images of the data that a file was calibrated with, None for other files."""
        spec = self.manifest.input
        if not artifact.calibration or spec is None:
            return None
        name = str(artifact.calibration.get("data"))
        wanted, shape = JudgingOptions(), spec.shape
        found = find_data({"data": name}, wanted, shape, lambda _: None)
        if found is None:
            raise Missing(
                f"data set '{name}', which the file was calibrated with, is not at hand", hint=DATA
            )
        return found.test.take(n, seed).batch(slice(None))
