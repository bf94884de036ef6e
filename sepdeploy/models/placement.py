"""Which layer of an architecture gets which structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sepdeploy.errors import FORMS, WIDTHS, BadInput, unknown_name
from sepdeploy.structures import STRUCTURES, split_structure
from sepdeploy.structures.base import check_count

StructureMap = str | Mapping[str, str] | None
"""One structure string for every layer meant to be structured, or a mapping from layer names
(or patterns such as ``fc*``) to structure strings; None is dense throughout."""


def resolve_structures(
    structure: StructureMap, names: Sequence[str], *, keep_dense: Sequence[str] = ()
) -> dict[str, str]:
    """The structure string of each layer.

    Args:
        structure: What the user asked for.
        names: Layers that one string for all applies to.
        keep_dense: Layers that stay dense unless they are named (the classifier head).

    Raises:
        BadInput: A name or pattern that matches no layer.
    """
    texts = dict.fromkeys([*names, *keep_dense], "dense")
    if structure is None:
        return texts
    if isinstance(structure, str):
        return texts | dict.fromkeys(names, structure)
    if not isinstance(structure, Mapping):
        raise BadInput(
            f"structure must be a string or a table, found {structure!r:.60}", hint=FORMS
        )
    for pattern, text in structure.items():
        matched = [name for name in texts if fnmatchcase(name, pattern)]
        if not matched:
            raise unknown_name("layer", str(pattern)[:60], texts)
        if not isinstance(text, str):
            raise BadInput(
                f"structure of '{pattern}' must be a string, found {text!r:.60}", hint=FORMS
            )
        texts.update(dict.fromkeys(matched, text))
    return texts


def with_modes(text: str, modes: str | None) -> str:
    """Fill the modes of choice into a structure string that leaves them open.

    ``with_modes("kron*2", "32x24-24x32")`` is "kron:32x24-24x32*2"; strings of other families,
    or with modes of their own, stay as they are, and so does every string where ``modes`` is None.
    """
    name, options = split_structure(text)
    family = STRUCTURES.get(name)
    is_open = family is not None and family.takes_modes and options[:1] in ("", "*", "+")
    return f"{name}:{modes}{options}" if is_open and modes else text


def refuse_without_effect(arch: str, structure: StructureMap, layer: str) -> None:
    """Refuse one structure for all layers where the architecture has none that it applies to.

    Raises:
        BadInput: ``structure`` is a string other than "dense".
    """
    if isinstance(structure, str) and structure.strip() != "dense":
        raise BadInput(
            f"{arch} has no linear layer besides its classifier that '{structure[:40]}' applies to",
            hint=f'name the layer: structure = {{{layer} = "{structure[:40]}"}}',
        )


def check_widths(widths: Any, what: str) -> tuple[int, ...]:
    """Return layer widths as a tuple of positive ints.

    Raises:
        BadInput: Not a list of positive whole numbers, or more than 1000 of them.
    """
    if not isinstance(widths, (tuple, list)) or len(widths) > 1000:
        raise BadInput(f"{what} must be a list of layer widths, found {widths!r:.60}", hint=WIDTHS)
    return tuple(check_count(w, f"{what} width") for w in widths)
