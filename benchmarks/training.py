"""How fast is training with factors, as ratios taken in one run?

``python -m benchmarks.training`` times, one thread and in turns: a Kronecker layer forward and
backward against its own matrix products, against a dense layer and against TensorLy-Torch's layers
where that is installed (``--tensorly FOLDER`` for one outside the environment); a whole step of
PGD adversarial training, Kronecker against dense; and what the changing bases of dynamical
low-rank training add to an epoch. ``--write`` puts the table into docs/training-speed.md.

Exit code 1 where a bar is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import page
from benchmarks.dynamic import dynamic_rows
from benchmarks.ratios import Ratio, table, take_turns
from sepdeploy import __version__
from sepdeploy.attacks.gradient import frozen
from sepdeploy.layers import KronLinear
from sepdeploy.measure import host_facts
from sepdeploy.models import create
from sepdeploy.records import InputSpec, Kind
from sepdeploy.threat import Attack
from sepdeploy.training.objectives import OBJECTIVES
from sepdeploy.training.objectives.batch import Batch, Terms

SIDE, SAMPLES = 64, 128
FEATURES = SIDE * SIDE
TERMS = 8
HIDDEN = (2048, 1024, 1024, 256)
ATTACK = Terms(Attack("pgd-10", 8 / 255, seed=0, step_size=2 / 255))
PRODUCTS = ("mm", "bmm", "addmm", "addbmm", "baddbmm")


def layer_rows(rounds: int) -> Iterator[Ratio]:
    """Yield the rows of one layer of 4096 → 4096, forward and backward."""
    what = f"Kronecker {SIDE}×{SIDE} ⊗ {SIDE}×{SIDE}"
    runs: dict[str, Callable[[], object]] = {
        "own": layer_step(KronLinear((SIDE, SIDE), (SIDE, SIDE))),
        "products": six_products(),
        "terms": layer_step(KronLinear((SIDE, SIDE), (SIDE, SIDE), TERMS)),
        "dense": layer_step(nn.Linear(FEATURES, FEATURES)),
    }
    rivals = list(tensorly_layers())
    runs |= {name: layer_step(layer) for name, layer, _ in rivals}
    times = take_turns(runs, rounds)
    own = times["own"]
    yield Ratio.of(what, "its six matrix products", own, times["products"], at_most=1.6)
    many = f"{what}, {TERMS} terms"
    yield Ratio.of(many, "one term", times["terms"], own, at_most=float(TERMS))
    for name, layer, bar in rivals:
        against = f"TensorLy-Torch {name}, {_count(layer):,} weights"
        yield Ratio.of(what, against, own, times[name], at_least=bar)
    if not rivals:
        yield Ratio(what, "TensorLy-Torch", note="not installed", at_least=1.5)
    yield Ratio.of(what, "dense layer", own, times["dense"], at_least=1.0)


def layer_step(layer: nn.Module) -> Callable[[], None]:
    """Return one forward and backward pass of a layer at batch 128, all gradients."""
    x = torch.randn(SAMPLES, FEATURES, requires_grad=True)
    gradient = torch.randn(SAMPLES, FEATURES)

    def step() -> None:
        x.grad = None
        layer.zero_grad()
        layer(x).backward(gradient)

    return step


def six_products() -> Callable[[], None]:
    """Return the arithmetic of one Kronecker term, forward and backward, and nothing else."""
    X, G = (torch.randn(SAMPLES * SIDE, SIDE) for _ in range(2))
    A, B = (torch.randn(SIDE, SIDE) for _ in range(2))

    def products() -> None:
        t = X @ B.t()
        _ = t @ A.t(), G @ A, G.t() @ t, G.t() @ X, G @ B

    return products


def tensorly_layers() -> Iterator[tuple[str, nn.Module, float | None]]:
    """Yield layers 64×64 → 64×64 of TensorLy-Torch and their bars."""
    try:
        tltorch: Any = importlib.import_module("tltorch")
    except ImportError:
        return
    shape, equal = (SIDE, SIDE), 2 * SIDE**2 / FEATURES**2  # share of the dense layer's weights
    kinds: list[tuple[str, str, float, float | None]] = [
        ("CP", "cp", equal, 1.5),
        ("Tucker", "tucker", equal, 1.5),
        ("CP, rank 64", "cp", 2 * equal, 1.5),
        ("TT, rank 1", "blocktt", 1, None),
    ]
    for name, kind, rank, bar in kinds:
        layer = tltorch.FactorizedLinear(
            shape, shape, factorization=kind, rank=rank, implementation="factorized"
        )
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(0, 0.1)
        yield name, layer, bar


def _count(layer: nn.Module) -> int:
    return sum(p.numel() for name, p in layer.named_parameters() if name != "bias")


class CountedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in PRODUCTS
        return func(*args, **(kwargs or {}))


def counted(layer: nn.Module, *, parameters: bool) -> int:
    """Return the matrix products of a pass for the input's gradient, and the parameters' or not."""
    x = torch.randn(4, FEATURES, requires_grad=True)
    products = CountedProducts()
    with products:
        if parameters:
            layer(x).sum().backward()
        else:
            with frozen(layer):
                layer(x).sum().backward()
    return products.count


def counting_rows() -> Iterator[Ratio]:
    """Yield the row of an attack's pass, which wants the input's gradient only."""
    layer = KronLinear((SIDE, SIDE), (SIDE, SIDE))
    attack, training = (counted(layer, parameters=p) for p in (False, True))
    note = f"{attack} matrix products instead of {training}, {training - attack} for parameters"
    what = "pass for the input's gradient alone"
    yield Ratio(what, "pass for all gradients", note=note, broken_by=attack != 4)


def network_rows(rounds: int) -> Iterator[Ratio]:
    """Yield the row of one PGD-10 training step of an MLP on 3×32×32 images."""
    names = {"kron": "kron", "dense": "dense"}
    runs = {name: network_step(structure) for name, structure in names.items()}
    times = take_turns(runs, max(3, rounds // 3))
    sizes = "–".join(map(str, (3072, *HIDDEN, 10)))
    what = f"PGD-10 training step, mlp {sizes}, Kronecker"
    yield Ratio.of(what, "the same, dense", times["kron"], times["dense"], at_least=3.0)


def network_step(structure: str) -> Callable[[], None]:
    """Return one step of adversarial training: attack, backward pass, optimiser."""
    torch.manual_seed(0)
    model = create("mlp", InputSpec((3, 32, 32)), 10, structure=structure, hidden=HIDDEN)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = random_batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = OBJECTIVES["pgd-at"](model, batch, ATTACK)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def random_batch() -> Batch:
    """Return a batch of noise with labels."""
    images: Tensor = torch.rand(SAMPLES, 3, 32, 32)
    return Batch(images, torch.randint(0, 10, (SAMPLES,)), torch.arange(SAMPLES))


PARTS: dict[str, Callable[[int], Iterator[Ratio]]] = {
    "layers": layer_rows,
    "counts": lambda rounds: counting_rows(),
    "networks": network_rows,
    "dynamic": dynamic_rows,
}


def document(rows: list[Ratio], facts: dict[str, Any], rounds: int) -> str:
    """Return the page: what was measured, where, with which versions."""
    listed = [f"sepdeploy {__version__}", f"torch {torch.__version__}", f"numpy {np.__version__}"]
    with contextlib.suppress(PackageNotFoundError):
        listed.append(f"tensorly-torch {version('tensorly-torch')}")
    listed.append(f"python {facts['python']}")
    return f"""# Speed of training

