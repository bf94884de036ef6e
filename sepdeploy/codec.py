"""Reading and writing every JSON and TOML file: plain values to records and back, strictly.

Files come from other people, other versions and full disks. A key twice, NaN, a number of a
thousand digits, a key that nobody knows or a value of the wrong type is refused in one line that
names the file and the key's path. A document says what it is in its key ``schema``, as "name/N".
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sepdeploy.errors import BY_HAND, BadInput, unknown_name
from sepdeploy.files import read_bytes

T = TypeVar("T")
KeyPath = tuple[str | int, ...]

FLAT = {"flat": True}  # metadata of a field whose entries stand beside the record's own keys
ABSENT = {"absent": True}  # metadata of a field that is left out where it is empty
NO_TEXT = "give the file that is meant here; this one holds a model, images or the like"
MAX_BYTES = 256 << 20
MAX_TOML_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_CONTAINERS = 1 << 20  # lists and objects of a document: an empty one of two bytes takes 56
LARGEST = 10**24


# How to get the documents that commands read.
MADE_BY = {
    "sepdeploy.bench": "sepdeploy bench --json FILE writes such a file",
    "sepdeploy.baseline": "sepdeploy baseline update RESULT.json writes such a file",
    "sepdeploy.manifest": "sepdeploy export writes such a file",
}


def to_json(record: Any) -> Any:
    """Return a record as plain JSON values; NaN and infinities become None.

    Entries of a ``FLAT`` field are written beside the record's own keys, an empty ``ABSENT`` field
    is not written.
    """
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        fields = dataclasses.fields(record)
        empty = {f.name for f in fields if f.metadata.get("absent") and not getattr(record, f.name)}
        names = [f.name for f in fields if not f.metadata.get("flat") and f.name not in empty]
        names.sort(key=lambda name: name != "schema")  # the version first, else as declared
        own = {name: to_json(getattr(record, name)) for name in names}
        for inner in (getattr(record, f.name) for f in fields if f.metadata.get("flat")):
            if own.keys() & inner.keys():
                message = f"entries of {record} repeat {sorted(own.keys() & inner.keys())}"
                raise ValueError(message)
            own |= to_json(inner)
        return own
    if isinstance(record, Mapping):
        return {str(k): to_json(v) for k, v in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(v) for v in record]
    if isinstance(record, StrEnum):
        return record.value
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record


def dump(record: Any) -> str:
    """Return a record as a JSON document (two-space indent, key order kept, newline at the end)."""
    return json.dumps(to_json(record), indent=2, allow_nan=False) + "\n"


def read(cls: type[T], path: Path, *, limit: int = MAX_BYTES) -> T:
    """Read a JSON document into a record.

    Args:
        cls: The record class; the default of its field ``schema`` is the newest known version.
        path: The file.
        limit: Refuse files larger than this many bytes.

    Raises:
        BadInput: Unreadable, too large, or as ``parse``.
    """
    return parse(cls, read_bytes(path, limit=limit), where=str(path))


def parse(cls: type[T], text: str | bytes, *, where: str) -> T:
    """Parse a JSON document into a record.

    Raises:
        BadInput: Not JSON, another schema, a newer version, or a field is wrong.
    """
    data = parse_json(text, where=where)
    check_schema(data.get("schema"), schema_of(cls), where=where)
    return from_json(cls, data, where=where)


def schema_of(cls: type) -> str:
    """Return the newest schema of a document's record class."""
    return next(str(f.default) for f in dataclasses.fields(cls) if f.name == "schema")


def check_schema(found: object, known: str, *, where: str) -> None:
    """Refuse another kind of document, and one of another version.

    Args:
        found: What the document says, "name/version".
        known: The version that this program reads.
        where: The file, for messages.

    Raises:
        BadInput: Naming both, and what to do.
    """
    name, newest = known.rsplit("/", 1)
    match = re.fullmatch(re.escape(name) + r"/(\d{1,6})", found) if isinstance(found, str) else None
    what, hint = "expected", MADE_BY.get(name, "is it another kind of file?")
    if match is not None and int(match[1]) == int(newest):
        return
    if match is not None and int(match[1]) > int(newest):
        what, hint = "newer than", "it was written by a newer sepdeploy; upgrade this one"
    elif match is not None:
        what, hint = "older than", "it was written by an older sepdeploy; write it again"
    raise BadInput(f"{where} has schema {str(found)[:60]!r}, {what} {known!r}", hint=hint)


