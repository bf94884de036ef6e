"""A small MobileNetV2 and others, made 2 and 4 times smaller by every family and by all of them.

``python -m experiments.convolutions mobilenet_v2`` trains the net on part of CIFAR-10, compresses
it with each structure at each target, fine-tunes all alike, and prints a line each: parameters,
divergence on the calibration images, accuracy before and after, latency of the files beside that
of the net they came from. Accuracies say what fine-tuning recovers of this net, not what a full
training reaches. ``--json FILE`` keeps the lines.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

import sepdeploy as sd
from sepdeploy import data
from sepdeploy.compression import compress_model, plan_automatically, plan_compression
from sepdeploy.errors import BadInput
from sepdeploy.models import Model, create

NETS = {
    "mobilenet_v2": {"width": 0.25},
    "resnet20": {},
    "shiftresnet20": {},
}
STRUCTURES = ("lowrank", "kron", "debut", "pdp", "auto")
CALIBRATION, TEST, ROUNDS = 128, 2000, 60


def learn(model: Model, images: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """Adam with one cycle of the rate, batches of 64, images mirrored at random."""
    torch.manual_seed(0)
    steps = epochs * -(-len(images) // 64)
    optimizer = torch.optim.Adam(model.train().parameters(), rate)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):
            x = images[index]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            optimizer.zero_grad()
            F.cross_entropy(model.net(x), labels[index]).backward()
            optimizer.step()
            course.step()
    model.eval()


@torch.no_grad()
def accuracy(model: Model, images: Tensor, labels: Tensor) -> float:
    """Share of images that are told right."""
    parts = zip(images.split(250), labels.split(250), strict=True)
    return sum(int((model.net(x).argmax(1) == y).sum()) for x, y in parts) / len(images)


def slower(small: Model, dense: dict[str, Path], folder: Path, x: Tensor) -> dict[str, float]:
    """Latency over that of the dense file, batch 1, both in turns: medians of rounds."""
    sd.export(small, folder / "small", eval_pack=False)
    found = {}
    for format, path in dense.items():
        with sd.open(folder / f"small.{format}") as ours, sd.open(path) as theirs:
            times: list[list[float]] = [[], []]
            for _ in range(ROUNDS):
                for session, taken in zip((ours, theirs), times, strict=True):
                    start = time.perf_counter()
                    session.run(x.numpy())
                    taken.append(time.perf_counter() - start)
        found[format] = round(median(times[0]) / median(times[1]), 2)
    return found


def main() -> None:
    """Train, compress and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--finetune", type=int, default=6)
    parser.add_argument("--targets", nargs="+", default=["2x", "4x"])
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=STRUCTURES)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cifar = data.load(wanted.data, wanted.data_dir)
    train, test = cifar.train.take(wanted.images, 0), cifar.test.take(TEST, 0)
    images, labels = torch.from_numpy(train.batch(slice(None))), torch.from_numpy(train.labels)
    unseen, told = torch.from_numpy(test.batch(slice(None))), torch.from_numpy(test.labels)
    model = create(wanted.net, cifar.input, 10, **NETS[wanted.net])
    learn(model, images, labels, wanted.epochs, 3e-3)
    calibration = train.batch(slice(0, CALIBRATION))
    lines = [{"structure": "dense", "params": model.params, "after": accuracy(model, unseen, told)}]
    print(lines[0], flush=True)
    own = deepcopy(model)
    learn(own, images, labels, wanted.finetune, 1e-3)
    lines.append({"structure": "dense, trained on", "after": accuracy(own, unseen, told)})
    print(lines[1], flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sd.export(model, folder / "dense", eval_pack=False)
        dense = {format: folder / f"dense.{format}" for format in ("onnx", "tflite")}
        for target in wanted.targets:
            for structure in wanted.structures:
                line: dict[str, object] = {"target": target, "structure": structure}
                try:
                    if structure == "auto":
                        plan = plan_automatically(model, target, calibration)
                    else:
                        plan = plan_compression(model, structure, target)
                except BadInput as error:
                    print({**line, "refused": error.message}, flush=True)
                    continue
                small, _ = compress_model(model, plan.changes)
                line |= {"params": small.params, "macs": round(plan.macs / plan.macs_before, 2)}
                line["before"] = accuracy(small.eval(), unseen, told)
                if plan.tried is not None:
                    line["divergence"] = {
                        r.structure: r.divergence and round(r.divergence, 3)
                        for r in plan.tried.rivals
                    }
                learn(small, images, labels, wanted.finetune, 1e-3)
                line["after"] = accuracy(small, unseen, told)
                line["latency"] = slower(small, dense, folder, unseen[:1])
                lines.append(line)
                print(line, flush=True)
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
