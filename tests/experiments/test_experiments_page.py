"""The tables of the results page, from results made up so that every figure is known."""

from dataclasses import replace

import torch

from experiments.page import mnist_section
from experiments.small_section import small_section
from experiments.trainings import Row, count_params, recipe, run_row
from sepdeploy import models

MACHINE = {"date": "2026-01-02", "torch": "2", "python": "3", "processor": "x", "threads": 1}
RECIPE = {"objective": "pgd-at", "steps": 7, "epochs": 3, "batch_size": 128, "optimizer": "adamw",
          "schedule": "one-cycle", "lr": 0.0, "augment": "", "norm": "linf"}  # fmt: skip


def result(name, seed, params, robust, kappa):
    return {
        "name": name, "eps": 0.1, "seed": seed, "params": params, "params_dense": 1000,
        "clean": 0.99, "robust": robust, "attack": "pgd-40", "test_images": 10_000,
        "condition_numbers": {"fc1": kappa, "head": 1.0}, "recipe": RECIPE, "machine": MACHINE,
    }  # fmt: skip


def page():
    return mnist_section(
        [
            result("dense", 0, 1000, 0.90, None),
            result("dense", 1, 1000, 0.92, None),
            result("kron-31x", 0, 32, 0.89, 100.0),
            result("kron-31x", 1, 32, 0.901, 300.0),
            result("kron-31x-condition", 0, 32, 0.885, 90.0),
            result("kron-31x-condition", 1, 32, 0.885, 110.0),
            result("dlrt-17x", 0, 59, 0.91, 1e150),
            result("kron-250x", 0, 4, 0.80, 5.0),
            result("pruned-250x", 0, 4, 0.78, 5.0),
        ]
    )


def test_rows_have_means_and_paired_losses():
    (line,) = [x for x in page().splitlines() if x.startswith("| kron-31x |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "kron-31x", "32", "31×", "2", "99.00 ± 0.00", "89.55 ± 0.78", "-1.45", "2e+02",
    ]  # fmt: skip


def test_families_stand_together_from_large_to_small():
    rows = [line.split("|")[1].strip() for line in page().splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "dense", "dlrt-17x", "kron-31x", "kron-31x-condition", "kron-250x", "pruned-250x",
    ]  # fmt: skip


def test_attack_and_recipe_stand_above_the_table():
    text = page()
    assert "### ε = 0.1 (L∞)" in text
    assert "adamw, one-cycle, learning rate 0.004; pgd-40 on 10,000 test images" in text
    assert "| 59 | 17× | 1 | 99.00 | 91.00 | +1.00 | ∞ |" in text


def test_bars_are_met_or_missed_as_the_numbers_say():
    text = page()
    assert "* met – kron-31x: 1.5 points at 30x: lost 1.45 ± 0.45" in text
    assert "* **missed** – kron-31x-condition: 1.5 points at 30x: lost 2.50 ± 1.00" in text
    assert "* **missed** – kron-31x-condition: 0.5 point against kron-31x: lost 1.05 ± 0.55" in text
    assert "* met – dlrt-17x: nothing lost at 94 % fewer parameters (94.1%): gained 1.00\n" in text
    assert "κ at least halved: 2e+02 to 1e+02" in text
    assert "* **missed** – kron-250x: 5 points above pruned-250x: +2.0" in text


def test_a_row_is_trained_attacked_and_counted(tmp_path):
    base = {"data": "digits", "structure": "kron", "hidden": (64, 64), "epochs": 1, "steps": 1}
    row = Row("tiny", recipe(base, seed=3), steps=2, judges=(("apgd-ce", 40),))
    found = run_row(row, tmp_path)
    assert found["judged"]["apgd-ce"]["images"] == 40
    trained = (tmp_path / f"{row.key}.pt").stat().st_mtime_ns
    again = run_row(replace(row, judges=(*row.judges, ("square@9", 10))), tmp_path)
    assert set(again.pop("judged")) == {"apgd-ce", "square@9"}
    assert again == {key: value for key, value in found.items() if key != "judged"}
    assert (tmp_path / f"{row.key}.pt").stat().st_mtime_ns == trained
    model = models.load(tmp_path / f"{row.key}.pt")
    assert found["params"] == sum(p.numel() for p in model.net.parameters())
    assert 0 <= found["robust"] <= found["clean"] <= 1
    assert set(found["condition_numbers"]) == {"fc1", "fc2", "head"}
    with torch.no_grad():
        model.net.head.weight.view(-1)[:5] = 0
    assert count_params(model) == found["params"] - 5


def small(name, seed, params, robust, **judged):
    more = {"judged": {k.replace("_", "-"): v for k, v in judged.items()}, "held_out": robust}
    return result(name, seed, params, robust, None) | more


def test_small_nets_are_compared_under_every_attack():
    few = {"images": 1000, "robust": 0.90}
    found = [
        small("dense", 0, 1000, 0.93, aa_fast={"images": 10_000, "robust": 0.91}, aa_standard=few),
        small("kron-100x", 0, 10, 0.94, aa_fast={"images": 10_000, "robust": 0.935}),
    ]
    searched = small("dense", 0, 1000, 0.92)
    searched["recipe"] = RECIPE | {"epochs": 1, "lr": 0.002}
    text = small_section([*found, searched])
    assert "| kron-100x | 10 | 100× | 1 | 99.00 | 94.00 | 93.50 | – | +2.50 |" in text
    assert "| dense | 1,000 | 1× | 1 | 99.00 | 93.00 | 91.00 | 90.00 | |" in text
    assert "* met – kron-100x: 2 points above dense at 100x under aa-fast: +2.50" in text
    assert "| dense | 92.00 |" in text
