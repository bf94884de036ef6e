"""Plain arrays with a table of facts in an ``.npz``: never pickled, read with care."""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.codec import parse_json
from sepdeploy.errors import BadInput

READ_LIMIT = 64 << 20  # refuse to unpack more than this
FACTS = "provenance"  # the member that holds the table, as JSON
# Everything that zipfile, numpy and json answer damaged and hostile content with.
_UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, RecursionError,
    NotImplementedError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def table_of(facts: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the member ``FACTS``."""
    return np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of an archive."""
    content = io.BytesIO()  # an archive that cannot be finished on a full disk complains later
    np.savez(content, **dict(arrays))
    return content.getvalue()


def unpacked(
    path: Path, names: Iterable[str], *, what: str, hint: str
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return those of some arrays that an archive holds, and its facts.

    Args:
        path: The archive.
        names: Of the arrays.
        what: It should be, for messages: "evaluation pack".
        hint: What to do where it is none.

    Raises:
        BadInput: It is none, damaged, or larger than ``READ_LIMIT``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > READ_LIMIT:
                raise BadInput(f"{path} unpacks to more than {READ_LIMIT} bytes", hint=hint)
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in (*names, FACTS) if name in stored.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a member is no array")  # numpy gives its bytes instead
        return arrays, _table(bytes(arrays.pop(FACTS)))
    except _UNREADABLE as error:
        raise BadInput(f"{path} is not a readable {what}: {error}", hint=hint) from error


def _table(text: bytes) -> dict[str, Any]:
    try:
        return parse_json(text, where=FACTS)
    except BadInput as error:
        raise ValueError(error.message) from error
