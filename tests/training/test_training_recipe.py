import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.compression.request import parse_target, structure_map
from sepdeploy.errors import BadInput
from sepdeploy.models import create
from sepdeploy.records import InputSpec
from sepdeploy.structures import grammar
from sepdeploy.training import Recipe, load_recipe
from sepdeploy.training.plan_widths import plan_network
from sepdeploy.training.recipe.named import shipped
from sepdeploy.training.recipe.reading import differences, recipe_from


def write(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_beat_the_file_and_the_file_beats_defaults(tmp_path):
    path = write(
        tmp_path,
        'data = "mnist"\nhidden = [64, 32]\neps = "8/255"\nepochs = 3\nbatch-size = 16\nlr = 1\n',
    )
    recipe = load_recipe(path, {"epochs": 5, "hidden": "10, 20", "seed": None, "eps": None})
    assert recipe == Recipe(
        data="mnist", hidden=(10, 20), eps=8 / 255, epochs=5, batch_size=16, lr=1.0
    )
    assert isinstance(recipe.lr, float)


def test_defaults_need_no_file():
    assert load_recipe() == Recipe()


def test_a_table_of_structures(tmp_path):
    path = write(tmp_path, '[structure]\nfc1 = "kron:28x28-64x64"\nfc2 = "lowrank:40"\n')
    recipe = load_recipe(path)
    assert structure_map(recipe.structure) == {"fc1": "kron:28x28-64x64", "fc2": "lowrank:40"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kron", "kron"),
        ("kron:28x28-64x64*2", "kron:28x28-64x64*2"),
        ("kron,lowrank:4", {"fc1": "kron", "fc2": "lowrank:4"}),
        ("fc2=kron, head=lowrank:4", {"fc2": "kron", "head": "lowrank:4"}),
        ("fc*=kron", {"fc*": "kron"}),
    ],
)
def test_structures(text, expected):
    assert structure_map(text) == expected


def test_recipes_survive_json():
    recipe = Recipe(hidden=(7, 8), structure="fc1=kron", eps=8 / 255, objective="trades")
    assert recipe_from(recipe.to_json(), where="x") == recipe


