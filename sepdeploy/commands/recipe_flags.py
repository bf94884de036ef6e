"""The keys of a recipe as flags: those in daily use have one each, ``--set`` reaches all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from sepdeploy.errors import BadInput

F = TypeVar("F", bound=Callable[..., Any])

# heading -> key of the recipe -> (type of the flag's value, help)
FLAGS: dict[str, dict[str, tuple[type, str]]] = {
    "Network": {
        "arch": (str, "mlp, lenet, vgg16, resnet18, vit_tiny, ..."),
        "hidden": (str, "Hidden widths: 1024,1024."),
        "structure": (str, "dense, kron, kron:aligned, kron:28x28-64x64, lowrank:40; or a,b,c."),
        "target": (str, "Parameter budget, e.g. 10x smaller."),
        "conv_rank": (int, "Channel ranks of low-rank convolutions."),
    },
    "Data": {
        "data": (str, "digits, mnist, cifar10, svhn, image-folder, npz, ..."),
        "data_dir": (str, "Folder of the data set."),
        "augment": (str, "crop, flip or crop-flip."),
    },
    "Attack in training": {
        "objective": (str, "natural, pgd-at, trades, mart, fr or sar (of no published weight)."),
        "eps": (str, "Attack radius: 8/255 or 0.1."),
        "norm": (str, "Attack norm: linf or l2."),
        "steps": (int, "Attack steps in training."),
        "step_size": (float, "Length of an attack step."),
        "inner": (str, "Attack to train on: ce, kl, margin, fgsm or rs-fgsm."),
    },
    "Optimisation": {
        "epochs": (int, "Passes over the data."),
        "batch_size": (int, "Images an optimiser step, over all processes."),
        "optimizer": (str, "adamw or sgd."),
        "lr": (float, "Peak learning rate."),
        "weight_decay": (float, "Weight decay of matrices."),
        "schedule": (str, "one-cycle, cosine or constant."),
        "patience": (int, "Stop after so many epochs without a better one."),
        "ema": (float, "Decay of an average of the weights, e.g. 0.999."),
        "swa": (bool, "Average the weights of all epochs."),
        "seed": (int, "Seed of everything random."),
    },
    "Conditioning and compression": {
        "condition": (float, "Coefficient of the condition-number term."),
        "spectral": (float, "Coefficient of the spectral core term."),
        "rank_tolerance": (float, "Ranks adapt; each cut loses at most this share."),
        "prune": (str, "magnitude or hydra."),
        "sparsity": (float, "Share of the weights that is pruned."),
    },
    "Machine": {
        "accelerator": (str, "auto (a GPU where there is one), cpu or cuda."),
        "precision": (str, "fp32 or bf16."),
        "accumulate": (int, "Parts that each batch is cut into, to save memory."),
        "channels_last": (bool, "Keep the channels of images innermost."),
        "compile": (bool, "Use torch.compile."),
        "threads": (int, "CPU threads; chosen by a probe where it is not given."),
    },
}

SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any key of a recipe; may be repeated."),
]


def with_recipe_flags(function: F) -> F:
    """Put the flags of the table in the place of a command's ``**flags``."""
    signature = inspect.signature(function, eval_str=True)
    own = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in signature.parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, _option(name, kind, text, panel)],
        )
        for panel, table in FLAGS.items()
        for name, (kind, text) in table.items()
    ]
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own[:1], *flags, *own[1:]]
    )
    return function


def _option(name: str, kind: type, text: str, panel: str) -> Any:
    spelled = name.replace("_", "-")
    words = f"--{spelled}/--no-{spelled}" if kind is bool else f"--{spelled}"
    return typer.Option(words, help=text, rich_help_panel=panel)


NO_KEYS = frozenset({"recipe", "out", "resume", "on_progress"})  # what api.train takes besides


def recipe_values(flags: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return what a command line says about the recipe, by the recipe's keys.

    Args:
        flags: Values of the flags, None where one was not given.
        settings: The texts "key=value" of ``--set``.

    Raises:
        BadInput: A setting that is none, or a key that is given twice.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name:
            raise BadInput(f"--set {setting} is not KEY=VALUE", hint="e.g. --set mart_beta=4")
        if name in NO_KEYS:
            raise BadInput(
                f"--set {name}: not a key of a recipe", hint="sepdeploy train --help has the flags"
            )
        if name in given:
            raise BadInput(f"'{name}' is given twice on the command line", hint="leave one out")
        given[name] = value.strip()
    return given
