"""What compressing and verifying are asked for: the values of the command line, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.exports.options import ModelOptions, Seeded
from sepdeploy.files.roles import READS_MODEL, Reads
from sepdeploy.settings import setting

BUDGETS = ("params", "macs")


@dataclass(frozen=True)
class CompressOptions(ModelOptions):
    """What becomes of a trained model."""

    structure: str = setting(
        "kron",
        "kron, lowrank, lowrank:40, or fc1=kron,conv2=lowrank.",
        more="lowrank is for convolutions too; kron:28x28-64x64*2 names modes and a sum of two.",
    )
    target: str = setting(
        "", "Budget: 10x smaller, or a number.", metavar="10x", more="Needed where the structure "
        "leaves something open.",
    )  # fmt: skip
    budget: str = setting(
        "params",
        "What the target counts.",
        choices=BUDGETS,
        what="budget",
        needs={"target": ()},
        why="no budget is given",
    )
    layers: tuple[str, ...] = setting(
        (), "Names or patterns; default all but the head.", text=True, metavar="fc1,fc2"
    )
    finetune: Path | None = setting(
        None,
        "Recipe (TOML) to train the result with.",
        metavar="RECIPE.toml",
        path=Reads(),
        more="Data and attack default to the model's own.",
    )
    resume: bool = setting(
        False,
        "Continue an interrupted fine-tuning.",
        needs={"finetune": ()},
        why="without it nothing is trained",
    )
    dry_run: bool = setting(False, "Show the plan, write nothing.")
    data_dir: Path | None = setting(
        None,
        "Folder of the data set.",
        path=Reads(),
        needs={"finetune": ()},
        why="without it nothing is trained",
    )
    seed: int | None = setting(None, "Seed of everything random.", low=0)

    def default_out(self, model: Path) -> Path:
        """Return where a compressed model goes when nobody says it."""
        family = self.structure.partition(":")[0].partition("*")[0]
        return model.with_name(f"{model.stem}-{family if family.isalnum() else 'small'}.pt")


@dataclass(frozen=True)
class ProofOptions(ModelOptions, Seeded):
    """How an export is proven again: with which model, and on which inputs without data."""


@dataclass(frozen=True)
class VerifyOptions(ProofOptions):
    """What ``sepdeploy verify`` looks at besides digests, parity and residency."""

    layers: bool = setting(False, "Also compare every layer with the model's.")
    against: Path | None = setting(
        None, "Compare with OTHER, layer by layer.", metavar="OTHER", path=READS_MODEL
    )
