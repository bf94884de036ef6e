"""Files of tensors: written whole or not at all, read without trusting a byte of them.

A ``.pt`` file is a zip with a pickle inside. ``torch.load(weights_only=True)`` refuses pickles
that would run code, but not tensors that claim 10¹² elements through a stride of 0, tensors
without storage, or compressed records that unpack to far more than the file holds. Those are
refused here, before anything copies or sums them.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepdeploy.errors import NEW_FILE, PATH, BadInput
from sepdeploy.files import WRITE_HINT, atomic_path, open_plain
from sepdeploy.models.file_kinds import HEAD_BYTES, FileKind, kind_by_head, kind_by_records

SHARED_AT_MOST = 4  # several tensors may share a storage (tied weights), but not without limit

_NOT_OURS = "is it a .pt file written by sepdeploy or torch.save?"
_BOMB = "the file is damaged or was made to exhaust memory"


def write_tensor_file(data: dict[str, Any], path: Path | str) -> None:
    """Write a dict of tensors and plain values; the file appears whole or not at all.

    Raises:
        BadInput: The folder cannot be written or the disk is full.
    """
    target = Path(path)
    try:
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            torch.save(data, file)
    except RuntimeError as error:  # the zip writer wraps the file system's own error
        raise BadInput(f"cannot write {target}: {_reason(error)}", hint=WRITE_HINT) from error


def _reason(error: BaseException) -> str:
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.strerror:
            return chain.strerror
        chain = chain.__cause__ or chain.__context__
    return str(error).strip().split("\n", 1)[0]


def read_tensor_file(path: Path | str) -> dict[str, Any]:
    """Read a dict of tensors and plain values onto the CPU; never runs code from the file.

    Raises:
        BadInput: Missing, truncated or not a tensor file; a pickle that would run code; tensors
            larger than the file that carries them.
    """
    source = Path(path)
    size = _check_container(source)
    try:
        data = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise BadInput(f"{source} is damaged: its table is broken", hint=_NOT_OURS) from error
        raise BadInput(
            f"{source} is refused: it holds more than tensors and plain values, "
            "and loading it could run code",
            hint="save a state dict or use sepdeploy.save; whole pickled modules are never loaded",
        ) from error
    except MemoryError as error:
        raise BadInput(f"{source} claims more memory than there is", hint=_BOMB) from error
    except Exception as error:  # a broken table can surface as nearly any error
        raise BadInput(f"{source} is damaged: {_reason(error)}", hint=_NOT_OURS) from error
    if not isinstance(data, dict):
        raise BadInput(f"{source} holds a {type(data).__name__}, not a table", hint=_NOT_OURS)
    claimed = sum(_check_tensor(t, f"{source}: tensor '{where}'") for where, t in _tensors(data))
    if claimed > SHARED_AT_MOST * size:
        raise BadInput(f"{source} claims {claimed} bytes of tensors in {size}", hint=_BOMB)
    return data


def _check_container(source: Path) -> int:
    try:
        size = source.stat().st_size
        with open_plain(source) as file:
            _check_kind(source, kind_by_head(file.read(HEAD_BYTES)))
        with zipfile.ZipFile(source) as archive:
            records = archive.infolist()
    except FileNotFoundError as error:
        raise BadInput(f"{source} does not exist", hint=PATH) from error
    except OSError as error:
        raise BadInput(f"cannot read {source}: {_reason(error)}", hint=PATH) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise BadInput(
            f"{source} is truncated or not a tensor file: {_reason(error)}", hint=_NOT_OURS
        ) from error
    _check_kind(source, kind_by_records(r.filename for r in records))
    if any(r.compress_type != zipfile.ZIP_STORED for r in records) or (
        sum(r.file_size for r in records) > size
    ):
        raise BadInput(
            f"{source} is refused: its records claim more bytes than the file has", hint=NEW_FILE
        )
    return size


def _check_kind(source: Path, kind: FileKind | None) -> None:
    if kind is not None:
        raise BadInput(f"{source} is {kind.what}, not a model file", hint=kind.hint)


def _tensors(data: dict[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers, once; a container that holds itself does no harm."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", data)]
    while waiting:
        where, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield where, value
        elif isinstance(value, dict):
            prefix = f"{where}." if where else ""
            waiting += [(f"{prefix}{key!s:.80}", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += [(f"{where}[{index}]", item) for index, item in enumerate(value)]


def _check_tensor(tensor: Tensor, what: str) -> int:
    """Return the bytes a tensor needs when it is copied."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise BadInput(
            f"{what} is not a plain array ({tensor.layout}, {tensor.device})",
            hint="move the tensors to the CPU, as dense arrays of numbers",
        )
    needed = tensor.numel() * tensor.element_size()
    if needed > tensor.untyped_storage().nbytes():
        raise BadInput(
            f"{what} claims {tensor.numel()} elements, more than the file holds", hint=_BOMB
        )
    return needed