def parse_json(text: str | bytes, *, where: str) -> dict[str, Any]:
    """Return the object in a JSON text.

    Raises:
        BadInput: Not JSON, not an object, a key twice, NaN, an endless number, nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise BadInput(f"{where} has the key '{twice}' twice in one object", hint=BY_HAND)
        return found

    try:
        data = loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise BadInput(f"{where} is no JSON: it is no text", hint=NO_TEXT) from error
    except ValueError as error:
        raise BadInput(
            f"{where} is not valid JSON: {error}", hint="restore the file, or write it again"
        ) from error
    if not isinstance(data, dict):
        raise BadInput(f"{where}: expected an object, found {type(data).__name__}", hint=BY_HAND)
    _check_values(data, where)
    return data


def loads(text: str | bytes, **how: Any) -> Any:
    """Return what a JSON text says, as ``json.loads`` does; for texts that nobody vouches for.

    Raises:
        ValueError: Not JSON, nested too deeply, or lists and objects without end.
    """
    marks = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, marks)) > MAX_CONTAINERS:  # type: ignore[arg-type]
        raise ValueError(f"more than {MAX_CONTAINERS:,} lists and objects")
    try:
        return json.loads(text, **how)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_toml(path: Path, *, limit: int = MAX_TOML_BYTES) -> dict[str, Any]:
    """Return the table in a TOML file.

    Raises:
        BadInput: Unreadable, too large, or as ``parse_toml``.
    """
    return parse_toml(read_bytes(path, limit=limit), where=str(path))


def parse_toml(text: str | bytes, *, where: str) -> dict[str, Any]:
    """Return a TOML text as a table.

    Raises:
        BadInput: Not TOML, NaN, a date, an endless number, or nested too deeply.
    """
    try:
        data = tomllib.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{where} is no TOML: it is no text", hint=NO_TEXT) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not valid TOML: {error}", hint="correct the file") from error
    _check_values(data, where)
    return data


def _check_values(data: dict[str, Any], where: str) -> None:
    """Refuse what a parser lets pass and no record can hold."""
    waiting: list[tuple[KeyPath, Any]] = [((), data)]
    while waiting:
        path, container = waiting.pop()
        if len(path) > MAX_DEPTH:
            raise BadInput(f"{where}: {place(path[:4])}… is nested too deeply", hint=BY_HAND)
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in pairs:
            if isinstance(value, (dict, list)):
                waiting.append(((*path, key), value))
            elif isinstance(value, float):
                if not math.isfinite(value):
                    raise fault(where, (*path, key), f"{value} is not a finite number")
            elif isinstance(value, int):
                if not -LARGEST < value < LARGEST:
                    raise fault(where, (*path, key), "a number of more than 24 digits")
            elif value is not None and not isinstance(value, str):
                raise fault(where, (*path, key), f"a {type(value).__name__} has no place here")


def place(path: KeyPath) -> str:
    """Return a key path as readers write it: ``cluster[0].ghz``."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")


def fault(where: str, path: KeyPath, what: str, hint: str = BY_HAND) -> BadInput:
    """Return the error for a value, naming the file and the key's path."""
    return BadInput(f"{where}: {place(path)}: {what}" if path else f"{where}: {what}", hint=hint)


def from_json(cls: type[T], data: Any, *, where: str = "record") -> T:
    """Build a record from plain JSON or TOML values.

    Args:
        cls: The record class.
        data: What a parser gave.
        where: The file, for messages.

    Raises:
        BadInput: A key is unknown or missing or a value has the wrong type, naming its path.
    """
    return _record(cls, data, where, ())


@functools.cache
def _fields(cls: type) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((f, hints[f.name]) for f in dataclasses.fields(cls))


def _record(cls: type[T], data: Any, where: str, path: KeyPath) -> T:
    if not isinstance(data, Mapping):
        raise fault(where, path, f"expected an object, found {type(data).__name__}")
    own: type = cls
    fields = [(f, hint) for f, hint in _fields(own) if not f.metadata.get("flat")]
    flat = next((f.name for f, _ in _fields(own) if f.metadata.get("flat")), None)
    known = [f.name for f, _ in fields]
    extra = {key: value for key, value in data.items() if key not in known}
    values: dict[str, Any] = {flat: extra} if flat is not None else {}
    if extra and flat is None:
        first = place((*path, str(next(iter(extra)))))
        raise unknown_name(f"key in {where}", first, [place((*path, name)) for name in known])
    for f, hint in fields:
        if f.name in data:
            values[f.name] = _value(hint, data[f.name], where, (*path, f.name))
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BadInput(f"{where}: key '{place((*path, f.name))}' is missing", hint=BY_HAND)
    try:
        return cls(**values)
    except BadInput as error:
        raise fault(where, path, error.message, error.hint) from error


def _value(hint: Any, value: Any, where: str, path: KeyPath) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        exact = [a for a in options if isinstance(a, type) and type(value) is a]
        return _value((exact or options)[0], value, where, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise fault(where, path, f"expected a list, found {type(value).__name__}")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(value) != len(inner):
            raise fault(where, path, f"expected {len(inner)} values, found {len(value)}")
        pairs = enumerate(zip(inner, value, strict=True))
        return tuple(_value(a, v, where, (*path, i)) for i, (a, v) in pairs)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise fault(where, path, f"expected an object, found {type(value).__name__}")
        return {k: _value(args[1], v, where, (*path, k)) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return _record(typing.cast(type, hint), value, where, path)
    if issubclass(hint, StrEnum):
        if value not in [*hint]:
            raise fault(where, path, f"'{value}' is not one of {', '.join(hint)}")
        return hint(value)
    if hint is float and type(value) is int and -LARGEST < value < LARGEST:
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise fault(where, path, f"expected {hint.__name__}, found {type(value).__name__}")
