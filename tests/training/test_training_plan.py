import math

import pytest

from sepdeploy.compression import factorize_convolutions
from sepdeploy.errors import BadInput
from sepdeploy.models import create
from sepdeploy.models.checkpoint import linear_specs
from sepdeploy.records import InputSpec
from sepdeploy.training import load_recipe
from sepdeploy.training.plan_widths import MACS_SHARE, WIDTH_PER_RANK, plan_network

CIFAR, MNIST, DIGITS = InputSpec((3, 32, 32)), InputSpec((1, 28, 28)), InputSpec((1, 8, 8))


def plan(input=MNIST, **values):
    return plan_network(load_recipe(None, values), input, 10)


def build(plan, input=MNIST, arch="mlp"):
    return create(arch, input, 10, structure=plan.structure, **plan.options)


def macs(model):
    return sum(spec.macs for spec in linear_specs(model.net).values())


@pytest.mark.parametrize("input", [MNIST, DIGITS])
@pytest.mark.parametrize("target", ["5x", "10x", "30x", "100x", "200x", "50000"])
@pytest.mark.parametrize("structure", ["kron", "dense"])
def test_plans_keep_the_budget_and_use_it(input, target, structure):
    dense = create("mlp", input, 10)
    limit = dense.params / float(target[:-1]) if target[-1] == "x" else float(target)
    found = plan(input, structure=structure, target=target)
    model = build(found, input)
    assert model.params == found.params <= limit
    assert macs(model) <= MACS_SHARE * macs(dense)
    # the next larger width breaks the budget or is too slow
    sizes = found.options["hidden"]
    dense_step, mode_step = 8, 8
    wider = tuple(
        h + dense_step if structure == "dense" else (round(h**0.5) + mode_step) ** 2 for h in sizes
    )
    bigger = create("mlp", input, 10, structure=found.structure, hidden=wider)
    assert bigger.params > limit or macs(bigger) > MACS_SHARE * macs(dense)


@pytest.mark.parametrize("input", [MNIST, DIGITS])
@pytest.mark.parametrize("target", ["3x", "10x", "30x", "50x", "100x", "200x", "500x"])
def test_low_rank_plans_choose_widths_and_ranks(input, target):
    found = plan(input, structure="lowrank", target=target)
    widths, rank = found.options["hidden"], int(found.structure.removeprefix("lowrank:"))
    limit = create("mlp", input, 10).params / float(target[:-1])
    assert build(found, input).params == found.params <= limit

    def params(width, rank):  # U, V and bias of both layers, the dense head
        return rank * (input.features + 3 * width) + 12 * width + 10

    width = widths[0]
    assert widths == (width, width)
    assert found.params == params(width, rank)
    assert params(width, rank + 1) > limit or rank == min(input.features, width)
    wider = width + (8 if width >= 32 else 2)
    assert width == 1024 or params(wider, max(1, round(wider / WIDTH_PER_RANK))) > limit
    assert width / 32 <= rank + 1  # no wide net of a starved rank


def test_low_rank_plans_leave_given_widths():
    found = plan(structure="lowrank", target="50x", hidden="1024,1024")
    assert (found.structure, found.options) == ("lowrank:6", {"hidden": (1024, 1024)})


def test_plans_are_wide_first_and_narrow_last():
    found = plan(target="100x")
    assert (found.structure, found.hidden) == ("kron+sumbias", (64 * 64, 32 * 32))
    # 64·28 + 64·28 and 64 + 64 of the bias, 32·64 + 32·64 and 32 + 32, and the dense classifier
    assert found.params == 3584 + 128 + 4096 + 64 + 10_250
    assert found.message == (
        "planned kron+sumbias, hidden [4096, 1024]: 18,122 parameters, "
        "102.8x fewer than dense 1,863,690"
    )


@pytest.mark.parametrize("input", [MNIST, DIGITS])
@pytest.mark.parametrize("times", [30, 100, 200, 340])
def test_a_planned_taper_is_a_half_or_a_little_more_of_the_budget(input, times):
    found = plan(input, target=f"{times}x")
    first, last = (math.isqrt(width) for width in found.hidden)
    assert found.hidden == (first**2, last**2)
    assert 2 * last <= first <= 2.5 * last
    dense = create("mlp", input, 10)
    if macs(build(found, input)) < 0.8 * MACS_SHARE * macs(dense):  # time is not what stops it
        assert found.params > 0.9 * dense.params / times


def test_terms_and_given_widths_are_planned_as_asked():
    assert plan(target="100x", structure="kron*2").structure == "kron*2"
    kept = plan(target="50x", hidden="1024,1024")
    assert (kept.structure, kept.hidden) == ("kron", (1024, 1024))


