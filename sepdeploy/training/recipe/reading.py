"""Recipe files: a flat TOML table whose keys are the fields of ``Recipe``.

The command line has flags for the keys in daily use, with ``-`` for ``_``, and ``--set key=value``
for all of them; what it says beats the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput
from sepdeploy.models.factory import is_foreign
from sepdeploy.settings import check_needs, filled
from sepdeploy.training.recipe.fields import Recipe
from sepdeploy.training.recipe.named import recipe_table
from sepdeploy.training.recipe.rules import check_starts

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
        path: TOML file, or the name of a shipped recipe; None = all defaults.
        overrides: Values that beat the file; None values are ignored. Strings are converted
            ("1024,1024" for ``hidden``, "8/255" for ``eps``).
        defaults: Values for keys that neither the file nor the flags give.

    Raises:
        BadInput: Unreadable file, one that names code to import, unknown key (with the three
            closest), a value out of range, or one without effect (recipes that are already stored
            may have such).
    """
    values = {} if path is None else recipe_table(Path(path))
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    written = {k.replace("-", "_"): v for k, v in values.items()}
    _check_arch(written.get("arch"), given.get("arch"), where=str(path))
    recipe = recipe_from({**(defaults or {}), **written, **given}, where=str(path or "recipe"))
    check_needs(recipe)
    check_starts(recipe)
    return recipe


def _check_arch(written: object, typed: object, *, where: str) -> None:
    """Refuse a file that chooses the code to import, unless the user typed the same."""
    if isinstance(written, str) and is_foreign(written) and typed is None:
        raise BadInput(
            f"{where}: arch = '{written[:80]}' would import code, and files never choose code",
            hint=f"type it if you trust that code: --arch {written[:80]}",
        )


def recipe_from(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Build a recipe from plain values.

    Raises:
        BadInput: Unknown key, wrong type, or a value out of range.
    """
    return filled(Recipe(), {key.replace("-", "_"): v for key, v in values.items()}, where)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return one line per field whose change makes a resumption impossible."""
    before, after = old.to_json(), new.to_json()
    return [
        f"{name}: {before[name]} -> {after[name]}"
        for name in before
        if name not in FREE_ON_RESUME and before[name] != after[name]
    ]
