"""A .tflite file of two custom nodes, small enough to write by hand: the self-test's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 3
CUSTOM = 32
ALIGNMENT = 64
OPEN = -1  # the batch


def two_nodes(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the file: "input" → KronLinear → LowRankLinear → "logits".

    Args:
        first: Weights of the Kronecker layer in order, its bias last.
        second: U, V and bias of the low-rank layer.
    """
    import flatbuffers

    b = flatbuffers.Builder(1024)
    weights = {**first, **second}
    width = int(np.prod([f.shape[2] for f in list(first.values())[:-1]]))
    units = [len(list(layer.values())[-1]) for layer in (first, second)]
    values = {"input": width, "inner": units[0], "logits": units[1]}
    names = [*values, *weights]
    buffers = [_table(b, {})] + [_table(b, {0: _bytes(b, w)}) for w in weights.values()]
    tensors = [_tensor(b, name, (1, n), (OPEN, n), 0) for name, n in values.items()]
    tensors += [_tensor(b, n, w.shape, (), i + 1) for i, (n, w) in enumerate(weights.items())]
    operators = []
    for code, (source, target, layer) in enumerate(
        (("input", "inner", first), ("inner", "logits", second))
    ):
        reads = [names.index(n) for n in (source, *layer)]
        operators.append(
            _table(b, {0: code, 1: _ints(b, reads), 2: _ints(b, [names.index(target)])})
        )
    graph = _table(
        b,
        {
            0: _offsets(b, tensors),
            1: _ints(b, [names.index("input")]),
            2: _ints(b, [names.index("logits")]),
            3: _offsets(b, operators),
        },
    )
    codes = [_code(b, name) for name in ("KronLinear", "LowRankLinear")]
    fields = {1: _offsets(b, codes), 2: _offsets(b, [graph]), 4: _offsets(b, buffers)}
    b.Finish(_table(b, fields, version=SCHEMA_VERSION), b"TFL3")
    return bytes(b.Output())


class _Offset(int):
    """A place in the file, as opposed to a number."""


def _table(b: Any, fields: Mapping[int, int], *, version: int = 0) -> _Offset:
    b.StartObject(8)
    if version:
        b.PrependUint32Slot(0, version, 0)
    for slot, value in fields.items():
        if isinstance(value, _Offset):
            b.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            b.PrependUint32Slot(slot, value, 0)
    return _Offset(b.EndObject())


def _tensor(
    b: Any, name: str, shape: Sequence[int], signature: Sequence[int], buffer: int
) -> _Offset:
    fields = {0: _ints(b, shape), 2: buffer, 3: _Offset(b.CreateString(name))}
    return _table(b, fields | ({7: _ints(b, signature)} if signature else {}))


def _code(b: Any, name: str) -> _Offset:
    text = b.CreateString(name)
    b.StartObject(4)
    b.PrependInt8Slot(0, CUSTOM, 0)
    b.PrependUOffsetTRelativeSlot(1, text, 0)
    b.PrependInt32Slot(3, CUSTOM, 0)
    return _Offset(b.EndObject())


def _ints(b: Any, values: Sequence[int]) -> _Offset:
    return _Offset(b.CreateNumpyVector(np.array(values, np.int32)))


def _bytes(b: Any, array: NDArray[Any]) -> _Offset:
    data = array.astype("<f4").tobytes()
    b.StartVector(1, len(data), ALIGNMENT)
    b.head -= len(data)
    b.Bytes[b.head : b.head + len(data)] = data
    return _Offset(b.EndVector())


def _offsets(b: Any, items: Sequence[int]) -> _Offset:
    b.StartVector(4, len(items), 4)
    for item in reversed(items):
        b.PrependUOffsetTRelative(item)
    return _Offset(b.EndVector())
