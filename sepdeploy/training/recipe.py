"""Recipe files: a flat TOML table whose keys are the fields of ``Recipe``.

The command line has flags for the keys in daily use, with ``-`` for ``_``, and ``--set key=value``
for all of them; what it says beats the file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sepdeploy.codec import read_toml
from sepdeploy.errors import BadInput
from sepdeploy.threat import parse_eps
from sepdeploy.training.recipe_checks import check_nothing_ignored
from sepdeploy.training.recipe_fields import Recipe

# What may differ between a training and its resumption: where the data lies and where it is
# trained, not what is trained.
FREE_ON_RESUME = frozenset({"data_dir", "threads", "accelerator"})


def load_recipe(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe file and put flags over it.

    Args:
        path: TOML file; None = all defaults.
        overrides: Values that beat the file; None values are ignored. Strings are converted
            ("1024,1024" for ``hidden``, "8/255" for ``eps``).
        defaults: Values for keys that neither the file nor the flags give.

    Raises:
        BadInput: Unreadable file, unknown key (with the three closest), a value out of range, or
            one without effect (recipes that are already stored may have such).
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(Path(path))
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    written = {k.replace("-", "_"): v for k, v in values.items()}
    recipe = recipe_from({**(defaults or {}), **written, **given}, where=str(path or "recipe"))
    check_nothing_ignored(recipe)
    return recipe


def recipe_from(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Build a recipe from plain values.

    Raises:
        BadInput: Unknown key, wrong type, or a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(Recipe)}
    converted: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            near = get_close_matches(name, sorted(fields), n=3, cutoff=0.0)
            raise BadInput(
                f"{where}: unknown key '{key}'; closest: {', '.join(near)}",
                hint=f"known: {', '.join(fields)}",
            )
        converted[name] = _convert(name, str(fields[name].type), value, where)
    return Recipe(**converted)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return one line per field whose change makes a resumption impossible."""
    before, after = old.to_json(), new.to_json()
    return [
        f"{name}: {before[name]} -> {after[name]}"
        for name in before
        if name not in FREE_ON_RESUME and before[name] != after[name]
    ]


def _convert(name: str, kind: str, value: Any, where: str) -> Any:
    try:
        if name == "eps":
            return parse_eps(value)
        if name == "structure" and isinstance(value, Mapping):
            return ",".join(f"{layer}={text}" for layer, text in value.items())
        if name == "hidden":
            return _widths(value)
        if name == "target" and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if kind == "str" and isinstance(value, str):
            return value
        if kind == "bool" and str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        if kind == "int" and isinstance(value, (int, str)) and not isinstance(value, bool):
            return int(value)
        if kind == "float" and isinstance(value, (int, float, str)) and value is not True:
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise BadInput(
        f"{where}: {name} = {value!r:.60} is not {_EXPECTED.get(name) or _EXPECTED[kind]}"
    )


_EXPECTED = {
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "hidden": "a list of widths such as [1024, 1024]",
    "eps": "a radius such as 0.1 or '8/255'",
}


def _widths(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        return tuple(int(part) for part in re.split(r"[,\s]+", value.strip()) if part)
    if isinstance(value, (list, tuple)) and all(type(v) is int for v in value):
        return tuple(value)
    raise ValueError
