"""The recipe: everything that decides the result of a training, in one record.

Two trainings with equal recipes on the same data, thread count and library versions give
bit-identical weights on the CPU. Every key is described here and nowhere else: flags, checks,
error texts and documentation follow. The order is that of stored recipes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from sepdeploy.errors import BadInput
from sepdeploy.files.roles import Reads, of_data
from sepdeploy.settings import ARCHITECTURE_NAMES, DATA_NAMES, Needs, Options, check_values, setting
from sepdeploy.threat import NORMS, default_step_size, parse_eps
from sepdeploy.training.descent.optimizers import OPTIMIZERS
from sepdeploy.training.descent.schedule import SCHEDULES
from sepdeploy.training.objectives import INNER, OBJECTIVES
from sepdeploy.training.recipe import texts
from sepdeploy.training.recipe.rules import check_together

AUGMENTATIONS = ("", "crop", "flip", "crop-flip")
PENALTIES = (
    "condition",
    "logdet",
    "frobenius",
    "spectral",
    "spectral_squared",
    "spectral_relative",
    "l1",
)
RANKS: Needs = {"rank_tolerance": ()}
PRUNED: Needs = {"prune": ()}


SCALE: dict[str, float] = {"low": 0, "high": 1e6}
EPOCHS: dict[str, float] = {"low": 0, "high": 1_000_000}
SIZE: dict[str, float] = {"low": 0, "high": 1 << 20}

# One heading of ``--help`` and one row of docs/training.md each.
network = partial(setting, panel="Network")
data_set = partial(setting, panel="Data")
attack = partial(setting, panel="Attack in training")
optimisation = partial(setting, panel="Optimisation")
averages = partial(setting, panel="Averages of weights")
penalties = partial(setting, panel="Penalties")
rank = partial(setting, panel="Adaptive ranks")
pruning = partial(setting, panel="Pruning")
machine = partial(setting, panel="Machine")


@dataclass(frozen=True)
class Recipe(Options):
    """All choices of one training."""

    arch: str = network("mlp", "Or package.module:factory of your own.", shown=ARCHITECTURE_NAMES)
    data: str = data_set(
        "digits",
        "Or image-folder:SIZE, or the path of an .npz file.",
        shown=DATA_NAMES,
        path=Reads(of_data),
    )
    data_dir: str = data_set(
        "",
        "Folder of the data set.",
        more="Default: from SEPDEPLOY_DATA.",
        parse=str,
        path=Reads(),
    )
    augment: str = data_set(
        "",
        "Random changes of the training images.",
        more="Shifts by up to 4 pixels, or mirrored or not.",
        choices=AUGMENTATIONS,
    )
    hidden: tuple[int, ...] = network(
        (),
        "Hidden widths: 1024,1024.",
        more="Default: the architecture's own, or planned (see target).",
        text=True,
        metavar="<str>",
    )
    structure: str = network(
        "",
        "dense, kron, kron:aligned, kron:28x28-64x64, lowrank:40, debut:30x; or a,b,c.",
        more="Or layer by layer: fc1=kron,fc2=lowrank:40. Default: dense, or kron with a target.",
        parse=texts.structure_text,
    )
    target: str = network(
        "",
        "Parameter budget, e.g. 10x smaller.",
        more="Than the dense architecture; or a number. Widths are planned to fill it.",
        parse=texts.target_text,
    )
    objective: str = attack(
        "pgd-at", "What a step minimises; sar (of no published weight).", choices=OBJECTIVES
    )
    eps: float = attack(
        0.1,
        "Attack radius: 8/255 or 0.1.",
        more="In units of pixels in [0, 1].",
        text=True,
        parse=parse_eps,
    )
    norm: str = attack("linf", "Attack norm.", choices=NORMS)
    steps: int = attack(7, "Attack steps in training.", low=1, high=10_000)
    step_size: float = attack(
        0.0,
        "Length of an attack step.",
        more="Default: a quarter of the radius for 5 to 10 steps.",
        **SCALE,
    )
    inner: str = attack(
        "",
        "Attack to train on; the objective's own where none is given.",
        more="PGD on the loss of that name, FGSM, or FGSM from a random start.",
        choices=lambda: ("", *INNER),
    )
    trades_beta: float = attack(
        6.0, "Weight of the divergence term of TRADES.", flag=False, **SCALE
    )
    mart_beta: float = attack(5.0, "Weight of the divergence term of MART.", flag=False, **SCALE)
    align_weight: float = attack(
        0.1,
        "Weight of the spectral term of FR and SAR.",
        more="FR's published 0.1 belongs to batches of 128; SAR's is not published.",
        flag=False,
        **SCALE,
    )
    align_axes: str = attack(
        "batch-class",
        "Axes of FR's Fourier transform.",
        more="As published, or over classes alone.",
        flag=False,
        choices=("batch-class", "class"),
    )
    align_on: str = attack(
        "logits",
        "What SAR aligns.",
        more="Features are the last feature map.",
        flag=False,
        choices=("logits", "features"),
    )
    eps_warmup: int = attack(
        0,
        "First epochs, in which the radius grows in equal shares.",
        more="Large radii stop small networks from starting at all.",
        flag=False,
        **EPOCHS,
    )
    align_start: int = attack(
        0, "Epochs of plain PGD-AT before the spectral term sets in.", flag=False, **EPOCHS
    )
    epochs: int = optimisation(10, "Passes over the data.", low=1, high=1_000_000)
    batch_size: int = optimisation(
        128, "Images an optimiser step, over all processes.", low=1, high=1 << 20
    )
    optimizer: str = optimisation(
        "adamw", "Optimiser; sgd with Nesterov momentum.", choices=OPTIMIZERS
    )
    lr: float = optimisation(
        0.0, "Peak learning rate; the optimiser's own where none is given.", **SCALE
    )
    lr_scale: str = optimisation(
        "",
        "Multiples of the learning rate by parameter: fc1.*=0.5.",
        more="Default: factors step in proportion to their size (*=1: none does).",
        flag=False,
        parse=texts.scales_text,
    )
    momentum: float = optimisation(
        0.9, "Of SGD.", flag=False, low=0, high=1, needs={"optimizer": ("sgd",)}
    )
    weight_decay: float = optimisation(
        0.0, "Weight decay of matrices.", more="Decoupled for AdamW.", **SCALE
    )
    schedule: str = optimisation(
        "one-cycle", "Of the learning rate, advanced every step.", choices=SCHEDULES
    )
    condition: float = penalties(
        0.0,
        "Coefficient of the condition-number term.",
        **SCALE,
        more="It does not depend on the scale of a layer.",
    )
    logdet: float = penalties(
        0.0, "Coefficient of the squared log-determinant term.", **SCALE, flag=False
    )
    frobenius: float = penalties(
        0.0, "Coefficient of the squared Frobenius norm.", **SCALE, flag=False
    )
    spectral: float = penalties(
        0.0,
        "Coefficient of the spectral core term.",
        **SCALE,
        more="R(S) of robust low-rank training.",
    )
    spectral_squared: float = penalties(0.0, "Coefficient of R(S) squared.", **SCALE, flag=False)
    spectral_relative: float = penalties(
        0.0, "Coefficient of R(S) over the squared scale of S.", **SCALE, flag=False
    )
    l1: float = penalties(0.0, "Coefficient of the sparsity term.", **SCALE, flag=False)
    regularize: str = penalties(
        "structured",
        "Which weights the penalties act on.",
        more="Structured layers (else linear ones), or linear layers and convolutions.",
        flag=False,
        choices=("structured", "all"),
        needs=dict.fromkeys(PENALTIES, ()),
    )
    rank_tolerance: float = rank(
        0.0,
        "Ranks adapt; each cut loses at most this share.",
        more="Of the Frobenius norm of a layer's core. 0: ranks stay, all factors train.",
    )
    rank_max: int = rank(
        0,
        "Largest rank after a cut.",
        more="Default: each layer's own size, or the planned rank.",
        flag=False,
        **SIZE,
        needs=RANKS,
    )
    rank_every: int = rank(
        10,
        "Steps from one augmentation of the bases to the next.",
        flag=False,
        low=2,
        high=1_000_000,
        needs=RANKS,
    )
    rank_frozen: int = rank(
        1,
        "Last epochs, in which ranks stay and all factors train.",
        flag=False,
        **EPOCHS,
        needs=RANKS,
    )
    conv_rank: int = network(
        0,
        "Channel ranks of low-rank convolutions.",
        more="That a new network starts with; 0: they stay plain.",
        **SIZE,
    )
    prune: str = pruning(
        "", "Set weights to zero; hydra learns which.", choices=("", "magnitude", "hydra")
    )
    sparsity: float = pruning(
        0.5, "Share of the weights that is pruned.", low=0, high=0.999999, needs=PRUNED
    )
    prune_scope: str = pruning(
        "tensor",
        "The share is one of each tensor, or of the whole network.",
        more="Small tensors then keep more of their entries.",
        flag=False,
        choices=("tensor", "network"),
        needs=PRUNED,
    )
    prune_classifier: bool = pruning(
        False, "The last linear layer is pruned too.", flag=False, needs=PRUNED
    )
    prune_start: int = pruning(
        0, "Epochs of pretraining before pruning.", flag=False, **EPOCHS, needs=PRUNED
    )
    prune_epochs: int = pruning(
        1,
        "Epochs in which hydra learns scores; the rest fine-tune.",
        flag=False,
        low=1,
        high=1_000_000,
        needs={"prune": ("hydra",)},
    )
    ema: float = averages(
        0.0,
        "Decay of an average of the weights, e.g. 0.999.",
        more="Exponential, a step at a time.",
        low=0,
        high=0.999999,
    )
    swa: bool = averages(False, "Average the weights of all epochs.", more="With equal shares.")
    average_start: int = averages(
        0, "Epochs before weights are averaged.", flag=False, **EPOCHS, needs={"ema": (), "swa": ()}
    )
    patience: int = optimisation(
        0,
        "Stop after so many epochs without a better one.",
        more="By (robust) validation accuracy. 0: go on to the last one.",
        **EPOCHS,
    )
    validation: float = data_set(
        0.1, "Share of the training images that chooses the best epoch.", flag=False
    )
    seed: int = optimisation(
        0,
        "Seed of everything random.",
        more="Weights, the order of images and all noise.",
        low=0,
        high=(1 << 63) - 1,
    )
    accelerator: str = machine(
        "auto",
        "Where it trains; auto is a GPU where there is one.",
        choices=("auto", "cpu", "cuda"),
    )
    precision: str = machine(
        "fp32",
        "Of passes through the network.",
        more="bf16 by autocast; weights, losses and penalties stay in float32.",
        choices=("fp32", "bf16"),
    )
    channels_last: bool = machine(False, "Keep the channels of images innermost.")
    compile: bool = machine(False, "Use torch.compile.")
    accumulate: int = machine(
        1,
        "Parts that each batch is cut into, to save memory.",
        more="One after the other: the same step.",
        low=1,
        high=1 << 20,
    )
    threads: int = machine(
        0, "CPU threads; chosen by a probe where it is not given.", low=0, high=1024
    )

    def __post_init__(self) -> None:
        check_values(self)
        check_together(self)

    @classmethod
    def needs(cls) -> dict[str, Needs]:
        """Return what gives which key an effect; what belongs to an objective is in its row.

        Radius, norm and steps of the attack are free: a natural training hands them on to its
        fine-tuning.
        """
        robust = {"objective": tuple(name for name, row in OBJECTIVES.items() if row.robust)}
        owned = {key for row in OBJECTIVES.values() for key in row.settings}
        of_rows = {
            key: {"objective": tuple(n for n, row in OBJECTIVES.items() if key in row.settings)}
            for key in owned
        }
        return {"inner": robust, "eps_warmup": robust, **of_rows, **super().needs()}

    @classmethod
    def said(cls, name: str, value: Any = None, where: str = "") -> str:
        """Return how errors speak of a key and its value."""
        return f"{where or 'recipe'}: {name} = {value!r:.60}"

    @classmethod
    def without_effect(cls, name: str, value: Any, needed: Needs) -> BadInput:
        """Return the error for a key that lacks all of what it needs."""
        lacking = " and ".join(
            f"{other} is not" + " or".join(f' "{value}"' for value in values)
            for other, values in needed.items()
        )
        return BadInput(
            f"recipe: {name} is set and {lacking}",
            hint=f"leave {name} out, or set {' or '.join(needed)}",
        )

    @property
    def score_epochs(self) -> int:
        """Epochs in which scores are learned."""
        return self.prune_epochs if self.prune == "hydra" else 0

    @property
    def robust(self) -> bool:
        """Whether training and validation attack the model."""
        return OBJECTIVES[self.objective].robust and self.eps > 0

    @property
    def attack_step(self) -> float:
        """Step size of the training attack."""
        return self.step_size or default_step_size(self.eps, self.steps)

    @property
    def peak_lr(self) -> float:
        """Learning rate that the schedule scales."""
        return self.lr or OPTIMIZERS[self.optimizer].default_lr

    @property
    def lr_scales(self) -> dict[str, float]:
        """Pattern of parameter names -> multiple of the rate."""
        return dict(texts.scales_by_pattern(self.lr_scale))

    @property
    def coefficients(self) -> dict[str, float]:
        """Coefficient of every regularisation term, by its name."""
        return {name: getattr(self, name) for name in PENALTIES}

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; ``recipe_from`` reads them back."""
        values = dataclasses.asdict(self)
        return values | {"hidden": list(self.hidden)}
