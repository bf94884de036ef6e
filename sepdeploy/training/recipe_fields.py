"""The recipe: everything that decides the result of a training, in one record.

Two trainings with equal recipes on the same data, thread count and library versions give
bit-identical weights on the CPU.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sepdeploy.threat import default_step_size
from sepdeploy.training.descent.optimizers import OPTIMIZERS
from sepdeploy.training.penalties.regularizers import TERMS
from sepdeploy.training.recipe_checks import check_recipe


@dataclass(frozen=True)
class Recipe:
    """All choices of one training.

    Attributes:
        arch: Architecture name.
        data: Data set name or path of an ``.npz`` file.
        data_dir: Folder of the data set, "" = from SEPDEPLOY_DATA.
        augment: Random changes of the training images: "crop" (shifts by up to 4 pixels), "flip"
            (mirrored or not), "crop-flip"; "" = none.
        hidden: Hidden widths of the architecture, () = its own (or planned, see ``target``).
        structure: One structure for all layers meant to be structured ("dense", "kron",
            "kron:aligned", "kron:28x28-64x64", "lowrank:40"), or layer by layer:
            "fc1=kron,fc2=lowrank:40", or a TOML table; "" = dense, or kron where there is a target.
        target: Parameter budget: "10x" (the dense architecture of default widths over 10) or a
            number of parameters; "" = none. Widths are planned to fill it.
        objective: "natural", "pgd-at", "trades", "mart", "fr" or "sar".
        eps: Radius of the training attack, pixels in [0, 1].
        norm: "linf" or "l2".
        steps: Steps of the training attack.
        step_size: 0 = ``threat.default_step_size`` (ε/4 for 5 to 10 steps).
        inner: Attack that the objective trains on: "ce", "kl", "margin" (PGD on that loss),
            "fgsm" or "rs-fgsm"; "" = its own.
        trades_beta: Weight of the divergence term of TRADES.
        mart_beta: Weight of the divergence term of MART.
        align_weight: Weight λ of the spectral term of FR and SAR. FR's published 0.1 belongs to
            batches of 128; SAR's is not published.
        align_axes: Fourier transform of FR: over "batch-class" as published, or "class".
        align_on: What SAR aligns: "logits", or "features" (the last feature map).
        eps_warmup: First epochs, in which the radius of the training attack (and its step) grows
            in equal shares. Large radii stop small networks from starting at all.
        align_start: Epochs of plain PGD-AT before the spectral term sets in.
        epochs: Passes over the training images.
        batch_size: Images per optimiser step.
        optimizer: "adamw" or "sgd" (with Nesterov momentum).
        lr: Peak learning rate, 0 = the optimiser's own.
        momentum: Of SGD.
        weight_decay: Decoupled for AdamW; biases are left out.
        schedule: "one-cycle", "cosine" or "constant", advanced every step.
        condition: Coefficient of the scale-free condition-number term.
        logdet: Coefficient of the squared log-determinant term.
        frobenius: Coefficient of the squared Frobenius norm.
        spectral: Coefficient of the spectral core term R(S) of robust low-rank training.
        spectral_squared: Coefficient of R(S)².
        spectral_relative: Coefficient of R(S)/α², which does not depend on the scale of S.
        l1: Coefficient of the ℓ1 sparsity term.
        regularize: Which weights the terms act on: "structured" layers (all linear layers where
            there is none), or "all" linear layers and convolutions.
        rank_tolerance: τ of dynamical low-rank training: ranks adapt so that a truncation loses at
            most τ‖S‖_F of a layer's core. 0 = ranks stay, all factors train.
        rank_max: Largest rank after a truncation, 0 = each layer's own size, or the rank planned
            into the budget where there is one.
        rank_every: Steps from one augmentation of the bases to the next.
        rank_frozen: Last epochs, in which ranks stay and all factors train.
        conv_rank: Channel ranks that the convolutions of a new network start with, 0 = they stay
            plain.
        prune: "magnitude" or "hydra" (scores are learned), "" = no pruning.
        sparsity: Share of the prunable weights that is set to zero.
        prune_scope: The share is one of each "tensor", or of the whole "network", where small
            tensors then keep more of their entries.
        prune_classifier: The last linear layer, which otherwise stays whole, is pruned too.
        prune_start: Epochs of pretraining before it.
        prune_epochs: Epochs in which "hydra" learns scores; the rest of the epochs fine-tune.
        ema: Decay of an exponential average of the weights per step, 0 = none.
        swa: Average the weights of every epoch with equal shares.
        average_start: Epochs before weights are averaged.
        patience: Stop after so many epochs without a better (robust) validation accuracy, 0 = go
            on to the last one.
        validation: Share of the training images that is held out to choose the best epoch.
        seed: Of the weights, the order of images and all noise.
        accelerator: Where it trains: "cpu", "cuda", or "auto" (a GPU where there is one).
        precision: "fp32", or "bf16": passes through the network under bfloat16 autocast; weights,
            losses and penalties stay in float32.
        channels_last: Keep images and convolutions with their channels innermost in memory.
        compile: Run the network through ``torch.compile``.
        accumulate: Parts that each optimiser batch is cut into, one after the other: less memory,
            the same step.
        threads: CPU threads, 0 = chosen by a probe.
    """

    arch: str = "mlp"
    data: str = "digits"
    data_dir: str = ""
    augment: str = ""
    hidden: tuple[int, ...] = ()
    structure: str = ""
    target: str = ""
    objective: str = "pgd-at"
    eps: float = 0.1
    norm: str = "linf"
    steps: int = 7
    step_size: float = 0.0
    inner: str = ""
    trades_beta: float = 6.0
    mart_beta: float = 5.0
    align_weight: float = 0.1
    align_axes: str = "batch-class"
    align_on: str = "logits"
    eps_warmup: int = 0
    align_start: int = 0
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "one-cycle"
    condition: float = 0.0
    logdet: float = 0.0
    frobenius: float = 0.0
    spectral: float = 0.0
    spectral_squared: float = 0.0
    spectral_relative: float = 0.0
    l1: float = 0.0
    regularize: str = "structured"
    rank_tolerance: float = 0.0
    rank_max: int = 0
    rank_every: int = 10
    rank_frozen: int = 1
    conv_rank: int = 0
    prune: str = ""
    sparsity: float = 0.5
    prune_scope: str = "tensor"
    prune_classifier: bool = False
    prune_start: int = 0
    prune_epochs: int = 1
    ema: float = 0.0
    swa: bool = False
    average_start: int = 0
    patience: int = 0
    validation: float = 0.1
    seed: int = 0
    accelerator: str = "auto"
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    threads: int = 0

    def __post_init__(self) -> None:
        check_recipe(self)

    @property
    def score_epochs(self) -> int:
        """Epochs in which scores are learned."""
        return self.prune_epochs if self.prune == "hydra" else 0

    @property
    def robust(self) -> bool:
        """Whether training and validation attack the model."""
        return self.objective != "natural" and self.eps > 0

    @property
    def attack_step(self) -> float:
        """Step size of the training attack."""
        return self.step_size or default_step_size(self.eps, self.steps)

    @property
    def peak_lr(self) -> float:
        """Learning rate that the schedule scales."""
        return self.lr or OPTIMIZERS[self.optimizer].default_lr

    @property
    def coefficients(self) -> dict[str, float]:
        """Coefficient of every regularisation term, by its name in ``TERMS``."""
        return {name: getattr(self, name) for name in TERMS}

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; ``recipe_from`` reads them back."""
        values = dataclasses.asdict(self)
        return values | {"hidden": list(self.hidden)}
