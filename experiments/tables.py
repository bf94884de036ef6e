"""Tables and bars of results: means over seeds, differences seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

from sepdeploy.reports.tables import Table, markdown
from sepdeploy.training.descent.optimizers import OPTIMIZERS

Result = dict[str, Any]


def bar(what: str, holds: bool, losses: Sequence[float], limit: float) -> str:
    """A line about losses in points, one per seed, and the most that their mean may be."""
    loss = mean(losses)
    change = f"lost {loss:.2f}" if loss >= 0 else f"gained {-loss:.2f}"
    verdict = "met" if holds and loss <= limit else "**missed**"
    return f"* {verdict} – {what}: {change}{uncertainty(losses)}"


def uncertainty(values: Sequence[float]) -> str:
    """The standard error of a mean over seeds; nothing for one seed."""
    return f" ± {stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""


def setting(results: Sequence[Result]) -> str:
    """Recipe and machine, from the results themselves."""
    recipe, machine = results[0]["recipe"], results[0]["machine"]
    dates = sorted({r["machine"]["date"] for r in results})
    seeds = sorted({r["seed"] for r in results})
    augmented = f", augmentation {recipe['augment']}" if recipe["augment"] else ""
    rate = recipe["lr"] or OPTIMIZERS[recipe["optimizer"]].default_lr
    attack, images = results[0]["attack"], results[0]["test_images"]
    return (
        f"{', '.join(dates)}; {machine['processor']}, one thread, torch {machine['torch']}, "
        f"Python {machine['python']}; seeds {', '.join(map(str, seeds))}. Recipe: "
        f"{recipe['objective']}, {recipe['steps']} steps, batches of {recipe['batch_size']}, "
        f"{recipe['optimizer']}, {recipe['schedule']}, learning rate {rate:g}{augmented}; "
        f"{attack} on {images:,} test images."
    )


def radius(results: Sequence[Result]) -> str:
    """Radius and norm of the attacks."""
    eps, norm = results[0]["eps"], results[0]["recipe"]["norm"]
    pixels = f"{255 * eps:.0f}/255" if abs(255 * eps - round(255 * eps)) < 1e-9 else f"{eps:g}"
    return f"ε = {pixels} ({ {'linf': 'L∞', 'l2': 'L2'}[norm] })"


def schedule(results: Sequence[Result]) -> str:
    """Epochs, and those in which the radius grows."""
    recipe = results[0]["recipe"]
    warm = recipe.get("eps_warmup", 0)
    growing = f", the radius growing over the first {warm}" if warm else ""
    return f"{recipe['epochs']} epochs{growing}."


def table(results: Sequence[Result]) -> list[str]:
    """A table with a line per name, in the order of the results."""
    heads = ("net", "parameters", "fewer", "seeds", "clean %", "robust %", "against dense", "κ")
    table = Table(heads, range(1, 8))
    for name in names(results):
        rows = named(results, name)
        value = kappa(rows)
        table.add(
            name,
            f"{median(r['params'] for r in rows):,.0f}",
            f"{ratio(results, name):.0f}×",
            str(len(rows)),
            spread(rows, "clean"),
            spread(rows, "robust"),
            "" if name == "dense" else f"{-mean(losses(results, name)):+.2f}",
            "–" if value is None else condition(value),
        )
    return markdown(table)


def names(results: Sequence[Result]) -> list[str]:
    """Names, each once: the dense net, then family by family, the larger nets first."""
    sizes: dict[str, int] = {}
    for found in results:
        sizes[found["name"]] = max(found["params"], sizes.get(found["name"], 0))

    def place(name: str) -> tuple[bool, str, int, str]:
        return name != "dense", name.partition("-")[0], -sizes[name], name

    return sorted(sizes, key=place)


def named(results: Sequence[Result], name: str) -> list[Result]:
    """The results of one name, by seed."""
    return sorted((r for r in results if r["name"] == name), key=lambda r: int(r["seed"]))


def ratio(results: Sequence[Result], name: str) -> float:
    """How many times fewer parameters than the dense net."""
    dense = named(results, "dense")[0]["params"]
    return float(dense / median(r["params"] for r in named(results, name)))


def losses(results: Sequence[Result], name: str) -> list[float]:
    """Robust accuracy lost against the dense net of the same seed, in points, seed by seed."""
    return difference(named(results, "dense"), named(results, name))


def difference(first: Sequence[Result], second: Sequence[Result]) -> list[float]:
    """Robust accuracy of the first minus the second in points, seed by seed."""
    other = {r["seed"]: r["robust"] for r in second}
    return [100 * (r["robust"] - other[r["seed"]]) for r in first if r["seed"] in other]


def kappa(rows: Sequence[Result]) -> float | None:
    """Median condition number of the fully connected layers before the classifier, over seeds."""
    values = [
        value
        for row in rows
        for layer, value in row["condition_numbers"].items()
        if layer.startswith("fc") and value is not None
    ]
    return median(values) if values else None


def condition(value: float) -> str:
    """A condition number; beyond double precision the matrix is singular."""
    return "∞" if value > 1e16 else f"{value:.2g}"


def spread(rows: Sequence[Result], key: str) -> str:
    """Mean and standard deviation in percent."""
    values = [100 * row[key] for row in rows]
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
