"""The recipe: everything that decides the result of a training, in one record.

A recipe is a flat TOML file whose keys are the field names (and the command line's flags, with
``_`` for ``-``). Values given as flags beat the file. Two trainings with equal recipes on the
same data, thread count and library versions give bit-identical weights on the CPU.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.files import read_bytes
from sepdeploy.threat import check_norm, default_step_size, parse_eps
from sepdeploy.training.objectives import OBJECTIVES
from sepdeploy.training.optimizers import OPTIMIZERS
from sepdeploy.training.schedule import SCHEDULES

MAX_RECIPE_BYTES = 1 << 20
# What may differ between a training and its resumption: where the data lies, not what it is.
FREE_ON_RESUME = frozenset({"data_dir", "threads"})


@dataclass(frozen=True)
class Recipe:
    """All choices of one training.

    Attributes:
        arch: Architecture name.
        data: Data set name or path of an ``.npz`` file.
        data_dir: Folder of the data set, "" = from SEPDEPLOY_DATA.
        hidden: Hidden widths of the architecture, () = its own (or planned, see ``target``).
        structure: One structure for all layers meant to be structured ("dense", "kron",
            "kron:28x28-64x64", "lowrank:40"), or layer by layer: "fc1=kron,fc2=lowrank:40", or a
            TOML table; "" = dense, or kron where there is a target.
        target: Parameter budget: "10x" (the dense architecture of default widths over 10) or a
            number of parameters; "" = none. Widths are planned to fill it.
        objective: "natural", "pgd-at" or "trades".
        eps: Radius of the training attack, pixels in [0, 1].
        norm: "linf" or "l2".
        steps: Steps of the training attack.
        step_size: 0 = ``threat.default_step_size`` (ε/4 for 5 to 10 steps).
        trades_beta: Weight of the divergence term of TRADES.
        epochs: Passes over the training images.
        batch_size: Images per optimiser step.
        optimizer: "adamw" or "sgd" (with Nesterov momentum).
        lr: Peak learning rate, 0 = the optimiser's own.
        momentum: Of SGD.
        weight_decay: Decoupled for AdamW; biases are left out.
        schedule: "one-cycle", "cosine" or "constant", advanced every step.
        condition: Coefficient of the scale-free condition-number term.
        l1: Coefficient of the ℓ1 sparsity term.
        validation: Share of the training images that is held out to choose the best epoch.
        seed: Of the weights, the order of images and all noise.
        threads: CPU threads, 0 = chosen by a probe.
    """

    arch: str = "mlp"
    data: str = "digits"
    data_dir: str = ""
    hidden: tuple[int, ...] = ()
    structure: str = ""
    target: str = ""
    objective: str = "pgd-at"
    eps: float = 0.1
    norm: str = "linf"
    steps: int = 7
    step_size: float = 0.0
    trades_beta: float = 6.0
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "one-cycle"
    condition: float = 0.0
    l1: float = 0.0
    validation: float = 0.1
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name, table in (
            ("objective", OBJECTIVES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
        ):
            if getattr(self, name) not in table:
                raise unknown_name(name, getattr(self, name), table)
        check_norm(self.norm)
        parse_eps(self.eps)
        parse_target(self.target)
        if self.structure:
            structure_map(self.structure)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise BadInput(f"recipe: {name} = {value} is outside {low:g} .. {high:g}")
        if any(width < 1 for width in self.hidden):
            raise BadInput(f"recipe: hidden widths {list(self.hidden)} must be positive")
        if not 0 < self.validation < 1:
            raise BadInput(
                f"recipe: validation = {self.validation} is not between 0 and 1",
                hint="it is the share of training images held out; 0.1 is usual",
            )

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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; ``recipe_from`` reads them back."""
        values = dataclasses.asdict(self)
        return values | {"hidden": list(self.hidden)}


