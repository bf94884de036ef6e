"""Parts of a batch, bfloat16, memory layout, compilation, devices: the same training, elsewhere."""

import contextlib
import dataclasses
import functools
import time

import numpy as np
import pytest
import torch
from compared_trainings import relative, same_bits, state, stop_in
from torch import nn

from sepdeploy.data.dataset import Split
from sepdeploy.errors import BadInput, Missing
from sepdeploy.models import create, load
from sepdeploy.records import InputSpec
from sepdeploy.threat import Attack
from sepdeploy.training import checkpoint_path, load_recipe
from sepdeploy.training.checkpoint import read_checkpoint
from sepdeploy.training.descent import steps
from sepdeploy.training.machine import acceleration, batches
from sepdeploy.training.machine.acceleration import Forward, choose_device, moved
from sepdeploy.training.machine.batches import Loader, Part, epoch_order, take_parts
from sepdeploy.training.machine.team import ALONE, Team
from sepdeploy.training.objectives import OBJECTIVES, Row
from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.penalties.matrices import regularized_matrices
from sepdeploy.training.penalties.regularizers import TERMS, penalty
from sepdeploy.training.recipe.fields import Recipe

ONE = {"epochs": 1, "batch_size": 128, "steps": 3, "lr": 0.004}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 4, "objective": "mart"},
        {"precision": "bf16", "ema": 0.9, "condition": 0.01},
        {"accumulate": 2, "precision": "bf16", "prune": "hydra", "objective": "trades"},
        {"channels_last": True, "arch": "lenet", "hidden": "", "structure": "", "steps": 1},
    ],
)
def test_interrupted_trainings_resume_to_the_same_bits(resumed_and_whole, changes):
    _, whole = resumed_and_whole((2, 3), **{"epochs": 2, "steps": 2} | changes)
    assert all(p.is_contiguous() for p in whole.model.parameters())
    assert all(p.dtype == torch.float32 for p in whole.model.parameters())


@pytest.mark.parametrize("changes", [{"norm": "l2", "eps": 1.0, "condition": 0.1}, {"steps": 5}])
@pytest.mark.parametrize("parts", [2, 5])
def test_parts_of_a_batch_make_the_step_of_the_whole(train, changes, parts):
    one, many = train("one", **ONE | changes), train("many", **ONE | changes, accumulate=parts)
    assert relative(one.model, many.model) < 1e-6
    assert many.history[0]["loss"] == pytest.approx(one.history[0]["loss"], rel=1e-5)


def test_a_step_sees_its_parts_one_after_the_other(train, monkeypatch):
    sizes = []
    plain = OBJECTIVES["natural"]
    monkeypatch.setitem(
        steps.OBJECTIVES,
        "natural",
        Row(lambda m, b, a: (sizes.append(len(b.ids)), plain(m, b, a))[1], robust=False),
    )
    train(**ONE | {"batch_size": 300}, accumulate=4, objective="natural")
    assert sizes[:8] == [75] * 8
    assert sum(sizes) == 1311
    assert len(sizes) == 5 * 4


def test_ranks_adapt_in_parts_of_a_batch(train):
    result = train(structure="lowrank:12", rank_tolerance=0.3, accumulate=2, epochs=2)
    ranks = result.history[-1]["ranks"]
    assert any(r != [12] for r in ranks.values())


def test_parts_cover_a_batch_once_whoever_takes_them():
    split = Split(np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1), np.zeros(20, np.int64),
                  np.arange(20) + 100)  # fmt: skip
    index = torch.tensor([7, 3, 11, 0, 19])
    for world, accumulate in [(1, 1), (2, 1), (1, 3), (2, 2), (3, 3)]:
        recipe = Recipe(accumulate=accumulate, batch_size=16)
        teams = [Team(rank, world) for rank in range(world)]
        shares = [take_parts(recipe, split, index, 0, team) for team in teams]
        assert {len(share) for share in shares} == {accumulate}
        parts = [part for share in shares for part in share]
        real = [part for part in parts if part.weight]
        assert torch.cat([part.batch.ids for part in real]).tolist() == (index + 100).tolist()
        assert sum(part.weight for part in parts) == pytest.approx(1)
        assert all(part.weight == len(part.batch.ids) / 5 for part in real)
        assert all(len(part.batch.ids) == 1 for part in parts if not part.weight)