def test_unknown_keys_get_three_suggestions(tmp_path):
    path = write(tmp_path, 'objectiv = "natural"\n')
    with pytest.raises(BadInput) as error:
        load_recipe(path)
    assert "recipe.toml: unknown key 'objectiv'; closest: objective, " in error.value.message
    assert error.value.message.count(",") == 2
    assert "trades_beta" in error.value.hint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "pgdat"}, "unknown objective 'pgdat'; closest: pgd-at"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; closest: adamw"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; closest: cosine"),
        ({"norm": "l8"}, "unknown norm"),
        ({"eps": "8/0"}, "eps"),
        ({"eps": -1}, "eps"),
        ({"epochs": 0}, "epochs = 0 is outside"),
        ({"epochs": 2.5}, "epochs = 2.5 is not a whole number"),
        ({"epochs": True}, "epochs = True is not a whole number"),
        ({"epochs": "many"}, "epochs = 'many' is not a whole number"),
        ({"lr": float("nan")}, "lr = nan is outside"),
        ({"lr": True}, "lr = True is not a number"),
        ({"batch_size": -4}, "batch_size = -4"),
        ({"validation": 1.0}, "validation = 1.0"),
        ({"validation": 0}, "validation = 0.0"),
        ({"hidden": "12,x"}, "hidden = '12,x' is not a list of widths"),
        ({"hidden": [1.5]}, "is not a list of widths"),
        ({"hidden": [0]}, r"hidden widths \[0\]"),
        ({"data": 3}, "data = 3 is not a text"),
        ({"target": "tenx"}, "target 'tenx' is no budget"),
        ({"target": "0.5x"}, "no budget"),
        ({"structure": "kron,,kron"}, "empty part"),
        ({"seed": -1}, "seed = -1"),
        ({"condition": -0.1}, "condition"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(BadInput, match=message) as error:
        load_recipe(None, values)
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("values", "lacking"),
    [
        ({"sparsity": 0.9}, "prune is not"),
        ({"prune_start": 1, "rank_tolerance": 0.1}, "prune is not"),
        ({"prune_scope": "network"}, "prune is not"),
        ({"prune_classifier": True}, "prune is not"),
        ({"prune_epochs": 3, "prune": "magnitude"}, 'prune is not "hydra"'),
        ({"rank_max": 5}, "rank_tolerance is not"),
        ({"rank_every": 5, "structure": "lowrank"}, "rank_tolerance is not"),
        ({"rank_frozen": 5}, "rank_tolerance is not"),
        ({"average_start": 2, "patience": 3}, "ema is not and swa is not"),
        ({"trades_beta": 3}, 'objective is not "trades"'),
        ({"mart_beta": 3, "objective": "trades"}, 'objective is not "mart"'),
        ({"align_weight": 3, "objective": "mart"}, 'objective is not "fr" or "sar"'),
        ({"align_start": 3}, 'objective is not "fr" or "sar"'),
        ({"align_axes": "class", "objective": "sar"}, 'objective is not "fr"'),
        ({"align_on": "features", "objective": "fr"}, 'objective is not "sar"'),
        ({"inner": "fgsm", "objective": "natural"}, 'objective is not "pgd-at" or "trades"'),
        ({"eps_warmup": 2, "objective": "natural"}, 'objective is not "pgd-at" or "trades"'),
        ({"momentum": 0.5}, 'optimizer is not "sgd"'),
        ({"regularize": "all"}, "condition is not and logdet is not"),
    ],
)
def test_keys_without_effect(values, lacking):
    name, *_ = values
    with pytest.raises(BadInput) as error:
        load_recipe(None, values)
    assert error.value.message.startswith(f"recipe: {name} is set and {lacking}")
    assert error.value.hint.startswith(f"leave {name} out, or set ")
    stored = recipe_from(values, where="a model of before")
    assert recipe_from(stored.to_json(), where="x") == stored


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"epochs": 3, "ema": 0.9, "average_start": 3},
            "average_start = 3 of 3 epochs: no",
        ),
        ({"epochs": 3, "objective": "fr", "align_start": 9}, "the spectral term never sets in"),
        ({"epochs": 3, "eps_warmup": 3}, "the attack never reaches its radius"),
    ],
)
def test_keys_that_count_more_epochs_than_there_are(values, message):
    with pytest.raises(BadInput, match=message):
        load_recipe(None, values)
    name = list(values)[-1]
    assert getattr(load_recipe(None, values | {name: 2}), name) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"average_start": 2, "swa": True},
        {"average_start": 2, "ema": 0.9},
        {"align_weight": 3, "align_axes": "class", "objective": "fr"},
        {"prune_epochs": 2, "prune": "hydra"},
        {"momentum": 0, "optimizer": "sgd"},
        {"inner": "fgsm", "steps": 3, "step_size": 0.1},  # of the attack that validates
        {"objective": "natural", "eps": 0.3, "norm": "l2", "steps": 3, "step_size": 0.1},
        {"sparsity": 0.5, "rank_frozen": 1, "trades_beta": 6},  # what they are anyway
    ],
)
def test_keys_with_an_effect(values):
    recipe = load_recipe(None, values)
    assert {name: getattr(recipe, name) for name in values} == values


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(BadInput, match=r"no\.toml"):
        load_recipe(tmp_path / "no.toml")
    with pytest.raises(BadInput, match="is not valid TOML"):
        load_recipe(write(tmp_path, "epochs = = 3"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is no TOML: it is no text"):
        load_recipe(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("10x", ("ratio", 10.0)), ("2.5X", ("ratio", 2.5)), ("50000", ("params", 5e4))],
)
def test_targets(text, expected):
    assert parse_target(text) == expected


def test_a_number_of_parameters_may_be_a_number(tmp_path):
    assert load_recipe(write(tmp_path, "target = 50000\n")).target == "50000"


@given(st.sampled_from([f.name for f in dataclasses.fields(Recipe)]))
def test_differences_name_every_field_but_the_free_ones(name):
    old = Recipe()
    values = {
        "arch": "lenet", "data": "mnist", "data_dir": "/x", "hidden": (3,), "structure": "kron",
        "target": "10x", "objective": "natural", "eps": 0.5, "norm": "l2", "optimizer": "sgd",
        "schedule": "constant", "validation": 0.2, "momentum": 0.5, "regularize": "all",
        "inner": "kl", "align_axes": "class",
        "align_on": "features", "ema": 0.5, "swa": True, "rank_tolerance": 0.1, "mart_beta": 4,
        "augment": "flip", "prune": "magnitude", "sparsity": 0.7, "prune_scope": "network",
        "accelerator": "cpu", "precision": "bf16", "channels_last": True, "compile": True,
    }  # fmt: skip
    new = dataclasses.replace(old, **{name: values.get(name, 5)})
    lines = differences(old, new)
    if name in ("data_dir", "threads", "accelerator"):
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith(f"{name}: ")


def test_derived_values():
    recipe = Recipe(eps=0.1, steps=7)
    assert recipe.attack_step == pytest.approx(0.025)
    assert Recipe(step_size=0.01).attack_step == 0.01
    assert recipe.robust
    assert not Recipe(objective="natural").robust
    assert not Recipe(eps=0.0).robust
    assert Recipe(optimizer="sgd").peak_lr > Recipe(optimizer="adamw").peak_lr
    assert Recipe(lr=0.5).peak_lr == 0.5


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_found_by_name(name):
    recipe = load_recipe(name)
    assert name.startswith(recipe.data)
    assert recipe.robust


@pytest.mark.parametrize(("name", "fewer"), [("mnist-100x", 100), ("mnist-200x", 200)])
def test_a_recipe_is_as_small_as_its_name_says(name, fewer):
    mnist = InputSpec((1, 28, 28))
    plan = plan_network(load_recipe(name), mnist, 10)
    small = create("mlp", mnist, 10, structure=plan.structure, **plan.options)
    assert small.params * fewer <= create("mlp", mnist, 10, hidden=(1024, 1024)).params


def test_a_file_of_that_name_beats_the_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist-100x").write_text("epochs = 3\n")
    assert load_recipe("mnist-100x") == Recipe(epochs=3)
    with pytest.raises(BadInput, match=r"cannot read mnist-100x\.toml"):
        load_recipe("mnist-100x.toml")


def test_an_unknown_name_lists_the_shipped_recipes(call):
    found = call("train", "mnist-10x")
    assert found.code == 2
    assert "unknown recipe 'mnist-10x'; closest: mnist-100x, " in found.line
    for text in (found.err, call("train", "--help").out):
        assert [name for name in shipped() if name not in text] == []


def test_the_guide_names_every_key_and_structure():
    guide = Path(__file__).parents[2].joinpath("docs", "training.md").read_text()
    forms = re.split(r", | or ", grammar())
    assert len(forms) > 5
    assert [form for form in forms if f"`{form}`" not in guide] == []
    assert [f.name for f in dataclasses.fields(Recipe) if f"`{f.name}`" not in guide] == []
