"""Reading pickles of plain data without running anything from them.

The CIFAR archives are pickles of dictionaries with one numpy array. Unpickling calls whatever a
file names; here a file can name exactly the three functions that such an array needs, and even
those are stand-ins that only write down their arguments.

A tuple may hold another one many times over, so that a hundred bytes describe more of them than
there is time to hash or to print. The operations are therefore gone through before they are done.
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
MAX_OPERATIONS = 1 << 22  # about ten per image
MAX_TUPLE = 1 << 10  # values in a tuple and the tuples in it, each as often as it is there
MAX_TEXT = 256  # letters of a key or a name
MAX_DIMENSIONS = 32

# What picklers write for plain data and arrays.
_TUPLES = frozenset({"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_FILL = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"})  # what lies lowest stays
_OTHERS = frozenset({
    "PROTO", "FRAME", "MARK", "STOP", "GLOBAL", "STACK_GLOBAL", "REDUCE", "EMPTY_LIST", "LIST",
    "EMPTY_DICT", "DICT", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2",
    "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_KNOWN = _TUPLES | _PUT | _GET | _FILL | _OTHERS


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
        _check(data)
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


def short_text(value: Any) -> str | None:
    """Return text or bytes of a reasonable length as text, None for anything else."""
    if not isinstance(value, str | bytes) or len(value) > MAX_TEXT:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _check(data: bytes) -> None:
    """Go through the operations, with the weights of tuples in place of values."""
    weights: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for number, (operation, argument, _) in enumerate(pickletools.genops(data)):
        name = operation.name
        if name not in _KNOWN:
            raise pickle.UnpicklingError(f"it does {name}, which is refused")
        if number == MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"more than {MAX_OPERATIONS} operations")
        if name == "MARK":
            marks.append(len(weights))
        elif name in _PUT:
            index = len(memo) if argument is None else int(argument)
            if index > MAX_MEMO:
                raise pickle.UnpicklingError("a memo of absurd size")
            memo[index] = weights[-1]
        elif name in _GET:
            weights.append(memo[int(argument or 0)])
        else:
            weights += _after(operation, _taken(operation, weights, marks))


def _taken(operation: pickletools.OpcodeInfo, weights: list[int], marks: list[int]) -> list[int]:
    """Take from the stack what an operation takes."""
    before = operation.stack_before
    marked = pickletools.markobject in before
    at = (
        marks.pop() - before.index(pickletools.markobject) if marked else len(weights) - len(before)
    )
    if at < 0:
        raise pickle.UnpicklingError("an empty stack")
    taken = weights[at:]
    del weights[at:]
    return taken


def _after(operation: pickletools.OpcodeInfo, taken: list[int]) -> list[int]:
    """Return the weights of what an operation leaves on the stack."""
    if operation.name in _FILL:
        return taken[:1]
    if operation.name not in _TUPLES:
        return [1] * len(operation.stack_after)
    weight = 1 + sum(taken)
    if weight > MAX_TUPLE:
        raise pickle.UnpicklingError(f"a tuple of more than {MAX_TUPLE} values")
    return [weight]


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
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError("an array without a shape")
    if not isinstance(raw, bytes) or not all(type(n) is int and 0 <= n < MAX_BYTES for n in shape):
        raise pickle.UnpicklingError("an array without its bytes")
    if math.prod(shape) != len(raw):
        raise pickle.UnpicklingError(f"an array of shape {shape} with {len(raw)} bytes")
    flat = np.frombuffer(raw, dtype=np.uint8)
    return flat.reshape(shape, order="F" if fortran else "C")
