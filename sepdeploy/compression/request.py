"""What a user asks of a compression: budgets, and structures layer by layer."""

from __future__ import annotations

import math
import re

from sepdeploy.errors import BadInput


def parse_target(text: str) -> tuple[str, float] | None:
    """Parse a budget: "10x" gives ("ratio", 10.0), "50000" gives ("params", 50000.0), "" None.

    Raises:
        BadInput: Neither form.
    """
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(x?)", text.strip().lower())
    value = float(match[1]) if match else 0.0
    if match is None or value < 1 or not math.isfinite(value):
        raise BadInput(
            f"target '{text}' is no budget", hint="write 10x (ten times smaller) or 50000 (params)"
        )
    return ("ratio" if match[2] else "params", value)


def structure_map(text: str) -> str | dict[str, str]:
    """Return the structure argument of an architecture for a recipe's ``structure``.

    "kron" stays; "fc1=kron,fc2=lowrank:40" becomes a table; "kron,lowrank:40" numbers the layers
    fc1, fc2, … . Commas within brackets belong to a chain.

    Raises:
        BadInput: An empty part, or a layer that is named twice.
    """
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", text)]
    if not all(parts):
        raise BadInput(
            f"structure '{text}' has an empty part",
            hint='for example "kron" or "fc1=kron,fc2=lowrank:40"',
        )
    if len(parts) == 1 and "=" not in text:
        return parts[0]
    table: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name, _, structure = part.rpartition("=")
        name = name.strip() or f"fc{number}"
        if name in table:
            raise BadInput(
                f"structure '{text}' names {name} twice", hint="leave one of the two out"
            )
        table[name] = structure.strip()
    return table