def test_the_loader_prepares_what_would_be_prepared_at_once():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, 50), np.arange(50))
    recipe = Recipe(augment="crop-flip", batch_size=16, accumulate=2, seed=4)
    order = epoch_order(recipe, 3, 50)
    threads = torch.get_num_threads()
    ahead = list(Loader(recipe, split, ALONE).steps(order, 3, 1))
    assert torch.get_num_threads() == threads
    now = [take_parts(recipe, split, order[at : at + 16], 3) for at in (16, 32, 48)]
    assert len(ahead) == 3
    for got, want in zip(ahead, now, strict=True):
        for one, other in zip(got, want, strict=True):
            assert one.weight == other.weight
            for field in dataclasses.fields(Batch):
                assert torch.equal(getattr(one.batch, field.name), getattr(other.batch, field.name))


def test_the_loader_works_ahead_and_reports_its_failures(monkeypatch):
    made = []

    def parts(recipe, split, index, epoch, team):
        made.append(int(index[0]))
        if index[0] == 4:
            raise BadInput("no such image", hint="do this")
        return [Part(None, 1.0)]

    monkeypatch.setattr(batches, "take_parts", parts)
    steps_taken = Loader(Recipe(batch_size=2), None, ALONE).steps(torch.arange(8), 0, 0)
    next(steps_taken)
    for _ in range(1000):
        if len(made) > 1:
            break
        time.sleep(0.005)
    assert made == [0, 2]  # the second is made although only the first was asked for
    next(steps_taken)
    with pytest.raises(BadInput, match="no such image"):
        next(steps_taken)


def bf16_model(structure="kron"):
    torch.manual_seed(0)
    return create("mlp", InputSpec((1, 8, 8)), 10, structure=structure, hidden=(64, 36))


@pytest.mark.parametrize("structure", ["kron", "lowrank:8", "dense"])
def test_bf16_computes_in_bf16_and_answers_in_float32(structure):
    model = bf16_model(structure)
    seen = []
    for module in model.modules():
        if type(module).__name__ in ("KronLinear", "LowRankLinear", "Linear"):
            module.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    images = torch.rand(16, 1, 8, 8)
    logits = Forward(model, bf16=True, channels_last=False)(images)
    assert logits.dtype == torch.float32
    assert torch.bfloat16 in seen
    exact = model(images)
    assert not torch.equal(logits, exact)
    assert (logits - exact).norm() < 0.03 * exact.norm()
    logits.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_what_runs_without_gradients_leaves_nothing_behind_in_bf16():
    # a copy of a weight that autocast made without gradients must not be used with them
    images = torch.rand(16, 1, 8, 8)
    gradients = []
    for before in (False, True):
        model = bf16_model("dense")
        form = Forward(model, bf16=True, channels_last=False)
        if before:
            with torch.no_grad():
                form(images)
        form(images).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(g is not None for g in gradients[1].values())
    assert same_bits(*gradients)


def test_penalties_and_losses_stay_out_of_bf16(train, monkeypatch):
    seen = []

    def watched(matrices, coefficients):
        seen.append((torch.is_autocast_enabled("cpu"), next(iter(matrices.values()))[0].dtype))
        return penalty(matrices, coefficients)

    monkeypatch.setattr(steps, "penalty", watched)
    half = train("half", **ONE, precision="bf16", condition=0.1)
    full = train("full", **ONE, condition=0.1)
    assert set(seen) == {(False, torch.float32)}
    assert half.history[0]["loss"] == pytest.approx(full.history[0]["loss"], rel=0.02)
    assert half.history[0]["loss"] != full.history[0]["loss"]
    assert half.history[0]["penalty"] == pytest.approx(full.history[0]["penalty"], rel=0.02)


def test_channels_last_trains_the_same_network(train):
    common = ONE | {"arch": "lenet", "hidden": "", "structure": "", "steps": 1}
    seen = []

    def watch(event):
        if event.kind == "step":
            kept = read_checkpoint(checkpoint_path(train.folder / "last.pt"))
            seen.append(kept.step)

    plain = train("plain", **common)
    last = train("last", **common, channels_last=True, watch=watch, every=0)
    assert 0 < relative(plain.model, last.model) < 1e-4
    assert seen
    assert all(p.is_contiguous() for p in load(last.path).parameters())


def test_layouts_reach_the_convolutions():
    layouts = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    from sepdeploy.models import wrap

    model = wrap(net, (3, 8, 8))
    net[0].register_forward_hook(
        lambda m, i, o: layouts.append(i[0].is_contiguous(memory_format=torch.channels_last))
    )
    acceleration.place(model, Recipe(channels_last=True), torch.device("cpu"))
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    Forward(model, bf16=False, channels_last=True)(torch.rand(2, 3, 8, 8))
    assert layouts == [True]
    acceleration.bring_back(model)
    assert net[0].weight.is_contiguous()