Written by `python -m benchmarks.training --write` on {datetime.date.today().isoformat()}.

Kind {Kind.HOST}: {page.machine(facts)}; one thread, float32,
batch {SAMPLES}. {", ".join(listed)}.

All runs of a block take turns in one process, {rounds} rounds. Times are processor time (what other
programs take is not counted) and lower quartiles (what they do to the caches is). A row says either
how many times the cost of the other it is (bar ≤), or how many times faster (bar ≥); a ratio in
bold misses its bar.

{table(rows)}

* The six products are what a Kronecker layer of one term must compute: two forward, two for the
  input's gradient, two for the factors', each (8192, 64) by (64, 64) or its transpose.
* TensorLy-Torch's layers contract in their factors. TT of rank 1 is the Kronecker product itself;
  CP of rank 64 needs as many multiplications as ours; CP of rank 32 and Tucker (rank 9 in each
  mode) have as many weights, need half of the multiplications or fewer, and give maps of less rank
  (Tucker: 81 of 4096). The bar of 1.5 cannot be met against a layer whose time is below 1.5 times
  that of the six products, whatever the code around these.
* An epoch of dynamical low-rank training is compared with one of the same network, attack and
  ranks whose bases are frozen. Bases turn every tenth step; until the truncation at the end of the
  ten, every pass, those of the attack too, works at the augmented rank. That is where the time
  goes; augmenting and truncating themselves are the smaller part. Augmentation takes the
  directions that hold 99 % of the gradients' energy, up to a multiple of eight. With a large τ
  ranks fall and little of a step depends on them. With a τ that keeps the ranks at their cap (40)
  about half of a step is proportional to the rank, so 15 % would allow about 10 new directions.
  That few cost accuracy (MNIST ε 0.1, `dlrt-17x` of docs/results.md, seed 0): 84.2 % instead of
  85.3 % with at most a fifth of the rank anew, 81.7 % with truncation after half of the window.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--only", choices=[*PARTS], action="append")
    parser.add_argument("--rounds", type=int, default=30, help="at least 3 (default 30)")
    parser.add_argument("--tensorly", type=Path, help="folder that holds tltorch and tensorly")
    parser.add_argument("--write", type=Path, nargs="?", const=Path("docs/training-speed.md"))
    given = parser.parse_args(arguments)
    if given.tensorly is not None:
        sys.path.append(str(given.tensorly))
    torch.set_num_threads(1)
    facts, rounds = host_facts(), max(3, given.rounds)
    rows: list[Ratio] = []
    for part, found in PARTS.items():
        for row in found(rounds) if part in (given.only or PARTS) else ():
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    broken = [r for r in rows if r.broken]
    print(f"\n{facts['cpu']}, load {facts['load']}: {len(broken)} of {len(rows)} rows miss a bar")
    if given.write is not None:
        given.write.write_text(document(rows, facts, rounds))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
