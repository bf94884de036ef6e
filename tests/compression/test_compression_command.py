"""``sepdeploy compress``: the table first, files afterwards, one line for wrong use."""

import json

import pytest
import torch

import sepdeploy as sd
from sepdeploy import data
from sepdeploy.cli import run
from sepdeploy.errors import BadInput
from sepdeploy.models import create, load, save
from sepdeploy.training import load_recipe

PROVENANCE = {"data": "digits", "objective": "pgd-at", "eps": 0.07, "norm": "linf", "steps": 2,
              "accuracy": {"test_clean": 0.9, "test_robust": 0.5}}  # fmt: skip


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    model = create("mlp", data.load("digits").input, 10, hidden=(64, 64))
    model.provenance.update(PROVENANCE)
    save(model, tmp_path / "big.pt")
    return tmp_path / "big.pt"


def test_a_dry_run_shows_the_plan_and_writes_nothing(trained, capsys):
    assert (
        run(["compress", str(trained), "--structure", "kron", "--target", "4x", "--dry-run"]) == 0
    )
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["layer", "structure", "params", "of", "error"]
    assert "the classifier stays dense unless it is named" in out
    assert "nothing was written" in err
    assert [p.name for p in trained.parent.iterdir()] == ["big.pt"]


def test_projected_and_saved(trained, capsys):
    assert run(["compress", str(trained), "--target", "4x", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["schema"] == "sepdeploy.compress/1"
    assert found["params"] <= found["limit"] == found["params_before"] // 4
    assert "not fine-tuned" in err
    small = load(trained.with_name("big-kron.pt"))
    assert small.params == found["params"] == sum(x["params"] for x in found["layers"])
    assert "accuracy" not in small.provenance  # it was the large one's
    assert small.provenance["compressed"]["source_accuracy"] == PROVENANCE["accuracy"]
    assert small.provenance["eps"] == 0.07


def test_fine_tuned_with_what_the_model_was_trained_with(trained):
    recipe = trained.with_name("tune.toml")
    recipe.write_text("epochs = 1\nsteps = 1\nthreads = 1\nbatch-size = 256\n")
    plans = []
    summary = sd.compress(
        trained, structure="lowrank", target="3x", finetune=recipe, seed=4, on_plan=plans.append
    )
    assert [p.model for p in plans] == [""]
    model = load(summary.model)
    assert (model.provenance["eps"], model.provenance["steps"]) == (0.07, 1)
    assert model.provenance["recipe"]["seed"] == 4
    assert model.provenance["accuracy"]["test_robust"] is not None
    assert model.provenance["compressed"]["target"] == "3x"
    assert summary.params == model.params < plans[0].params_before / 3
    again = sd.compress(
        trained, structure="lowrank", target="3x", finetune=recipe, seed=4, resume=True
    )
    assert again.provenance == summary.provenance


def test_the_summary_has_the_ranks_that_fine_tuning_found(trained):
    recipe = trained.with_name("tune.toml")
    recipe.write_text("epochs = 1\nsteps = 1\nthreads = 1\nrank-tolerance = 0.4\nrank-frozen = 0\n")
    plans = []
    summary = sd.compress(
        trained, structure="lowrank", target="3x", finetune=recipe, on_plan=plans.append
    )
    model = load(summary.model)
    records = {record.name: record for record in model.layer_records()}
    for layer in summary.layers:
        record = records[layer.name]
        assert (layer.params, layer.macs) == (record.params, record.macs)
        if layer.structure != "dense":
            assert layer.structure == f"lowrank:{record.spec['rank']}"
    assert summary.params == sum(x.params for x in summary.layers) < plans[0].params
    assert summary.macs == sum(x.macs for x in summary.layers) < plans[0].macs


def test_a_form_for_all_layers_is_taken_where_it_pays(trained, capsys):
    words = ["compress", str(trained), "--structure", "lowrank:40"]  # 40·(64 + 64) > 64·64
    assert run([*words, "-o", str(trained.with_name("same.pt"))]) == 0
    out, err = capsys.readouterr()
    assert out.count("no form of it is smaller without computing more") == 2
    assert "no layer was changed" in err
    assert "not fine-tuned" not in err
    for named in (["fc1=lowrank:40"], ["lowrank:40", "--layers", "fc1"]):
        assert run(["compress", str(trained), "--dry-run", "--structure", *named]) == 0
        assert "lowrank:40" in capsys.readouterr().out  # its owner wants it


def test_what_held_for_the_source_alone_is_not_inherited(trained):
    model = load(trained)
    model.provenance["sparsity"] = 0.9
    save(model, trained)
    summary = sd.compress(trained, target="2x", out=trained.parent / "new folder" / "small.pt")
    assert "sparsity" not in load(summary.model).provenance


def test_the_result_of_another_start_is_no_result(trained, capsys):
    recipe, out = trained.with_name("tune.toml"), trained.with_name("small.pt")
    recipe.write_text("epochs = 1\nsteps = 1\nthreads = 1\nbatch-size = 256\n")
    tune = ["--structure", "lowrank", "--finetune", str(recipe), "-o", str(out)]
    assert run(["compress", str(trained), "--target", "2x", *tune]) == 0
    old = out.read_bytes()
    capsys.readouterr()
    assert run(["compress", str(trained), "--target", "3x", *tune, "--resume"]) == 2
    assert "changed: the weights it starts from" in capsys.readouterr().err
    assert out.read_bytes() == old


def test_the_file_beats_defaults(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("eps = 0.2\n")
    found = load_recipe(recipe, {"seed": 3}, defaults={"eps": 0.1, "steps": 9, "seed": 1})
    assert (found.eps, found.steps, found.seed) == (0.2, 9, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "900x"], "the best reachable is"),
        ([], "there is no target"),
        (["--structure", "kron:8x8-8x7"], "the layer is 64 → 64"),
        (["--target", "2x", "--layers", "fc1,,fc2"], "empty name"),
        (["--target", "2x", "-o", "big.pt"], "would overwrite what the command reads"),
        (["--target", "2x", "--finetune", "none.toml"], "none.toml"),
        (["--target", "2x", "--resume"], "--resume needs --finetune"),
        (["--target", "2x", "--data-dir", "."], "--data-dir needs --finetune"),
        (["--structure", "lowrank:4", "--budget", "macs"], "--budget macs needs --target"),
        (["--structure", "fc1=lowrank:4,fc1=lowrank:8"], "names fc1 twice"),
    ],
)
def test_wrong_use(trained, words, message, monkeypatch, capsys):
    monkeypatch.chdir(trained.parent)
    assert run(["compress", "big.pt", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([x for x in lines if x.startswith("error: ")]) == 1
    assert message in "".join(lines)
    assert [p.name for p in trained.parent.iterdir()] == ["big.pt"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('structure = "dense"', "structure"),
        ('target = "2x"', "target"),
        ("hidden = [7, 7]", "hidden"),
        ("conv-rank = 8", "conv_rank"),
        ('arch = "lenet"', "arch"),
    ],
)
def test_a_recipe_that_chooses_another_network(trained, line, key, capsys):
    recipe = trained.with_name("tune.toml")
    recipe.write_text(f"epochs = 1\n{line}\n")
    words = ["--target", "2x", "--finetune", str(recipe)]
    assert run(["compress", str(trained), *words, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "a fine-tuning recipe cannot choose the structure" in error
    assert f"tune.toml sets {key}\n" in error
    assert not trained.with_name("big-kron.pt").exists()


def test_a_recipe_that_names_the_network_as_it_is(trained):
    recipe = trained.with_name("tune.toml")
    recipe.write_text('epochs = 1\narch = "mlp"\n')
    summary = sd.compress(trained, target="2x", finetune=recipe, dry_run=True, seed=3)
    assert summary.params <= summary.limit


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"nonsense")
    with pytest.raises(BadInput):
        sd.compress(tmp_path / "x.pt", target="2x")
