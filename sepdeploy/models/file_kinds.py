"""What a file is that is given where a ``.pt`` file is meant, by its first bytes and records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
HEAD_BYTES = len(LEGACY)
# What may follow the version with which an ONNX file begins: the keys of the fields behind it.
AFTER_ONNX_VERSION = b"\x12\x1a\x22\x28\x32\x3a\x42"
RELOAD = "load it with torch where it was made, then sepdeploy.wrap and sepdeploy.save"
MADE_FROM = "give the .pt file that it was made from"


@dataclass(frozen=True)
class FileKind:
    """A kind of file that is no model file.

    Attributes:
        what: It, with its article.
        hint: What to do instead.
        head: Whether the first bytes are its.
        records: Whether the names of a zip file's records are its.
    """

    what: str
    hint: str
    head: Callable[[bytes], bool] = lambda _: False
    records: Callable[[Iterable[str]], bool] = lambda _: False


KINDS = (
    FileKind("an .onnx file", MADE_FROM, head=lambda b: _is_onnx(b)),
    FileKind("a .tflite file", MADE_FROM, head=lambda b: b[4:8] == b"TFL3"),
    FileKind(
        "a file of torch.save from before version 1.6",
        "torch.save(torch.load(path, weights_only=True), path) writes it anew",
        head=lambda b: b.startswith(LEGACY),
    ),
    FileKind("a document of text", "give the .pt file of a model", head=lambda b: _is_text(b)),
    FileKind("an HDF5 file", RELOAD, head=lambda b: b.startswith(b"\x89HDF\r\n")),
    FileKind(
        "a safetensors file",
        "load_state_dict it into your module, then sepdeploy.wrap and sepdeploy.save",
        head=lambda b: b[5:9] == b"\0\0\0{",
    ),
    FileKind(
        "a TorchScript file",
        "wrap the nn.Module that it was made of",
        records=lambda names: any("/code/" in name for name in names),
    ),
    FileKind(
        "a file of torch.export",
        "wrap the nn.Module that it was made of",
        records=lambda names: any(name.endswith("models/model.json") for name in names),
    ),
    FileKind(
        "an .npz file of arrays",
        "give the .pt file of a model",
        records=lambda names: any(name.endswith(".npy") for name in names),
    ),
)


def kind_by_head(head: bytes) -> FileKind | None:
    """Return what begins with these bytes, None where nothing is known."""
    return next((kind for kind in KINDS if kind.head(head)), None)


def kind_by_records(names: Iterable[str]) -> FileKind | None:
    """Return which zip file has such records, None where nothing is known."""
    known = list(names)
    return next((kind for kind in KINDS if kind.records(known)), None)


def _is_text(head: bytes) -> bool:
    return len(head) > 4 and all(32 <= byte < 127 or byte in b"\t\n\r" for byte in head)


def _is_onnx(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 8 and 0 < head[1] < 32 and head[2] in AFTER_ONNX_VERSION
