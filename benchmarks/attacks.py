"""Do our attacks give the verdicts of their references, and in what time?

    SEPDEPLOY_DATA=DIR python -m benchmarks.attacks --reference DIR [--nets DIR] [--write]

Rows of a net are kept beside it in ``--nets``: a later run goes on with the nets that have none,
and ``--write`` puts all that are there into the page.

``--reference`` is a folder with the public AutoAttack (github.com/fra31/auto-attack, package
``autoattack``); torchattacks and foolbox are compared where they are installed. Nets are trained
by the product with fixed seeds and kept in ``--nets``. Each attack and its reference take turns
on the same images on one thread; times are those of the processor, verdicts of the torch model.
``bound`` is what "faster by" would be if our passes through the network were all that ours costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import page
from sepdeploy import api, attacks
from sepdeploy.data import load as load_data
from sepdeploy.measure import host_facts
from sepdeploy.models import Model, load
from sepdeploy.reports.tables import Table, markdown
from sepdeploy.threat import parse_attack

# Ours beside the reference's name; the ensemble runs all of it on what stands.
SINGLE = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
PGD = "pgd-40"  # beside that of libraries, by steps of equal length
ROBUST = {"objective": "pgd-at", "arch": "mlp", "hidden": (1024, 1024)}


@dataclass(frozen=True)
class Subject:
    """A net and how it is attacked."""

    name: str
    data: str
    recipe: dict[str, Any]
    eps: float
    norm: str = "linf"
    most: int = 10_000  # images

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"{self.name} {self.data}".replace(" ", "-")


def _subjects() -> Iterator[Subject]:
    natural = {"objective": "natural", "arch": "mlp", "hidden": (1024, 1024), "epochs": 1}
    kron = {"structure": "fc1=kron:28x28-34x34,fc2=kron:34x34-34x34", "hidden": (1156, 1156)}
    yield Subject("mlp natural", "mnist", natural, 0.05)
    yield Subject("mlp robust", "mnist", ROBUST | {"epochs": 2, "eps": 0.1}, 0.1)
    yield Subject("kron robust", "mnist", ROBUST | kron | {"epochs": 2, "eps": 0.1}, 0.1)
    yield Subject("mlp robust", "mnist", ROBUST | {"epochs": 2, "eps": 0.1}, 1.0, "l2")
    cnn = {"objective": "pgd-at", "arch": "lenet", "epochs": 2, "eps": 0.2}
    yield Subject("cnn robust", "mnist", cnn, 0.2)
    resnet = {"arch": "resnet20", "epochs": 1, "batch_size": 128, "optimizer": "sgd"}
    few = {"most": 32}
    yield Subject("resnet20 natural", "cifar10", resnet | {"objective": "natural"}, 1 / 255, **few)
    fast = resnet | {"objective": "fast-at", "eps": 8 / 255}
    yield Subject("resnet20 robust", "cifar10", fast, 8 / 255, **few)


def _net(subject: Subject, folder: Path) -> Model:
    path = folder / f"{subject.stem}.pt"
    if not path.is_file():
        print(f"training {path}", file=sys.stderr, flush=True)
        api.train(out=path, data=subject.data, seed=0, **subject.recipe)
    return load(path).eval()


@dataclass(frozen=True)
class Outcome:
    """What one attack left standing, and the processor's seconds for it."""

    standing: Tensor
    seconds: float
    passes: float  # seconds of them in the network, forwards and backwards


def _timed(model: Model, labels: Tensor, make: Callable[[], Tensor]) -> Outcome:
    forward, grad, passes = model.forward, torch.autograd.grad, [0.0]

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                passes[0] += time.process_time() - start

        return call

    with (
        patch.object(model, "forward", clocked(forward)),
        patch("torch.autograd.grad", clocked(grad)),
    ):
        start = time.process_time()
        points = make()
        seconds = time.process_time() - start
    with torch.no_grad():
        return Outcome(model(points).argmax(dim=1) == labels, seconds, passes[0])


def _ours(model: Model, name: str, images: Tensor, labels: Tensor, subject: Subject) -> Outcome:
    attack = parse_attack(name, subject.eps, subject.norm)
    return _timed(model, labels, lambda: attacks.run(model, images, labels, attack))


