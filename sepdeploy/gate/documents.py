"""Reading JSON that people may have edited: strict, with one clear line about what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput
from sepdeploy.files import read_bytes

MAX_BYTES = 256 << 20
MAX_DIGITS = 24


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, refusing NaN, Infinity and duplicate keys.

    Raises:
        BadInput: The file is unreadable, too large, not JSON, or not an object.
    """
    text = read_bytes(path, limit=MAX_BYTES)
    try:
        data = json.loads(
            text,
            object_pairs_hook=lambda pairs: _unique(pairs, path),
            parse_constant=_refuse,
            parse_int=_whole,
        )
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} is not valid JSON: {error}", hint="restore the file, or write it again"
        ) from error
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected an object, found {type(data).__name__}")
    return data


def require_schema(data: Mapping[str, Any], schema: str, where: str) -> int:
    """Return the version of a document's schema, at most the one that is known.

    Args:
        data: The document.
        schema: The newest known schema, "name/version".
        where: The file, for messages.

    Raises:
        BadInput: Another kind of document, or one from a newer version.
    """
    name, newest = schema.rsplit("/", 1)
    found = data.get("schema")
    match = re.fullmatch(re.escape(name) + r"/(\d{1,6})", found) if isinstance(found, str) else None
    if match is None:
        raise BadInput(
            f"{where} has schema {found!r}, expected {schema!r}",
            hint="is it another kind of file?",
        )
    version = int(match[1])
    if version > int(newest):
        raise BadInput(
            f"{where} has schema {found!r}, newer than {schema!r}",
            hint="it was written by a newer sepdeploy; upgrade this one",
        )
    return version


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadInput(f"{path} has the key '{key}' twice in one object")
        found[key] = value
    return found


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        message = f"a number of {len(text)} digits"
        raise ValueError(message)
    return int(text)


def _refuse(name: str) -> float:
    message = f"{name} is not a number that can be compared"
    raise ValueError(message)