def test_without_a_target_nothing_is_planned():
    found = plan(structure="kron")
    assert (found.structure, found.options, found.message) == ("kron", {}, "")
    assert plan().structure == "dense"
    assert plan(hidden="5,6").options == {"hidden": (5, 6)}


def test_mixed_structures_are_planned_by_rank():
    found = plan(structure="fc1=kron,fc2=lowrank", target="10x")
    assert found.structure["fc1"] == "kron"
    assert found.structure["fc2"].startswith("lowrank:")
    assert build(found).params <= 186_369


def test_explicit_shapes_spell_out_the_widths():
    found = plan(structure="kron:28x28-64x64,kron:64x64-32x32*2")
    assert found.options == {"hidden": (4096, 1024)}
    assert build(found).params < 40_000
    assert plan(structure="fc2=kron:64x64-32x32").options == {}


def test_explicit_shapes_are_no_widths_where_a_network_has_none():
    found = plan(arch="lenet", structure="fc1=kron:16x25-16x8,fc2=kron:16x8-8x8")
    assert found.options == {}
    assert build(found, arch="lenet").params < 61_482


def test_given_widths_are_kept():
    assert plan(target="10x", hidden="1024,1024").options == {"hidden": (1024, 1024)}
    with pytest.raises(BadInput, match="smallest reachable is 1,863,690"):
        plan(target="10x", hidden="1024,1024", structure="dense")


def test_the_classifier_is_factored_only_where_nothing_else_fits():
    kept = plan(target="100x", hidden="1024,1024")
    assert kept.structure == "kron"
    found = plan(target="200x", hidden="1024,1024")
    assert found.structure == {"*": "kron", "head": "kron*4"}
    model = build(found)
    # 2·28·32 + 2·32·32 and 2·1024 biases, and 4·(2 + 5)·32 + 10 of the classifier
    assert model.params == found.params == 1792 + 2048 + 2048 + 896 + 10
    with pytest.raises(BadInput, match="the smallest reachable is 6,794"):
        plan(target="300x", hidden="1024,1024")


def test_an_architecture_without_widths():
    found = plan(arch="lenet", target="10x")
    assert build(found, arch="lenet").params == found.params <= 6148
    ranked = plan(arch="lenet", structure="lowrank", target="10x")
    assert build(ranked, arch="lenet").params <= 6148


@pytest.mark.parametrize(
    ("values", "input"),
    [
        ({"arch": "lenet", "structure": "lowrank", "conv_rank": 8, "target": "4x"}, MNIST),
        ({"arch": "lenet", "conv_rank": 3, "target": "10x"}, MNIST),
        ({"arch": "resnet20", "structure": "lowrank", "conv_rank": 8, "target": "4x"}, CIFAR),
        ({"arch": "resnet20", "conv_rank": 8, "target": "4x"}, CIFAR),
    ],
)
def test_factored_convolutions_are_counted(values, input):
    found = plan(input, **values)
    arch, rank = values["arch"], values["conv_rank"]
    model = build(found, input, arch)
    limit = model.params_dense // int(values["target"][:-1])
    assert factorize_convolutions(model.net, rank)
    assert model.params == found.params <= limit
    assert f"conv_rank {rank}: {model.params:,} parameters" in found.message
    if arch == "lenet" and "structure" in values:  # and a larger rank would break the budget
        more = int(found.structure.removeprefix("lowrank:")) + 1
        larger = create(arch, input, 10, structure=f"lowrank:{more}")
        factorize_convolutions(larger.net, rank)
        assert larger.params > limit


def test_convolutions_that_do_not_reach_a_target():
    values = {"arch": "resnet20", "structure": "lowrank", "conv_rank": 16}
    model = create("resnet20", CIFAR, 10)
    dense = model.params
    factorize_convolutions(model.net, 16)
    with pytest.raises(BadInput, match=f"smallest reachable is {model.params:,}") as error:
        plan(CIFAR, **values, target="10x")
    assert model.params > dense / 10
    assert "lower conv_rank" in error.value.hint
    for changes in ({"structure": "kron"}, {"conv_rank": 0}):
        with pytest.raises(BadInput, match="no linear layer besides its classifier"):
            plan(CIFAR, **values | changes, target="2x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"target": "100000x"},
            r"no plan has at most 18 parameters; the smallest reachable is [\d,]+ \([\d.]+x\)",
        ),
        ({"target": "10x", "structure": "lowrank:300"}, "no plan has at most 186,369"),
        ({"target": "10x", "arch": "mypackage:net"}, "cannot be planned"),
        ({"target": "10x", "structure": "kro"}, "unknown structure"),
        ({"structure": "fc1=kron,fc2=lowrank"}, "leaves its rank open and there is no target"),
    ],
)
def test_unreachable_budgets(values, message):
    with pytest.raises(BadInput, match=message):
        plan(**values)
