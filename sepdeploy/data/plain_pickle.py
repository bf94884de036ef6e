"""Reading pickles of plain data without running anything from them.

The CIFAR archives are pickles of dictionaries with one numpy array. Unpickling calls whatever a
file names; here a file can name exactly the three functions that such an array needs, and even
those are stand-ins that only write down their arguments.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput
from sepdeploy.files import read_bytes

MAX_BYTES = 1 << 29
MAX_OPERATIONS = 1 << 22  # about ten per image
MAX_TEXT = 256  # letters of a key or a name
MAX_DIMENSIONS = 32


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


def _latin1(text: Any, encoding: Any) -> bytes:
    """How pickles of Python 3 in protocol 2 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an encoding other than latin1")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "dtype"): _DataType,
    ("numpy", "ndarray"): _Recorded,
    ("_codecs", "encode"): _latin1,
}


class _Tuple(list[Any]):
    """A tuple of a file. It cannot be hashed.

    A tuple may hold another one many times over, so that a hundred bytes describe more of them
    than there is time to hash, or a deeper one than the stack.
    """

    __slots__ = ()


def _tuple(count: int | None) -> Callable[[Any], None]:
    """Return the operation that makes a tuple of the last values, None = since the last mark."""

    def load(reader: Any) -> None:
        items = reader.pop_mark() if count is None else [reader.stack.pop() for _ in range(count)]
        reader.append(_Tuple(items if count is None else items[::-1]))

    return load


# What picklers write for plain data and arrays.
_PLAIN = (
    pickle.PROTO, pickle.FRAME, pickle.MARK, pickle.STOP, pickle.PUT, pickle.BINPUT,
    pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET,
    pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS, pickle.BUILD, pickle.GLOBAL,
    pickle.STACK_GLOBAL, pickle.REDUCE, pickle.EMPTY_LIST, pickle.LIST, pickle.EMPTY_DICT,
    pickle.DICT, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT,
    pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT,
    pickle.BINFLOAT, pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE,
    pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES,
    pickle.SHORT_BINBYTES, pickle.BINBYTES8,
)  # fmt: skip
_OPERATIONS = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _PLAIN} | {
    pickle.EMPTY_TUPLE[0]: _tuple(0), pickle.TUPLE1[0]: _tuple(1), pickle.TUPLE2[0]: _tuple(2),
    pickle.TUPLE3[0]: _tuple(3), pickle.TUPLE[0]: _tuple(None),
}  # fmt: skip


class _Dispatch(dict[int, Callable[[Any], None]]):
    """Hands out the operations that are known, not more of them than there is time for."""

    done = 0

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.done += 1
        if self.done > MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"more than {MAX_OPERATIONS} operations")
        if code not in self:
            raise pickle.UnpicklingError(f"it does operation {bytes([code])!r}, which is refused")
        return super().__getitem__(code)


class _PlainUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python: in the one in C no operation can be replaced."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self.dispatch = _Dispatch(_OPERATIONS)  # type: ignore[misc]  # of this file alone

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
        found = _PlainUnpickler(data).load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a table")
        return {_text(key): _value(value) for key, value in found.items()}
    except (MemoryError, RecursionError, OverflowError) as error:
        raise BadInput(f"{path}: not a readable pickle", hint="fetch the file again") from error
    except Exception as error:  # a damaged pickle makes the unpickler raise anything
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not a pickle of plain data ({first[:160]})",
                       hint="fetch the file again") from error  # fmt: skip


def short_text(value: Any) -> str | None:
    """Return text or bytes of a reasonable length as text, None for anything else."""
    if not isinstance(value, str | bytes) or len(value) > MAX_TEXT:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _text(key: Any) -> str:
    text = short_text(key)
    if text is None:
        raise pickle.UnpicklingError("a key that is no short text")
    return text


def _value(value: Any) -> Any:
    if isinstance(value, _Array):
        return _array(value)
    if isinstance(value, _Recorded):
        raise pickle.UnpicklingError("a bare data type")
    return value


def _array(recorded: _Array) -> npt.NDArray[np.uint8]:
    """Build the array from its state: (version, shape, data type, Fortran order, bytes)."""
    _, shape, kind, fortran, raw = recorded.state
    if not isinstance(kind, _DataType) or short_text(next(iter(kind.arguments), None)) != "u1":
        raise pickle.UnpicklingError("an array that is not made of bytes")
    if not isinstance(shape, _Tuple) or len(shape) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError("an array without a shape")
    if not isinstance(raw, bytes) or not all(type(n) is int and 0 <= n < MAX_BYTES for n in shape):
        raise pickle.UnpicklingError("an array without its bytes")
    if math.prod(shape) != len(raw):
        raise pickle.UnpicklingError(f"an array of shape {tuple(shape)} with {len(raw)} bytes")
    flat = np.frombuffer(raw, dtype=np.uint8)
    return flat.reshape(shape, order="F" if fortran else "C")
