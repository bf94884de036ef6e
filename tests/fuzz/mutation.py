"""Damaged and hostile versions of good files, the same for the same seed."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 65536, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**63 - 1)
TEXTS = ("", "x" * 300, "../../etc/passwd", "/dev/zero", "\x1b[31m\n\r", "é\N{SNOWMAN}", "NaN")
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, 1.5, 1e308, [], {}, [[]], {"schema": 1})
Mutator = Callable[[bytes, random.Random], bytes]


def mutant(data: bytes, kind: str, seed: int) -> bytes:
    """Return the mutant of a file.

    Args:
        data: The good file.
        kind: "onnx", "tflite", "pt", "npz" or "json".
        seed: Decides everything.
    """
    rng = random.Random(f"{kind}{seed}")
    structured = STRUCTURED[kind]
    mutate = structured if rng.random() < 0.5 else rng.choice(PLAIN)
    return mutate(data, rng)


def flip(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, near the front as often as anywhere."""
    changed = bytearray(data)
    reach = len(changed) if rng.random() < 0.5 else min(2000, len(changed))
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(reach)] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Cut the file off somewhere, or its front."""
    at = rng.randrange(len(data))
    return data[:at] if rng.random() < 0.8 else data[at:]


def splice(data: bytes, rng: random.Random) -> bytes:
    """Copy one stretch of the file over another, insert it there, or take it out."""
    start, length = rng.randrange(len(data)), rng.choice([1, 4, 16, 256, 4096])
    piece = data[start : start + length]
    at = rng.randrange(len(data))
    how = rng.randrange(3)
    return data[:at] + (piece if how < 2 else b"") + data[at + (length if how != 1 else 0) :]


PLAIN: tuple[Mutator, ...] = (flip, truncate, splice)


def onnx_fields(data: bytes, rng: random.Random) -> bytes:
    """Change fields of the graph: shapes, names, attributes, types, versions, the entry."""
    model = ModelProto()
    model.ParseFromString(data)
    for _ in range(rng.choice([1, 1, 3])):
        try:
            rng.choice(ONNX_EDITS)(model, rng)
        except (ValueError, TypeError, IndexError):
            continue  # a value that the field cannot hold
    try:
        return model.SerializeToString()
    except (EncodeError, DecodeError, ValueError):
        return flip(data, rng)


def _dims(model: ModelProto, rng: random.Random) -> None:
    dims = rng.choice(model.graph.initializer).dims
    if rng.random() < 0.3 or not dims:
        dims.append(rng.choice(NUMBERS))
    else:
        dims[rng.randrange(len(dims))] = rng.choice(NUMBERS)


def _data(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]


def _numbers(model: ModelProto, rng: random.Random) -> None:
    """Put a number that makes no sense into a constant (a target shape, a permutation)."""
    small = [t for t in model.graph.initializer if t.data_type == 7 and t.raw_data]
    tensor = rng.choice(small)
    values = list(struct.unpack(f"<{len(tensor.raw_data) // 8}q", tensor.raw_data))
    values[rng.randrange(len(values))] = rng.choice(NUMBERS[:-1])
    tensor.raw_data = struct.pack(f"<{len(values)}q", *values)


def _type(model: ModelProto, rng: random.Random) -> None:
    rng.choice(model.graph.initializer).data_type = rng.randrange(0, 30)


def _external(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value=rng.choice(TEXTS))
    tensor.external_data.add(key="length", value=str(rng.choice(NUMBERS)))


def _wire(model: ModelProto, rng: random.Random) -> None:
    node, other = rng.choice(model.graph.node), rng.choice(model.graph.node)
    names = [*other.input, *other.output]
    target = node.input if rng.random() < 0.7 else node.output
    target[rng.randrange(len(target))] = rng.choice(names)


def _operator(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    kinds = ("Loop", "If", "Reshape", "Conv", "KronLinear", "Nonsense", "Expand", "Tile", "Range")
    node.op_type = rng.choice(kinds)
    node.domain = rng.choice(["", "", "ai.sepdeploy", "evil"])


def _attribute(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice([n for n in model.graph.node if n.attribute])
    attribute = rng.choice(node.attribute)
    attribute.i = rng.choice(NUMBERS)
    if attribute.ints:
        attribute.ints[0] = rng.choice(NUMBERS)
    attribute.type = rng.randrange(0, 13)


def _input(model: ModelProto, rng: random.Random) -> None:
    shape = rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.shape
    rng.choice(shape.dim).dim_value = rng.choice(NUMBERS)


def _entry(model: ModelProto, rng: random.Random) -> None:
    entry = rng.choice(model.metadata_props)
    entry.value = json_values(entry.value.encode(), rng).decode("utf-8", "replace")


def _versions(model: ModelProto, rng: random.Random) -> None:
    model.ir_version = rng.choice(NUMBERS)
    rng.choice(model.opset_import).version = rng.choice(NUMBERS)


ONNX_EDITS: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    _dims, _data, _numbers, _type, _external, _wire, _operator, _attribute, _input, _entry,
    _versions,
)  # fmt: skip


def flatbuffer_words(data: bytes, rng: random.Random) -> bytes:
    """Change aligned words: lengths, offsets, shapes, indices; strings stay where they are."""
    changed = bytearray(data)
    reach = len(changed) if rng.random() < 0.3 else min(12000, len(changed))
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(reach // 4) * 4
        old = struct.unpack_from("<i", changed, at)[0]
        new = rng.choice([*NUMBERS[:10], old + 1, old - 1, old + 4, old * 2, len(data) - at])
        struct.pack_into("<i", changed, at, (new + 2**31) % 2**32 - 2**31)
    return bytes(changed)


def zip_members(data: bytes, rng: random.Random) -> bytes:
    """Damage one member of an archive and pack it again, so that its checksum holds."""
    source = zipfile.ZipFile(io.BytesIO(data))
    names = source.namelist()
    victim = rng.choice(names)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            content = source.read(name)
            if name == victim:
                how = rng.randrange(5)
                if how == 0:
                    continue
                content = _npy_header(content, rng) if how == 1 else _text(content, rng)
                if how >= 3:
                    content = rng.choice(PLAIN)(content, rng) if content else b"x"
            archive.writestr(name, content)
            if name == victim and rng.random() < 0.1:
                archive.writestr(f"{name}.{rng.choice(['npy', 'pkl'])}", content)
    return target.getvalue()


def _npy_header(content: bytes, rng: random.Random) -> bytes:
    """Write another shape or type into a .npy header of the same length."""
    head, tail = content[:128], content[128:]
    for old, new in rng.sample(
        [(b"'<f4'", b"'|O8'"), (b"'<f4'", b"'<i4'"), (b"(8,", b"(9,"), (b"(", b"(99999"),
         (b"'<i8'", b"'|O8'"), (b"False", b"True ")], 2,
    ):  # fmt: skip
        head = head.replace(old, new, 1)
    return head[:127].ljust(127) + b"\n" + tail


def _text(content: bytes, rng: random.Random) -> bytes:
    """Replace a stretch of letters: a key, a name, an opcode's argument."""
    at = rng.randrange(max(1, len(content)))
    return content[:at] + rng.choice(TEXTS).encode() + content[at + rng.randrange(8) :]


def json_values(data: bytes, rng: random.Random) -> bytes:
    """Replace, drop or add values anywhere in a JSON document."""
    try:
        tree = json.loads(data)
    except ValueError:
        return flip(data, rng)
    for _ in range(rng.choice([1, 1, 2, 4])):
        spots = list(_spots(tree))
        holder, key = rng.choice(spots)
        how = rng.random()
        if how < 0.15:
            del holder[key]
        elif how < 0.25 and isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = rng.choice(VALUES)
        elif how < 0.3:
            holder[key] = [holder[key]] * 3
        else:
            holder[key] = rng.choice(VALUES)
    return json.dumps(tree).encode()


def _spots(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _spots(value)


STRUCTURED: dict[str, Mutator] = {
    "onnx": onnx_fields,
    "tflite": flatbuffer_words,
    "pt": zip_members,
    "npz": zip_members,
    "json": json_values,
}
