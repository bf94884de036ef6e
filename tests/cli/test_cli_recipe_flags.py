"""Every key of a recipe can be given on the command line, and the help stays readable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sepdeploy import api
from sepdeploy.commands.train import recipe_values
from sepdeploy.errors import BadInput
from sepdeploy.settings import settings
from sepdeploy.training import load_recipe
from sepdeploy.training.recipe.fields import PENALTIES, Recipe

FIELDS = [f.name for f in dataclasses.fields(Recipe)]
NEEDS = Recipe.needs()
PANELS = list(dict.fromkeys(s.panel for s in settings(Recipe).values()))
ROOT = Path(__file__).resolve().parents[2]
VALUES = {
    "hidden": ("12,13", (12, 13)), "structure": ("kron", "kron"), "target": ("10x", "10x"),
    "objective": ("mart", "mart"), "eps": ("8/255", 8 / 255), "norm": ("l2", "l2"),
    "inner": ("kl", "kl"), "align_axes": ("class", "class"), "align_on": ("features", "features"),
    "optimizer": ("sgd", "sgd"), "schedule": ("cosine", "cosine"), "regularize": ("all", "all"),
    "augment": ("flip", "flip"), "prune": ("magnitude", "magnitude"), "data_dir": ("here", "here"),
    "accelerator": ("cpu", "cpu"), "precision": ("bf16", "bf16"), "validation": ("0.25", 0.25),
    "ema": ("0.5", 0.5), "momentum": ("0.25", 0.25), "sparsity": ("0.25", 0.25),
    "prune_scope": ("network", "network"), "lr_scale": ("fc1.*=2", "fc1.*=2"),
    "rank_tolerance": ("0.25", 0.25), "arch": ("lenet", "lenet"), "data": ("mnist", "mnist"),
}  # fmt: skip


@pytest.fixture
def read(call, monkeypatch: pytest.MonkeyPatch):
    """Read a command line down to the recipe it makes."""

    def run(*words: object) -> Recipe:
        seen: list[Recipe] = []

        def train(recipe, *, out, resume, on_progress, **overrides):
            seen.append(load_recipe(recipe, overrides))
            raise BadInput("enough", hint="do this")

        monkeypatch.setattr(api, "train", train)
        got = call("train", *words)
        assert got.line == "error: enough", got.err
        return seen[0]

    return run


def example(name: str) -> tuple[str, object]:
    if name in VALUES:
        return VALUES[name]
    default = getattr(Recipe(), name)
    return ("true", True) if isinstance(default, bool) else ("3", 3)


def effective(name: str) -> list[str]:
    """What gives a key its effect, as words of ``--set``."""
    for other, values in NEEDS.get(name, {}).items():
        return [f"{other}={values[0] if values else example(other)[0]}"]
    return []


def plain(recipe: Recipe, *names: str) -> Recipe:
    """A recipe with the defaults of some keys, and of what these need."""
    every = {*names, *(other for name in names for other in NEEDS.get(name, ()))}
    return dataclasses.replace(recipe, **{name: getattr(Recipe(), name) for name in every})


@pytest.mark.parametrize("name", FIELDS)
def test_every_key_can_be_set(read, name: str) -> None:
    text, value = example(name)
    found = read("--set", f"{name}={text}", *(f"--set={word}" for word in effective(name)))
    assert getattr(found, name) == value
    assert plain(found, name) == Recipe()


@pytest.mark.parametrize("name", [n for n, s in settings(Recipe).items() if s.flag])
def test_every_flag_sets_its_key(read, name: str) -> None:
    text, value = example(name)
    words = [f"--{name.replace('_', '-')}"] if value is True else [
        f"--{name.replace('_', '-')}", text]  # fmt: skip
    found = read(*words, *(f"--set={word}" for word in effective(name)))
    assert getattr(found, name) == value
    assert plain(found, name) == Recipe()


def test_the_command_line_beats_the_file(read, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('swa = true\nlr = 0.5\nobjective = "mart"\nmart_beta = 2\n')
    found = read(path, "--no-swa", "--lr", "0.25", "--set", "mart-beta = 3")
    assert (found.swa, found.lr, found.mart_beta, found.objective) == (False, 0.25, 3.0, "mart")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "mart_betta=4"], "unknown key 'mart_betta'; closest: mart_beta"),
        (["--set", "out=other.pt"], "--set: unknown key 'out'; closest: "),
        (["--set", "on_progress=1"], "--set: unknown key 'on_progress'"),
        (["--set", "mart_beta"], "--set mart_beta is not KEY=VALUE"),
        (["--set", "=4"], "is not KEY=VALUE"),
        (["--set", "swa=perhaps"], "swa = 'perhaps' is not true or false"),
        (["--set", "mart_beta=many"], "mart_beta = 'many' is not a number"),
        (["--set", "lr=1", "--lr", "2"], "'lr' is given twice"),
        (["--set", "seed=1", "--set", "seed=2"], "'seed' is given twice"),
        (["--rank-tolerance", "2"], "not between 0 and 1"),
        (["--seed", "-1"], "seed = -1 is outside"),
        (["--accumulate", "300"], "into more parts"),
        (["--sparsity", "0.9"], "recipe: sparsity is set and prune is not"),
    ],
)
def test_settings_that_are_none(call, tmp_path: Path, words: list[str], message: str) -> None:
    got = call("train", *words, "-o", tmp_path / "m.pt")
    assert got.code == 2
    assert message in got.line
    assert not list(tmp_path.iterdir())


def test_values_keep_what_follows_the_first_equals_sign() -> None:
    assert recipe_values({"arch": None}, ["structure=fc1=kron,fc2=dense"]) == {
        "structure": "fc1=kron,fc2=dense"
    }


def test_the_help_has_headings(call) -> None:
    got = call("train", "--help")
    assert got.code == 0
    lines = got.out.splitlines()
    at = [lines.index(f"{heading}:") for heading in ("Arguments", *PANELS, "Options")]
    assert at == sorted(at)
    assert max(map(len, lines)) <= 80
    section = "\n".join(lines[at[1] : at[2]])
    assert "--structure" in section
    assert "--eps" not in section
    assert "--set KEY=VALUE" in "\n".join(lines[at[-1] :])


def test_the_help_says_what_is_not_obvious(call) -> None:
    text = " ".join(call("train", "--help").out.split())
    assert "kron:aligned" in text
    assert "sar (of no published weight)" in text


def test_the_docs_name_every_key_under_its_heading() -> None:
    listed: dict[str, list[str]] = {}
    for line in (ROOT / "docs/training.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0] in map(str.lower, PANELS):
            listed[cells[0]] = cells[1].replace("`", "").split()
    found = {panel.lower(): [n for n, s in settings(Recipe).items() if s.panel == panel]
             for panel in PANELS}  # fmt: skip
    assert {k: sorted(v) for k, v in listed.items()} == {k: sorted(v) for k, v in found.items()}


def test_every_key_explains_itself_and_every_penalty_has_a_coefficient() -> None:
    from sepdeploy.training.penalties.regularizers import TERMS

    assert all(s.help.endswith((".", "...")) and s.panel for s in settings(Recipe).values())
    assert tuple(TERMS) == PENALTIES
    assert api.train.__doc__ is not None
    assert "mart_beta: Weight of the divergence term of MART. Default: 5.0." in api.train.__doc__