@pytest.fixture
def quick_compiler(monkeypatch):
    """torch.compile without its code generator, which takes a minute."""
    torch._dynamo.reset()
    compiled = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compiled)
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_training_is_the_same_training(train, quick_compiler):
    common = ONE | {"batch_size": 600}
    plain = train("plain", **common)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", **common, compile=True, watch=stop_in(1, 2), every=0)
    resumed = train("stopped", **common, compile=True, resume=True)
    assert "resuming in epoch 1, step 2" in [e.message for e in train.events]
    assert same_bits(state(plain.model), state(resumed.model))
    assert resumed.history == plain.history


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # what the compiler itself uses
def test_a_training_through_the_real_compiler(train):
    torch._dynamo.reset()
    plain = train("plain", **ONE, norm="l2", eps=1.0)
    compiled = train("compiled", **ONE, norm="l2", eps=1.0, compile=True)
    assert relative(plain.model, compiled.model) < 1e-4


def test_a_compiler_that_fails_is_one_line(train, monkeypatch):
    class Broken(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            raise RuntimeError("no C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", Broken)
    with pytest.raises(BadInput, match=r"torch\.compile fails here: no C\+\+ compiler found$"):
        train(compile=True)


def test_devices(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(Recipe()) == choose_device(Recipe(accelerator="cpu"), 3) == cpu
    with pytest.raises(Missing, match="sees no GPU"):
        choose_device(Recipe(accelerator="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert choose_device(Recipe(accelerator="cpu")) == cpu
    assert choose_device(Recipe(), 1) == torch.device("cuda", 1)
    with pytest.raises(Missing, match="process 2 of this machine has no GPU"):
        choose_device(Recipe(), 2)
    with pytest.raises(Missing, match="no bf16"):
        choose_device(Recipe(precision="bf16"))


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["kron", "lowrank:6"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("objective", ["natural", "pgd-at", "trades", "fr", "sar"])
def test_everything_follows_the_device_of_its_batch(structure, norm, objective, monkeypatch):
    # tensors without storage refuse to meet those of another device, as a GPU's do; autocast,
    # which moves nothing, does not know them
    monkeypatch.setattr(torch, "autocast", lambda *a, **kw: contextlib.nullcontext())
    # and have no values to ask: every "is any gradient odd, any logit saturated" is a yes
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)
    meta = torch.device("meta")
    model = bf16_model(structure).to(meta)
    batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4), torch.arange(4)).to(meta)
    attack = Terms(Attack("pgd-2", 0.1, norm, seed=3, step_size=0.05))
    loss = OBJECTIVES[objective](model, batch, attack)
    matrices = regularized_matrices(model.net, "all")
    (loss + penalty(matrices, dict.fromkeys(TERMS, 1.0))).backward()
    assert {p.grad.device for p in model.parameters()} == {meta}
    with pytest.raises((RuntimeError, NotImplementedError)):
        OBJECTIVES["natural"](model, Batch(torch.rand(4, 1, 8, 8), batch.labels, batch.ids), attack)


def test_states_are_moved_whole():
    state = {"state": {0: {"step": torch.tensor(3.0)}}, "betas": (0.9, [torch.zeros(2)]), "n": 1}
    there = moved(state, torch.device("meta"))
    assert there["state"][0]["step"].is_meta
    assert there["betas"][1][0].is_meta
    assert isinstance(there["betas"], tuple)
    assert (there["betas"][0], there["n"]) == (0.9, 1)
    assert not state["state"][0]["step"].is_meta


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "gpu"}, "unknown accelerator 'gpu'"),
        ({"precision": "fp16"}, "closest: "),
        ({"accumulate": 0}, "accumulate = 0 is outside"),
        ({"accumulate": 65, "batch_size": 64}, "into more parts than they have"),
        ({"accumulate": 2, "objective": "fr"}, "mixes the images of a batch"),
        ({"compile": True, "rank_tolerance": 0.1}, "exclude each other"),
        ({"compile": True, "objective": "sar", "align_on": "features"}, "no feature maps"),
        ({"channels_last": "perhaps"}, "is not true or false"),
    ],
)
def test_what_a_recipe_cannot_ask_for(changes, message):
    with pytest.raises(BadInput, match=message):
        load_recipe(None, changes)
