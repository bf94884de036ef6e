"""Training one row of a table and attacking its test set; finished rows are kept.

A row is a recipe and a name. Its result is one JSON file in the work folder, so that a table of
many hours can be stopped and gone on with, and every row can be run alone. Rows run in processes
of their own with one thread each.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from sepdeploy import attacks
from sepdeploy.data import Split, load
from sepdeploy.files import atomic_path
from sepdeploy.models import Model
from sepdeploy.models import load as load_model
from sepdeploy.threat import parse_attack
from sepdeploy.training import Recipe, fit

RESULTS = Path(__file__).with_name("results")
WORK = Path("runs/experiments")


@dataclass(frozen=True)
class Row:
    """One training of a table.

    Attributes:
        name: Of the row, the same for every seed.
        recipe: All choices, the seed among them.
        steps: Of the PGD attack on the test images.
        judges: More attacks, each with the number of test images that it is asked about.
    """

    name: str
    recipe: Recipe
    steps: int
    judges: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> str:
        """Name of the row's files."""
        recipe = self.recipe
        rate = f"-lr{recipe.lr:g}" if recipe.lr else ""
        return f"{self.name}{rate}-eps{recipe.eps:.4g}-epochs{recipe.epochs}-seed{recipe.seed}"


def run_row(row: Row, work: Path) -> dict[str, Any]:
    """Train, attack the test images, and return the result; it is kept after every attack."""
    file = work / f"{row.key}.json"
    found = json.loads(file.read_text()) if _trained(row, file) else None
    kept = work / f"{row.key}.pt"
    if found is None or not kept.is_file():
        found = _train(row, kept)
        _keep(file, found)
    model, test = load_model(kept).eval(), load(row.recipe.data, row.recipe.data_dir or None).test
    for name, count in row.judges:
        if name not in found["judged"]:
            few = test.subset(np.arange(min(count, len(test))))
            robust = accuracy(model, few, row, name)
            found["judged"][name] = {"images": len(few), "robust": robust}
            _keep(file, found)
    return found


def _train(row: Row, out: Path) -> dict[str, Any]:
    """Train, and attack all test images with PGD (one random start)."""
    began = time.monotonic()
    result = fit(row.recipe, out=out, resume=True)
    trained = time.monotonic()
    model = result.model.eval()
    test = load(row.recipe.data, row.recipe.data_dir or None).test
    best = result.history[result.best_epoch - 1]
    return {
        "name": row.name,
        "eps": row.recipe.eps,
        "seed": row.recipe.seed,
        "params": count_params(model),
        "params_dense": model.params_dense,
        "held_out": best["robust_accuracy"],
        "clean": accuracy(model, test, row, ""),
        "robust": accuracy(model, test, row, f"pgd-{row.steps}"),
        "judged": {},
        "attack": f"pgd-{row.steps}",
        "test_images": len(test),
        "best_epoch": result.best_epoch,
        "condition_numbers": best["condition_numbers"],
        "ranks": best.get("ranks"),
        "train_s": trained - began,
        "recipe": recipe_record(row),
        "machine": machine(),
    }


def _keep(file: Path, found: dict[str, Any]) -> None:
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(found, indent=1))


def recipe_record(row: Row) -> dict[str, Any]:
    """The recipe without the places of this machine."""
    return row.recipe.to_json() | {"data_dir": "", "data": Path(row.recipe.data).name}


def count_params(model: Model) -> int:
    """Parameters that are not zero: what is left after pruning, else all of them."""
    zeros = sum(int((p == 0).sum()) for p in model.net.parameters() if p.dim() > 1)
    return model.params - zeros


def accuracy(model: Model, split: Split, row: Row, attack: str) -> float:
    """Share of a split that is classified correctly, after an attack if one is named."""
    right = 0
    for at in range(0, len(split), 500):
        part = slice(at, at + 500)
        images = torch.from_numpy(split.batch(part))
        labels = torch.from_numpy(split.labels[part])
        if attack:
            images = attacks.run(
                model,
                images,
                labels,
                parse_attack(attack, row.recipe.eps, row.recipe.norm),
                ids=torch.from_numpy(split.ids[part]),
            )
        with torch.no_grad():
            right += int((model(images).argmax(dim=1) == labels).sum())
    return right / len(split)


def machine() -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": "CUDA" if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _trained(row: Row, file: Path) -> bool:
    """Whether there is a result of this very recipe."""
    if not file.exists():
        return False
    kept, wanted = json.loads(file.read_text())["recipe"], recipe_record(row)
    return all(kept[key] == wanted.get(key) for key in kept)


def _finished(row: Row, file: Path) -> bool:
    """Whether every attack has judged it too."""
    return _trained(row, file) and {name for name, _ in row.judges} <= set(
        json.loads(file.read_text()).get("judged", {})
    )


def run_rows(rows: Sequence[Row], module: str, work: Path, jobs: int) -> None:
    """Run the rows that have no result yet, ``jobs`` at once.

    Args:
        rows: In order of importance: a table that is stopped holds the first of them.
        module: Script whose ``--only KEY`` runs one row.
        work: Folder of models and results.
        jobs: Processes.
    """
    work.mkdir(parents=True, exist_ok=True)

    def one(row: Row) -> None:
        file = work / f"{row.key}.json"
        if not _finished(row, file):
            command = [sys.executable, "-m", module, "--only", row.key, "--work", str(work)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{row.key} failed:\n{done.stderr}", file=sys.stderr)
                return
        found = json.loads(file.read_text())
        print(
            f"{row.key:44} {found['params']:>10,} clean {found['clean']:.2%} "
            f"robust {found['robust']:.2%} {found['train_s']:.0f} s",
            flush=True,
        )

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, rows))


def finished_rows(rows: Sequence[Row], work: Path) -> list[dict[str, Any]]:
    """The results that are there, in the order of the rows; some attacks may be missing."""
    files = {row: work / f"{row.key}.json" for row in rows}
    return [json.loads(file.read_text()) for row, file in files.items() if _trained(row, file)]


def main(rows: Sequence[Row], module: str, title: str) -> int:
    """Run a script of rows from the command line; write what is finished to ``results``."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of models and results")
    parser.add_argument("--match", default="", help="run only rows whose key contains this")
    parser.add_argument("--only", default="", help="run one row in this process")
    chosen = parser.parse_args()
    if chosen.only:
        torch.set_num_threads(1)
        (row,) = [row for row in rows if row.key == chosen.only]
        run_row(row, chosen.work)
        return 0
    run_rows([r for r in rows if chosen.match in r.key], module, chosen.work, chosen.jobs)
    results = finished_rows(rows, chosen.work)
    if results:
        RESULTS.mkdir(exist_ok=True)
        with atomic_path(RESULTS / f"{title}.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if results else 1


def recipe(base: dict[str, Any], **changes: Any) -> Recipe:
    """Return a recipe with one thread from a table's base and a row's changes."""
    return dataclasses.replace(Recipe(threads=1), **{**base, **changes})


def medians(results: Sequence[dict[str, Any]], *keys: str) -> tuple[float, ...]:
    """Medians of numbers over results."""
    return tuple(median(result[key] for result in results) for key in keys)
