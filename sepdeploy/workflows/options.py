"""What compressing, inspecting and verifying are asked for: command line values, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.exports.options import (
    CALIBRATION_SAMPLES,
    JudgingOptions,
    ModelOptions,
    Seeded,
    ShapeOptions,
)
from sepdeploy.files.roles import READS_MODEL, Reads, Writes, of_data
from sepdeploy.settings import DATA_NAMES, Needs, setting, settings

BUDGETS = ("params", "macs")
AUTOMATIC = "auto"  # a structure: the best of all families


@dataclass(frozen=True)
class CompressOptions(ModelOptions):
    """What becomes of a trained model."""

    structure: str = setting(
        "kron",
        "kron, lowrank, debut, lowrank:40, or fc1=kron,conv2=lowrank.",
        more="All three are for convolutions too (grouped ones: lowrank), all-debut for every "
        "layer; "
        "kron:28x28-64x64*2 names modes and a sum of two.",
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
    data: str | None = setting(
        None,
        "Whose training images auto measures on; default: the model's own.",
        shown=DATA_NAMES,
        path=Reads(of_data),
        needs={"structure": (AUTOMATIC,)},
        why="nothing is measured",
    )
    calibration_samples: int = setting(
        CALIBRATION_SAMPLES,
        "Training images that auto measures on.",
        low=1,
        needs={"structure": (AUTOMATIC,)},
        why="nothing is measured",
    )
    data_dir: Path | None = setting(
        None,
        "Folder of the data set.",
        path=Reads(),
        needs={"finetune": (), "structure": (AUTOMATIC,)},
        why="without it nothing is trained",
    )
    seed: int | None = setting(None, "Seed of everything random.", low=0)

    def default_out(self, model: Path) -> Path:
        """Return where a compressed model goes when nobody says it."""
        family = self.structure.partition(":")[0].partition("*")[0]
        return model.with_name(f"{model.stem}-{family if family.isalnum() else 'small'}.pt")


@dataclass(frozen=True)
class FrequencyOptions(JudgingOptions, ShapeOptions, ModelOptions):
    """How a file is read, and what is looked at: ways to factor it, frequencies of which images."""

    decompositions: bool = setting(
        False,
        "Compare ways to factor each convolution.",
        more="Relative errors of the kernel with a quarter of its weights, of a .pt file.",
    )
    frequency: bool = setting(
        False,
        "Show which frequencies of images it depends on.",
        more="Of attacks' perturbations, after filters, and with waves added (docs/frequency.md).",
    )
    samples: int = setting(256, "Test images that are looked at.", low=1)
    wave: float | None = setting(
        None,
        "L2 norm of a wave added to a channel.",
        low=1e-6,
        more="Pixels in [0, 1]; default: an eighth of the root of their number, 4 at 32×32.",
    )

    @classmethod
    def needs(cls) -> dict[str, Needs]:
        """Nearly everything is about frequencies; a seed is taken by every command."""
        free = ("decompositions", "frequency", "arch", "seed", "input_shape")
        return {name: {"frequency": ()} for name in settings(cls) if name not in free}


@dataclass(frozen=True)
class InspectOptions(FrequencyOptions):
    """What ``sepdeploy inspect`` shows besides the layers."""

    plot: Path | None = setting(
        None,
        "Draw the frequencies.",
        metavar="FILE.svg",
        path=Writes("a drawing", (".svg",)),
    )


@dataclass(frozen=True)
class ProofOptions(ModelOptions, Seeded):
    """How an export is proven again: with which model, and on which inputs without data."""


@dataclass(frozen=True)
class CompareOptions(Seeded, ShapeOptions):
    """On which inputs two files are compared."""


@dataclass(frozen=True)
class VerifyOptions(ProofOptions, CompareOptions):
    """What ``sepdeploy verify`` looks at besides digests, parity and residency."""

    @classmethod
    def needs(cls) -> dict[str, Needs]:
        """Only files of others have open sizes."""
        return super().needs() | {"input_shape": {"against": ()}}

    layers: bool = setting(False, "Also compare every layer with the model's.")
    against: Path | None = setting(
        None, "Compare with OTHER, layer by layer.", metavar="OTHER", path=READS_MODEL
    )
