"""How strong is the attack that chooses a training's best epoch, and what does it cost?

    python -m benchmarks.validation MODEL.pt [MODEL.pt ...] [--eps 0.1] [--steps 7]

PGD of the training's steps, APGD-CE of as many, and `aa-fast`, on the test images of each model's
data set, in turns; the least processor time of several rounds (aa-fast: one).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from sepdeploy import attacks
from sepdeploy.data import load as load_data
from sepdeploy.models import Model, load
from sepdeploy.reports.tables import Table, markdown
from sepdeploy.threat import parse_attack


def robust(model: Model, name: str, eps: float, split: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Return the share of images that the model has right, as they are and attacked."""
    images, labels = split
    attacked = attacks.run(model, images, labels, parse_attack(name, eps))
    with torch.no_grad():
        faces = [model(x).argmax(dim=1) == labels for x in (images, attacked)]
    return float((faces[0] & faces[1]).float().mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = (f"pgd-{asked.steps}", f"apgd-ce-{asked.steps}", "aa-fast")
    table = Table(("model", "attack", "robust %", "s of processor"), (2, 3))
    for path in asked.models:
        model = load(path).eval()
        test = load_data(str(model.provenance["data"])).test
        split = torch.from_numpy(test.batch(slice(None))), torch.from_numpy(test.labels)
        seconds: dict[str, float] = {}
        share: dict[str, float] = {}
        for turn in range(asked.rounds):
            for name in names if not turn else names[:2]:
                start = time.process_time()
                share[name] = robust(model, name, asked.eps, split)
                seconds[name] = min(seconds.get(name, 1e9), time.process_time() - start)
        for name in names:
            table.add(path.name, name, f"{100 * share[name]:.2f}", f"{seconds[name]:.2f}")
    print("\n".join(markdown(table)))


if __name__ == "__main__":
    main()
