"""Where in a TOML text a key stands, and the checks that name it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_type_hints

from sepdeploy.errors import BadInput, unknown_name

KeyPath = tuple[str, ...]
_TABLE = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Return a TOML text as a dictionary.

    Raises:
        BadInput: It is not TOML; the message has the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        place = f"{where}:{line[1]}" if line else where
        raise BadInput(f"{place} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise BadInput(f"{where} is not valid TOML: nested too deeply") from error


def line_of(text: str, path: KeyPath) -> int:
    """Return the line on which a key is set, or its nearest parent; 1 when there is neither.

    Args:
        text: TOML.
        path: Keys from the top; the entries of an array of tables are "0", "1", ...
    """
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = _TABLE.match(line)
        if header:
            table = _parts(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
            found = table
        else:
            key = _KEY.match(line)
            if key is None:
                continue
            found = (*table, *_parts(key[1]))
        if path[: len(found)] == found and len(found) > depth:
            best, depth = number, len(found)
    return best


def _parts(text: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(text))


def check_keys(cls: type, data: Mapping[str, Any], text: str, where: str) -> None:
    """Refuse keys that a record class does not have, with the line and the closest ones.

    Raises:
        BadInput: An unknown key.
    """
    _check_keys(cls, data, (), text, where)


def _check_keys(cls: type, data: Mapping[str, Any], path: KeyPath, text: str, where: str) -> None:
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key, value in data.items():
        here = (*path, key)
        if key not in known:
            place = f"{where}:{line_of(text, here)}"
            raise unknown_name(
                f"key in {place}", ".".join(here), [".".join((*path, k)) for k in known]
            )
        inner = _record_in(hints[key])
        if inner is None:
            continue
        if isinstance(value, Mapping):
            _check_keys(inner, value, here, text, where)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    _check_keys(inner, item, (*here, str(index)), text, where)


def _record_in(hint: Any) -> type | None:
    """Return the record class in a type hint: itself, in a tuple, or beside None."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    if isinstance(hint, UnionType) or get_args(hint):
        return next((r for a in get_args(hint) if (r := _record_in(a)) is not None), None)
    return None
