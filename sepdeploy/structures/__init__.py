"""Structure families: what a layer is made of, counted and decomposed with numpy only.

``STRUCTURES`` has the families of linear layers, ``CONVOLUTIONS`` those of convolutions. A family
that is to be known everywhere needs its row here and one in ``sepdeploy.layers``, of linear layers
one in ``sepdeploy.exporters.families.FAMILIES`` too: convolutions go out as what they are made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sepdeploy.errors import FORMS, GROUPED, NEW_FILE, BadInput, unknown_name
from sepdeploy.structures.base import Convolution, Form, Projection, Spectrum, Structure
from sepdeploy.structures.debut.conv import DebutConvSpec
from sepdeploy.structures.debut.spec import DebutSpec
from sepdeploy.structures.dense import DenseSpec
from sepdeploy.structures.kron import KronSpec, suggest_shapes
from sepdeploy.structures.kron_conv import KronConvSpec
from sepdeploy.structures.lowrank import LowRankSpec
from sepdeploy.structures.lowrank_conv import LowRankConvSpec
from sepdeploy.structures.pdp import PdpSpec
from sepdeploy.structures.shapes import two_modes

__all__ = [
    "CONVOLUTIONS",
    "STRUCTURES",
    "Convolution",
    "DebutConvSpec",
    "DebutSpec",
    "DenseSpec",
    "Form",
    "KronConvSpec",
    "KronSpec",
    "LowRankConvSpec",
    "LowRankSpec",
    "PdpSpec",
    "Projection",
    "Spec",
    "Spectrum",
    "Structure",
    "family_of",
    "grammar",
    "parse_convolution",
    "parse_structure",
    "saved_convolution",
    "shown_factors",
    "spec_from_json",
    "split_structure",
    "suggest_shapes",
    "two_modes",
    "whole_network",
]

Spec = Structure

STRUCTURES: dict[str, type[Spec]] = {
    spec.structure: spec for spec in (DenseSpec, KronSpec, LowRankSpec, DebutSpec)
}
CONVOLUTIONS: dict[str, type[Convolution]] = {
    "lowrank": LowRankConvSpec,
    "tucker": LowRankConvSpec,
    "debut": DebutConvSpec,
    "kron": KronConvSpec,
    "pdp": PdpSpec,
}


EVERY_LAYER = "all-"  # and a family: every linear layer and convolution, the classifier too


def split_structure(text: str) -> tuple[str, str]:
    """Split a structure string into its family's name and what stands behind it.

    "kron:28x28-64x64" gives ("kron", "28x28-64x64"), "kron*2" gives ("kron", "*2").
    """
    name, colon, options = text.strip().partition(":")
    mark = None if colon else re.search(r"[*+]", name)
    if mark is not None:
        name, options = name[: mark.start()], name[mark.start() :]
    return name, options


def family_of(text: str) -> type[Spec]:
    """The family of linear layers that a structure string names.

    Raises:
        BadInput: There is none of that name.
    """
    name, _ = split_structure(text)
    if name in CONVOLUTIONS and name not in STRUCTURES:
        raise BadInput(
            f"structure '{text[:60]}' is a form of convolutions, this layer is linear",
            hint=f"write {grammar()}",
        )
    if name not in STRUCTURES:
        raise unknown_name("structure", name[:40], STRUCTURES, hint=f"write {grammar()}")
    return STRUCTURES[name]


def whole_network(structure: Any) -> str:
    """The structure that "all-debut" gives every layer of a network, "" for anything else.

    Raises:
        BadInput: No family has a form of both linear layers and convolutions under this name.
    """
    text = structure.strip() if isinstance(structure, str) else ""
    if not text.startswith(EVERY_LAYER):
        return ""
    text = text.removeprefix(EVERY_LAYER)
    name, _ = split_structure(text)
    if name not in STRUCTURES or name not in CONVOLUTIONS:
        both = [EVERY_LAYER + name for name in STRUCTURES if name in CONVOLUTIONS]
        raise unknown_name("structure", f"{EVERY_LAYER}{name[:40]}", both)
    return text


def parse_structure(text: str, in_shape: Sequence[int], out_features: int) -> Spec:
    """Read a structure string for one layer.

    A family's name, and behind a colon what the family takes: ``dense``; ``kron`` (two modes: the
    sample's own ones in, the most balanced pair out); ``kron:aligned`` (two modes of full rank);
    ``kron:28x28-64x64`` (explicit modes); ``*K`` behind any of them for K terms, ``+sumbias``
    behind that for a bias that is a sum over the modes; ``lowrank:40``.

    Args:
        text: The structure string.
        in_shape: Shape of one sample arriving at the layer, e.g. (1, 28, 28) or (1024,).
        out_features: n_out.

    Raises:
        BadInput: Unknown family, malformed, or shapes that do not fit the layer.
    """
    family, (_, options) = family_of(text), split_structure(text)
    try:
        if text.strip().endswith(":"):
            raise BadInput("nothing follows the colon", hint=FORMS)
        return family.parse(options, in_shape, out_features)
    except BadInput as error:
        raise BadInput(f"structure '{text[:60]}': {error.message}", hint=error.hint) from error


def parse_convolution(
    text: str, channels: tuple[int, int], kernel: tuple[int, ...], groups: int = 1
) -> Convolution:
    """Read a structure string for a convolution.

    Args:
        text: The structure string.
        channels: (in, out).
        kernel: Its sides.
        groups: As of ``nn.Conv2d``.

    Raises:
        BadInput: No family of convolutions, malformed, or sizes that do not fit.
    """
    name, _ = split_structure(text)
    if name not in CONVOLUTIONS:
        known = " or ".join(dict.fromkeys(x for row in CONVOLUTIONS.values() for x in row.grammar))
        raise BadInput(
            f"structure '{text[:60]}' is no form of a convolution", hint=f"for example {known}"
        )
    family = CONVOLUTIONS[name]
    if groups != 1 and not family.takes_groups:
        raise BadInput(f"a grouped convolution has no {name} form", hint=GROUPED)
    spec = family.parse(text, *channels, kernel)
    return spec if groups == 1 else spec.grouped(groups)


def saved_convolution(
    saved: Any, channels: tuple[int, int], kernel: tuple[int, ...], groups: int = 1
) -> Convolution | None:
    """Read what a model file keeps of a convolution's structure; None where nobody knows it."""
    found = (row.read(saved, *channels, kernel) for row in CONVOLUTIONS.values())
    spec = next((spec for spec in found if spec is not None), None)
    if spec is None or groups == 1:
        return spec
    return spec.grouped(groups) if spec.takes_groups else None


def shown_factors(structure: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """The shapes of a layer's factors for readers, as its family writes them."""
    return STRUCTURES.get(structure, DenseSpec).shown(shapes)


def grammar() -> str:
    """Examples of what a structure string can be, for help and error messages."""
    *others, last = [example for spec in STRUCTURES.values() for example in spec.grammar]
    return f"{', '.join(others)} or {last}"


def spec_from_json(data: Any, *, where: str = "structure") -> Spec:
    """Read back what ``to_json`` of a spec gave.

    Raises:
        BadInput: Unknown structure, missing or extra keys, sizes that make no sense.
    """
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: expected an object, found {type(data).__name__}", hint=NEW_FILE)
    name = data.get("structure")
    if not isinstance(name, str) or name not in STRUCTURES:
        raise unknown_name("structure", str(name)[:40], STRUCTURES)
    values = {str(k): v for k, v in data.items() if k != "structure"}
    try:
        return STRUCTURES[name](**values)
    except TypeError as error:
        raise BadInput(
            f"{where}: keys {sorted(values)} do not describe a {name}", hint=NEW_FILE
        ) from error
    except BadInput as error:
        raise BadInput(f"{where}: {error.message}", hint=error.hint) from error
