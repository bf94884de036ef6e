"""Reading pickles of plain data without running anything from them.

The CIFAR archives are pickles of dictionaries with one numpy array. Unpickling calls whatever a
file names; here a file can name exactly the three functions that such an array needs, and even
those are stand-ins that only write down their arguments.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput
from sepdeploy.files import read_bytes

MAX_BYTES = 1 << 29
MAX_MEMO = 1 << 22  # entries; a forged index would make the unpickler allocate as many


class _Recorded:
    """What a file builds instead of an array or a data type: its arguments and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Recorded):
    pass


class _DataType(_Recorded):
    pass


class _ArrayClass(_Recorded):
    pass


def _latin1(text: Any, encoding: Any) -> bytes:
    """How pickles of Python 3 in protocol 2 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an encoding other than latin1")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "dtype"): _DataType,
    ("numpy", "ndarray"): _ArrayClass,
    ("_codecs", "encode"): _latin1,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return found


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Return the dictionary of a pickle; keys as text, arrays of bytes as uint8 arrays.

    Raises:
        BadInput: Unreadable, not a pickle of a dictionary, or one that asks for anything but
            plain values and arrays of bytes.
    """
    data = read_bytes(path, limit=MAX_BYTES)
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > MAX_MEMO:
                raise pickle.UnpicklingError("a memo of absurd size")
        found = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a table")
        return {_text(key): _value(value) for key, value in found.items()}
    except (MemoryError, RecursionError, OverflowError) as error:
        raise BadInput(f"{path}: not a readable pickle", hint="fetch the file again") from error
    except Exception as error:  # a damaged pickle makes the unpickler raise anything
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not a pickle of plain data ({first[:160]})",
                       hint="fetch the file again") from error  # fmt: skip


def _text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _value(value: Any) -> Any:
    if isinstance(value, _Array):
        return _array(value)
    if isinstance(value, _Recorded):
        raise pickle.UnpicklingError("a bare data type")
    return value


def _array(recorded: _Array) -> npt.NDArray[np.uint8]:
    """Build the array from its state: (version, shape, data type, Fortran order, bytes)."""
    _, shape, kind, fortran, raw = recorded.state
    if not isinstance(kind, _DataType) or str(_code(kind)) != "u1":
        raise pickle.UnpicklingError("an array that is not made of bytes")
    if not isinstance(raw, bytes) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise pickle.UnpicklingError("an array without its bytes")
    if math.prod(shape) != len(raw):
        raise pickle.UnpicklingError(f"an array of shape {shape} with {len(raw)} bytes")
    flat = np.frombuffer(raw, dtype=np.uint8)
    return flat.reshape(shape, order="F" if fortran else "C")


def _code(kind: _DataType) -> str:
    code = kind.arguments[0] if kind.arguments else ""
    return code.decode("ascii", "replace") if isinstance(code, bytes) else str(code)