_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000),
    "step_size": (0, 1e6),
    "trades_beta": (0, 1e6),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 1 << 20),
    "lr": (0, 1e6),
    "momentum": (0, 1),
    "weight_decay": (0, 1e6),
    "condition": (0, 1e6),
    "l1": (0, 1e6),
    "seed": (0, (1 << 63) - 1),
    "threads": (0, 1024),
}


def load_recipe(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe file and put flags over it.

    Args:
        path: TOML file; None = all defaults.
        overrides: Values that beat the file; None values are ignored. Strings are converted
            ("1024,1024" for ``hidden``, "8/255" for ``eps``).

    Raises:
        BadInput: Unreadable file, unknown key (with the three closest), or a value out of range.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            text = read_bytes(Path(path), limit=MAX_RECIPE_BYTES).decode("utf-8")
            values = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(
                f"{path} is not a TOML recipe: {error}",
                hint='a recipe holds lines such as: objective = "pgd-at"',
            ) from error
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    return recipe_from(values | given, where=str(path or "recipe"))


def recipe_from(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Build a recipe from plain values.

    Raises:
        BadInput: Unknown key, wrong type, or a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(Recipe)}
    converted: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            near = get_close_matches(name, sorted(fields), n=3, cutoff=0.0)
            raise BadInput(
                f"{where}: unknown key '{key}'; closest: {', '.join(near)}",
                hint=f"known: {', '.join(fields)}",
            )
        converted[name] = _convert(name, str(fields[name].type), value, where)
    return Recipe(**converted)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return one line per field whose change makes a resumption impossible."""
    before, after = old.to_json(), new.to_json()
    return [
        f"{name}: {before[name]} -> {after[name]}"
        for name in before
        if name not in FREE_ON_RESUME and before[name] != after[name]
    ]


def parse_target(text: str) -> tuple[str, float] | None:
    """Parse a budget: "10x" gives ("ratio", 10.0), "50000" gives ("params", 50000.0), "" None.

    Raises:
        BadInput: Neither form.
    """
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(x?)", text.strip().lower())
    value = float(match[1]) if match else 0.0
    if match is None or value < 1 or not math.isfinite(value):
        raise BadInput(
            f"target '{text}' is no budget", hint="write 10x (ten times smaller) or 50000 (params)"
        )
    return ("ratio" if match[2] else "params", value)


def structure_map(text: str) -> str | dict[str, str]:
    """Return the structure argument of an architecture for a recipe's ``structure``.

    "kron" stays; "fc1=kron,fc2=lowrank:40" becomes a table; "kron,lowrank:40" numbers the layers
    fc1, fc2, … .

    Raises:
        BadInput: An empty part.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise BadInput(
            f"structure '{text}' has an empty part",
            hint='for example "kron" or "fc1=kron,fc2=lowrank:40"',
        )
    if len(parts) == 1 and "=" not in text:
        return parts[0]
    table: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name, _, structure = part.rpartition("=")
        table[name.strip() or f"fc{number}"] = structure.strip()
    return table


def _convert(name: str, kind: str, value: Any, where: str) -> Any:
    try:
        if name == "eps":
            return parse_eps(value)
        if name == "structure" and isinstance(value, Mapping):
            return ",".join(f"{layer}={text}" for layer, text in value.items())
        if name == "hidden":
            return _widths(value)
        if name == "target" and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if kind == "str" and isinstance(value, str):
            return value
        if kind == "int" and isinstance(value, (int, str)) and not isinstance(value, bool):
            return int(value)
        if kind == "float" and isinstance(value, (int, float, str)) and value is not True:
            return float(value)
    except ValueError:
        pass
    raise BadInput(
        f"{where}: {name} = {value!r:.60} is not {_EXPECTED.get(name) or _EXPECTED[kind]}"
    )


_EXPECTED = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "hidden": "a list of widths such as [1024, 1024]",
    "eps": "a radius such as 0.1 or '8/255'",
}


def _widths(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        return tuple(int(part) for part in re.split(r"[,\s]+", value.strip()) if part)
    if isinstance(value, (list, tuple)) and all(type(v) is int for v in value):
        return tuple(value)
    raise ValueError
