"""Recipe keys that may be written as a table or as a text: how each becomes its text.

All raise ``ValueError`` for what is neither, which then is said of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepdeploy.errors import BadInput

LARGEST = 1e6  # scale of a learning rate


def structure_text(value: Any) -> str:
    """Return a structure, or a table of structures by layer, as one text."""
    if isinstance(value, Mapping):
        return ",".join(f"{layer}={text}" for layer, text in value.items())
    if not isinstance(value, str):
        raise ValueError
    return value


def target_text(value: Any) -> str:
    """Return a budget as text: a number of parameters or a ratio."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    return str(value)


def scales_text(value: Any) -> str:
    """Return scales by pattern, or a table of them, as one text.

    Raises:
        BadInput: A text that spells none.
    """
    if isinstance(value, Mapping):
        value = ",".join(f"{pattern}={scale}" for pattern, scale in value.items())
    if not isinstance(value, str):
        raise ValueError
    try:
        right = all(
            pattern and 0 <= scale <= LARGEST for pattern, scale in scales_by_pattern(value)
        )
    except ValueError:
        right = False
    if not right:
        raise BadInput(
            f"recipe: lr_scale = {value!r:.60} is not PATTERN=NUMBER,PATTERN=NUMBER",
            hint=f"e.g. fc1.*=0.5,head.weight=2 with numbers from 0 to {LARGEST:g}",
        )
    return value


def scales_by_pattern(text: str) -> list[tuple[str, float]]:
    """Return the pairs that a text of scales spells: "fc1.*=2,head.*=0.5".

    Raises:
        ValueError: It spells none.
    """
    parts = [part.rpartition("=") for part in text.split(",") if part.strip()]
    return [(pattern.strip(), float(scale)) for pattern, _, scale in parts]
