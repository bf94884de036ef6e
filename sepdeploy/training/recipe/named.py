"""Recipes that ship with the package, found by their names. Each is a TOML file in ``shipped/``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from sepdeploy.codec import parse_toml, read_toml
from sepdeploy.errors import unknown_name


def shipped() -> dict[str, str]:
    """Return the texts of the shipped recipes by name, in the order of their names."""
    folder = resources.files("sepdeploy.training.recipe") / "shipped"
    files = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files}


def recipe_table(path: Path) -> dict[str, Any]:
    """Return the table of a recipe: a file's, else that of the shipped recipe of this name.

    Args:
        path: A bare name without an end means a shipped recipe, unless there is such a file.

    Raises:
        BadInput: Unreadable, not TOML, or no shipped recipe has this name.
    """
    name = str(path)
    if path.exists() or path.suffix or path.name != name:
        return read_toml(path)
    texts = shipped()
    if name not in texts:
        hint = f"shipped: {', '.join(texts)}; your own is a file, e.g. {name}.toml"
        raise unknown_name("recipe", name, texts, hint=hint)
    return parse_toml(texts[name], where=name)