def _theirs(model: Model, name: str, images: Tensor, labels: Tensor, subject: Subject) -> Outcome:
    from autoattack import AutoAttack  # type: ignore[import-not-found]

    norm = {"linf": "Linf", "l2": "L2"}[subject.norm]
    version = "standard" if name == "aa-standard" else "custom"
    reference = AutoAttack(
        model, norm=norm, eps=subject.eps, version=version, device="cpu", verbose=False, seed=0
    )
    if version == "custom":
        reference.attacks_to_run = [name]
        for part in (reference.apgd, reference.apgd_targeted, reference.fab, reference.square):
            part.n_restarts = 1
        reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = 9
    return _timed(model, labels, lambda: reference.run_standard_evaluation(images, labels, bs=256))


def _torchattacks(subject: Subject, model: Model, images: Tensor, labels: Tensor) -> Tensor:
    import torchattacks  # type: ignore[import-not-found]

    step = parse_attack(PGD, subject.eps, subject.norm).step
    if subject.norm == "l2":
        attack = torchattacks.PGDL2(model, eps=subject.eps, alpha=step, steps=40)
    else:
        attack = torchattacks.PGD(model, eps=subject.eps, alpha=step, steps=40)
    found: Tensor = attack(images, labels)
    return found


def _foolbox(subject: Subject, model: Model, images: Tensor, labels: Tensor) -> Tensor:
    import foolbox  # type: ignore[import-not-found]

    step = parse_attack(PGD, subject.eps, subject.norm).step
    name = {"linf": "LinfPGD", "l2": "L2PGD"}[subject.norm]
    attack = getattr(foolbox.attacks, name)(abs_stepsize=step, steps=40)
    net = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    found: Tensor = attack(net, images, labels, epsilons=subject.eps)[1]
    return found


RIVALS = {"torchattacks": _torchattacks, "foolbox": _foolbox}


def _row(subject: Subject, name: str, ours: Outcome, theirs: Outcome) -> tuple[str, ...]:
    count = len(ours.standing)
    agree = float((ours.standing == theirs.standing).float().mean()) * 100
    share = (float(o.standing.float().mean()) * 100 for o in (ours, theirs))
    net = f"{subject.name}, {subject.data}, {subject.norm} {subject.eps:.4g}"
    numbers = (f"{n:.2f}" for n in (*share, agree))
    times = (theirs.seconds / s for s in (ours.seconds, ours.passes))
    return net, str(count), name, *numbers, *(f"{ratio:.2f}x" for ratio in times)


def _rows(subject: Subject, folder: Path, most: int) -> Iterator[tuple[str, ...]]:
    """Yield what each attack and its reference found on one net."""
    model, test = _net(subject, folder), load_data(subject.data).test
    count = min(most, subject.most)
    images = torch.from_numpy(test.batch(slice(0, count)))
    labels = torch.from_numpy(test.labels[:count]).long()
    given = (images, labels, subject)
    for name in (*SINGLE, "aa-standard"):
        ours = _ours(model, name, *given)
        theirs = _theirs(model, name, *given)
        yield _row(subject, name, ours, theirs)
    for name, rival in RIVALS.items():
        if find_spec(name) is None:
            print(f"{name} is not installed: not compared", file=sys.stderr)
            continue
        climbed = _timed(model, labels, partial(rival, subject, model, images, labels))
        yield _row(subject, f"{PGD}, of {name}", _ours(model, PGD, *given), climbed)
    fast = _ours(model, "aa-fast", *given)
    yield _row(subject, "aa-fast, aa-standard of the reference", fast, theirs)


def main() -> None:
    """Compare, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--nets", type=Path, default=Path("attack-nets"))
    parser.add_argument("--samples", type=int, default=256, help="at most; fewer of large nets")
    parser.add_argument("--only", default="", help="part of a net's name")
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    options = parser.parse_args()
    sys.path.insert(0, str(options.reference))
    torch.set_num_threads(1)
    facts = host_facts()
    heads = (
        "net",
        "images",
        "attack",
        "ours %",
        "reference %",
        "same verdict %",
        "faster by",
        "bound",
    )
    table = Table(heads, (1, 3, 4, 5, 6, 7))
    for subject in _subjects():
        kept = options.nets / f"{subject.stem}-{subject.norm}.rows.json"
        if not kept.is_file() and options.only in subject.name:
            rows = []
            for row in _rows(subject, options.nets, options.samples):
                print(*row, sep=" | ", flush=True)
                rows.append(row)
            kept.write_text(json.dumps(rows))
        for row in json.loads(kept.read_text()) if kept.is_file() else ():
            table.add(*row)
    if options.write:
        command = f"python -m benchmarks.attacks --reference DIR --samples {options.samples}"
        page.put("attacks", "\n".join(markdown(table)), command, facts)


if __name__ == "__main__":
    main()
