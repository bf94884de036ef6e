"""Starting a training from a trained network: each layer the nearest one of the new structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sepdeploy.compression import compress_model
from sepdeploy.errors import BadInput
from sepdeploy.files import sha256_file
from sepdeploy.models import Model, load
from sepdeploy.models.checkpoint import linear_specs, structure_forms
from sepdeploy.models.factory import is_foreign
from sepdeploy.training import Event, Recipe, load_recipe, new_model

OF_THE_NETWORK = ("hidden",)  # options of an architecture that a recipe can name as well
HINT = "--from takes a model of the recipe's own network: the same arch and widths"


def warm_start(
    path: Path,
    recipe_path: Path | None,
    overrides: Mapping[str, Any],
    on_progress: Callable[[Event], None],
) -> tuple[Recipe, Model]:
    """Return a recipe and the network that it asks for, with the weights nearest to a trained one.

    What the recipe leaves open of architecture and widths is that of the trained network.

    Args:
        path: The trained model.
        recipe_path: As of ``load_recipe``.
        overrides: As of ``load_recipe``.
        on_progress: Told what was planned, and how far the projections are from the layers.

    Raises:
        BadInput: The model or the recipe cannot be used, or a layer has other sizes.
    """
    asked = load_recipe(recipe_path, overrides).arch
    source = load(path, arch=asked if is_foreign(asked) else None)
    known = {"arch": source.arch} if source.arch else {}
    recipe = load_recipe(recipe_path, overrides, defaults=known)
    if recipe.arch != source.arch:
        raise BadInput(
            f"{path} is a network '{source.arch}', the recipe asks for '{recipe.arch}'",
            hint=HINT,
        )
    known |= {key: source.arch_kwargs[key] for key in OF_THE_NETWORK if key in source.arch_kwargs}
    recipe = load_recipe(recipe_path, overrides, defaults=known)
    wanted = new_model(recipe, source.input, source.classes, on_progress, dense=recipe.hidden)
    _check_sizes(path, source, wanted)
    changes = {name: form.text for name, form in structure_forms(wanted.net).items()}
    model, errors = compress_model(source, changes)
    _check_same(path, model, wanted)
    model.arch, model.arch_kwargs = wanted.arch, wanted.arch_kwargs
    accuracy = source.provenance.get("accuracy")
    model.provenance = {
        "started_from": {"source_sha256": sha256_file(path), "source_accuracy": accuracy}
    }
    far = ", ".join(f"{name} {error:.2f}" for name, error in errors.items()) or "no layer changed"
    on_progress(Event("note", message=f"starts from {path}; relative errors: {far}"))
    return recipe, model


def _check_sizes(path: Path, source: Model, wanted: Model) -> None:
    """Compare linear layers before any of them is projected."""
    found = linear_specs(source.net)
    for name, spec in linear_specs(wanted.net).items():
        if name not in found:
            raise BadInput(f"{path} has no layer '{name}', the recipe's network has", hint=HINT)
        has = found[name]
        if (has.in_features, has.out_features) != (spec.in_features, spec.out_features):
            raise BadInput(
                f"layer '{name}' is {has.in_features} → {has.out_features} in {path} "
                f"and {spec.in_features} → {spec.out_features} in the recipe",
                hint=HINT,
            )


def _check_same(path: Path, made: Model, wanted: Model) -> None:
    """Compare everything else: convolutions, norms, layers that only one of both has."""
    shapes = [{k: tuple(v.shape) for k, v in m.net.state_dict().items()} for m in (made, wanted)]
    differing = sorted(dict(shapes[0].items() ^ shapes[1].items()))
    if differing:
        raise BadInput(f"'{differing[0]}' differs between {path} and the recipe", hint=HINT)
