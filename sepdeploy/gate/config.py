"""The rules of ``sepdeploy check``: defaults, and what a TOML file changes in them.

[tool.sepdeploy.check]            # of pyproject.toml; in a file of its own without the header
latency_effect = "15%"
allow = { file_bytes = "2%" }
ignore = ["metric=resident_bytes", "device=host, kind=HOST"]
budgets = ["latency_ms <= 20", { rule = "file_bytes <= 500_000", artifact = "kron.*" }]
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sepdeploy.codec import read_toml
from sepdeploy.errors import RULES, BadInput, require_name
from sepdeploy.gate.budgets import Budget, parse_budget
from sepdeploy.metrics import METRICS

SECTION = ("tool", "sepdeploy", "check")
SELECTORS = ("artifact", "device", "kind", "metric", "runtime")
NEW = ("incomparable", "reported")
Reader = Callable[[Any, str], Any]  # of a value and where it stands


def _fraction(value: Any, where: str) -> float:
    """Read 0.01, "1%" or "0.25 %"; one and more is refused as a percentage without its sign."""
    number = value
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        number = float(match[1]) / 100 if match else None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 1:
        raise BadInput(
            f"{where} is {value!r}, expected a fraction", hint='write 0.01 or "1%" for one percent'
        )
    return float(number)


def _one_of(is_right: Callable[[Any], bool], expected: str) -> Reader:
    def read(value: Any, where: str) -> Any:
        if isinstance(value, bool) or not is_right(value):
            raise BadInput(f"{where} is {value!r}, expected {expected}", hint=RULES)
        return value

    return read


_P_VALUE = _one_of(
    lambda v: isinstance(v, (int, float)) and 0 < v < 1, "a probability between 0 and 1"
)
# Seven rounds are the fewest whose signed-rank test can fall below one percent.
_COUNT = _one_of(lambda v: isinstance(v, int) and v >= 7, "a whole number of at least 7")


def _allow(value: Any, where: str) -> dict[str, float]:
    if isinstance(value, list):
        value = {name: "any" for name in value if isinstance(name, str)}
    if not isinstance(value, Mapping):
        raise BadInput(
            f"{where} must be a table or a list of metrics", hint='allow = { file_bytes = "2%" }'
        )
    for name in value:
        counts = [n for n, metric in METRICS.items() if metric.rule == "count"]
        require_name("STATIC metric", name, counts, where=where)
    return {
        name: math.inf if growth == "any" else _fraction(growth, f"{where}.{name}")
        for name, growth in value.items()
    }


def _ignore(value: Any, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BadInput(
            f"{where} must be a list of texts", hint='ignore = ["metric=resident_bytes"]'
        )
    return tuple(_condition(text, where) for text in value)


def _condition(text: str, where: str) -> Mapping[str, str]:
    condition: dict[str, str] = {}
    for part in text.split(","):
        name, sign, pattern = (p.strip() for p in part.partition("="))
        if not sign or not pattern:
            raise BadInput(f"{where}: '{text}' is not field=pattern", hint="e.g. metric=macs")
        require_name("field", name, SELECTORS, where=where)
        if name == "metric" and not set(pattern) & set("*?["):
            require_name("metric", pattern, METRICS, where=where)
        condition[name] = pattern
    return condition


def _budgets(value: Any, where: str) -> tuple[Budget, ...]:
    if not isinstance(value, list):
        raise BadInput(f"{where} must be a list", hint='budgets = ["file_bytes <= 500_000"]')
    return tuple(parse_budget(v, where=where) for v in value)


def _rule(default: Any, read: Reader = _fraction) -> Any:
    """Return a field whose value in a file ``read`` takes."""
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True)
class Rules:
    """When a difference counts. Fractions are relative (0.01 = 1 %); the names are the TOML keys.

    Attributes:
        instructions_fail: Growth of the instruction count above which EMULATED fails.
        instructions_warn: Growth above which it warns.
        latency_effect: Slowdown above which two separate MEASURED runs may fail.
        latency_effect_interleaved: The same for rounds by turns in one run.
        latency_p: Significance that a slowdown needs as well.
        latency_samples: Fewest samples of each of two separate runs.
        latency_rounds: Fewest interleaved rounds.
        accuracy_drop: Loss of accuracy above which it may fail; 0.01 is one point.
        accuracy_p: Significance that a loss needs as well.
        allow: Growth that is accepted per STATIC metric.
        ignore: What is not judged: conditions "field=pattern", joined by commas.
        new: What a result without any baseline is: "incomparable" or "reported".
        budgets: Absolute limits.
    """

    instructions_fail: float = _rule(0.01)
    instructions_warn: float = _rule(0.0025)
    latency_effect: float = _rule(0.10)
    latency_effect_interleaved: float = _rule(0.05)
    latency_p: float = _rule(0.01, _P_VALUE)
    latency_samples: int = _rule(30, _COUNT)
    latency_rounds: int = _rule(10, _COUNT)
    accuracy_drop: float = _rule(0.01)
    accuracy_p: float = _rule(0.01, _P_VALUE)
    allow: Mapping[str, float] = field(default_factory=dict, metadata={"read": _allow})
    ignore: tuple[Mapping[str, str], ...] = _rule((), _ignore)
    new: str = _rule("incomparable", _one_of(NEW.__contains__, f"one of {', '.join(NEW)}"))
    budgets: tuple[Budget, ...] = _rule((), _budgets)

    def is_ignored(self, **names: str) -> bool:
        """Tell whether something of these names (fields of ``SELECTORS``) is left out."""
        return any(
            all(fnmatchcase(names.get(f, ""), pattern) for f, pattern in condition.items())
            for condition in self.ignore
        )


def load_rules(path: Path | None = None, folder: Path | None = None) -> Rules:
    """Read the rules from a TOML file, from a folder's pyproject.toml, or take the defaults.

    Args:
        path: A pyproject.toml or a file that holds the keys at its top level.
        folder: Where to look for a pyproject.toml when no path is given.

    Raises:
        BadInput: Unreadable, not TOML, an unknown key, or a value out of range.
    """
    if path is None:
        path = (folder or Path()) / "pyproject.toml"
        if not path.exists():
            return Rules()
    data: Any = read_toml(path)
    if path.name == "pyproject.toml" or "tool" in data:
        for name in SECTION:
            data = data.get(name, {}) if isinstance(data, Mapping) else {}
    return parse_rules(data, where=str(path))


def parse_rules(data: Any, *, where: str = "rules") -> Rules:
    """Build rules from TOML values.

    Raises:
        BadInput: An unknown key, or a value of the wrong type or out of range.
    """
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: [tool.sepdeploy.check] must be a table", hint=RULES)
    readers: dict[str, Reader] = {f.name: f.metadata["read"] for f in dataclasses.fields(Rules)}
    for key in data:
        require_name("key", key, readers, where=where)
    rules = Rules(**{key: readers[key](v, f"{where}: {key}") for key, v in data.items()})
    if rules.instructions_warn > rules.instructions_fail:
        raise BadInput(f"{where}: instructions_warn is above instructions_fail", hint=RULES)
    return rules
