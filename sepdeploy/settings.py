"""Options written once: a field of a record says how it is given, checked and explained.

Flags, ``--help``, checks, error texts and the documentation of Python functions follow from it.
A leaf that imports no table on loading: choices that stand in one are looked up when needed.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.files.roles import Reads, Writes

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R", bound="Options")
Names = Iterable[str] | Callable[[], Iterable[str]]
Needs = Mapping[str, tuple[Any, ...]]

# Names of tables that take torch or numpy to import, for --help; a test holds them together.
DATA_NAMES = (
    "digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "image-folder", "npz",
)  # fmt: skip
ARCHITECTURE_NAMES = (
    "mlp", "lenet", "vgg11", "vgg16", "vgg16_bn", "resnet18", "resnet20", "resnet56",
    "densenet40", "mobilenet_v2", "shiftresnet20", "shiftresnet56", "shiftresnet110", "vit_tiny",
    "vit_b_16",
)  # fmt: skip
RUNTIME_NAMES = ("onnxruntime", "litert", "tflite-runtime")
COMMA = "write names with one comma between them"
EXPECTED = {
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "Path": "a path",
    "tuple[str, ...]": "a list of names",
    "tuple[int, ...]": "a list of widths such as [1024, 1024]",
}


@dataclass(frozen=True)
class Setting:
    """What a field says about itself.

    Attributes:
        help: One line, shown by ``--help`` and in the documentation.
        more: What the documentation adds.
        flags: As typed; () = the field's name.
        low: Smallest value.
        high: Largest value.
        choices: All values, or a function that looks them up; () = any.
        shown: Names that ``--help`` lists where others are taken too; or a function.
        hint: Next step after an unknown value, where the names alone would not help.
        what: How an unknown value is called; "" = the field's name.
        needs: Other fields of which one must be set for this one to have an effect, with the
            values that do; () = any but the default.
        why: What is missing without them.
        panel: Heading in ``--help``.
        metavar: What stands for the value in ``--help``.
        text: Given as a text on the command line, whatever its type.
        off: The flag switches off what is on.
        path: What the command does with the file or folder that it names.
        flag: False where the command line has no flag for it.
        parse: Reads a value of another type.
    """

    help: str
    more: str = ""
    flags: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    choices: Names = ()
    shown: Names = ()
    hint: str = ""
    what: str = ""
    needs: Needs = field(default_factory=dict)
    why: str = ""
    panel: str = ""
    metavar: str = ""
    text: bool = False
    off: bool = False
    flag: bool = True
    parse: Callable[[Any], Any] | None = None
    path: Reads | Writes | None = None

    def known(self) -> tuple[str, ...]:
        """Return the names that are accepted; empty: any."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def line(self) -> str:
        """Return the one line with the names that are accepted."""
        shown = self.shown() if callable(self.shown) else self.shown
        names = " | ".join(name or '""' for name in (*self.known(), *shown))
        return f"{self.help} [{names}]" if names else self.help

    def span(self) -> str:
        """Return the numbers that are accepted, "" where any or no number is."""
        if self.low is None:
            return ""
        least = _exact(self.low)
        return f"[{least} .. {_exact(self.high)}]" if self.high is not None else f"[from {least}]"


def setting(default: Any, help: str, **facts: Any) -> Any:
    """Return a dataclass field with a ``Setting``; ``facts`` are its other attributes."""
    return field(default=default, metadata={"setting": Setting(help, **facts)})


@dataclass(frozen=True)
class Options:
    """A record whose fields are settings; it is checked when it is made.

    Raises:
        BadInput: A value that is not taken, or one without effect.
    """

    def __post_init__(self) -> None:
        check_values(self)
        check_needs(self)

    @classmethod
    def needs(cls) -> dict[str, Needs]:
        """Return what gives which field an effect; see ``Setting.needs``."""
        return {name: s.needs for name, s in settings(cls).items() if s.needs}

    @classmethod
    def said(cls, name: str, value: Any = None, where: str = "") -> str:
        """Return how errors speak of a field and its value, given to a function or in a file."""
        flag = next(f for f in flags(cls, name) if f.startswith("--")).partition("/")[0]
        return flag if value is None else f"{flag} {value}"

    @classmethod
    def without_effect(cls, name: str, value: Any, needed: Needs) -> BadInput:
        """Return the error for a field that lacks all of what it needs."""
        other = next(iter(needed))
        there = cls.said(other)
        own = cls.said(name, value if settings(cls)[name].known() else None)
        if settings(cls)[other].off:
            return BadInput(f"{own} has no effect with {there}", hint="leave one of them out")
        why = settings(cls)[name].why
        values = " or ".join(map(str, needed[other])) or settings(cls)[other].metavar
        return BadInput(
            f"{own} needs {there}" + (f": {why}" if why else ""),
            hint=f"give {there} {values}, or leave {cls.said(name)} out".replace(" ,", ","),
        )


def settings(cls: type[Options]) -> dict[str, Setting]:
    """Return the settings of a record by the names of its fields, in their order."""
    found = {f.name: f.metadata.get("setting") for f in dataclasses.fields(cls)}
    return {name: s for name, s in found.items() if s is not None}


def defaults(cls: type[Options]) -> dict[str, Any]:
    """Return the default of every field."""
    return {f.name: f.default for f in dataclasses.fields(cls)}


def kinds_of(cls: type[Options], name: str) -> list[str]:
    """Return the type of a field as it is written, one item an alternative."""
    written = next(str(f.type) for f in dataclasses.fields(cls) if f.name == name)
    return written.split(" | ")


def flags(cls: type[Options], name: str) -> tuple[str, ...]:
    """Return the flags of a field as they are typed."""
    spelled = name.replace("_", "-")
    both = kinds_of(cls, name) == ["bool"] and defaults(cls)[name] is True
    own = f"--{spelled}/--no-{spelled}" if both else f"--{spelled}"
    return settings(cls)[name].flags or (own,)


def check_values(record: Options) -> None:
    """Check names and ranges.

    Raises:
        BadInput: The first that is wrong.
    """
    for name, s in settings(type(record)).items():
        value = getattr(record, name)
        known = s.known()
        for one in value if isinstance(value, tuple) else (value,):
            if known and one is not None and one not in known:
                if s.hint:
                    raise BadInput(f"unknown {s.what or name} '{one!s:.60}'", hint=s.hint)
                raise unknown_name(s.what or name, one, known)
        low, high = s.low, s.high
        if value is None or (low is None and high is None):
            continue
        if not (low is None or low <= value) or not (high is None or value <= high):  # NaN too
            from_to = f"{_exact(low)} .. {_exact(high)}" if high is not None else ""
            bound = f"outside {from_to}" if from_to else f"below {_exact(low)}"
            hint = _like(type(record), name)
            raise BadInput(f"{record.said(name, value)} is {bound}", hint=hint)


def _exact(number: float | None) -> str:
    """Return a number with all of its digits, unless it is a tiny or huge one."""
    if isinstance(number, int) or (number is not None and number.is_integer()):
        return str(int(number))
    return f"{number:.6g}"


def check_needs(record: Options) -> None:
    """Check that every field that differs from its default has an effect.

    Raises:
        BadInput: The first that has none.
    """
    plain = defaults(type(record))

    def effective(other: str, values: tuple[Any, ...]) -> bool:
        found = getattr(record, other)
        if values and isinstance(found, tuple):
            return not set(values).isdisjoint(found)
        return found in values if values else found != plain[other]

    for name, needed in record.needs().items():
        value = getattr(record, name)
        if value != plain[name] and not any(effective(*item) for item in needed.items()):
            raise record.without_effect(name, value, needed)


def convert(cls: type[Options], name: str, value: Any, where: str) -> Any:
    """Return a value of a command line, a file or a caller as its field wants it.

    Raises:
        BadInput: It is of another type.
    """
    kinds, parse = kinds_of(cls, name), settings(cls)[name].parse
    for kind in kinds:
        try:
            if parse is not None:
                return parse(value)
            if kind.startswith("tuple"):
                return _listed(cls, name, value, int if "int" in kind else str)
            return READERS[kind](value)
        except (ValueError, TypeError, OverflowError, KeyError):
            continue
    raise BadInput(
        f"{cls.said(name, value, where)} is not {EXPECTED[kinds[0]]}",
        hint=_like(cls, name),
    )


def _like(cls: type[Options], name: str) -> str:
    """Return a next step for a wrong value: the numbers that are taken, or what is meant."""
    s, default = settings(cls)[name], defaults(cls)[name]
    if s.low is not None:
        least = _exact(s.low)
        span = f"from {least} on" if s.high is None else f"in {least} .. {_exact(s.high)}"
        return f"give {EXPECTED[kinds_of(cls, name)[0]]} {span}"
    listed = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return s.line() + ("" if listed in (None, "", 0) else f" Default: {listed}.")


def _number(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (kind, int, str)):
            raise ValueError
        return kind(value)

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


READERS: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "bool": lambda value: {"true": True, "false": False}[str(value).lower()],
    "int": _number(int),
    "float": _number(float),
    "Path": Path,
}


def _listed(cls: type[Options], name: str, value: Any, kind: type) -> tuple[Any, ...]:
    if kind is int:
        parts = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else list(value)
        if not isinstance(value, str) and any(type(part) is not int for part in parts):
            raise ValueError
        return tuple(int(part) for part in parts if part != "")
    given = [value] if isinstance(value, str) else list(value)  # repeated, with commas, or both
    names = tuple(part.strip() for text in given for part in text.split(","))
    if not all(names):
        raise BadInput(f"{cls.said(name)} has an empty name", hint=COMMA)
    return names


def several(value: Any) -> str:
    """Return names with commas between them as they are, for a field of a single text.

    Raises:
        BadInput: One of them is empty.
    """
    text = _text(value)
    if not all(part.strip() for part in text.split(",")):
        raise BadInput(f"'{text[:60]}' has an empty name", hint=COMMA)
    return text


def filled(
    record: R, values: Mapping[str, Any], where: str, *, besides: Iterable[type[Options]] = ()
) -> R:
    """Return a record with some values replaced; None leaves a value as it is.

    Args:
        record: What the values are put over.
        values: By the names of the fields.
        where: The function or file that the values were given to, for errors.
        besides: Other records, whose fields may be among the values.

    Raises:
        BadInput: A name that is no field (with the closest), a wrong type, or a value refused.
    """
    cls = type(record)
    own = settings(cls)
    known = list(dict.fromkeys([*own, *(name for cls in besides for name in settings(cls))]))
    for name in values:
        if name not in known:
            raise unknown_key(where, name, known)
    given = {name: v for name, v in values.items() if name in own and v is not None}
    return dataclasses.replace(
        record, **{name: convert(cls, name, value, where) for name, value in given.items()}
    )


def unknown_key(where: str, key: str, known: Iterable[str]) -> BadInput:
    """Return the error for a key that is none, with the closest ones."""
    names = list(known)
    near = get_close_matches(key, sorted(names), n=3, cutoff=0.0)
    return BadInput(
        f"{where}: unknown key '{key}'; closest: {', '.join(near)}",
        hint=f"known: {', '.join(names)}",
    )


def explained(cls: type[Options]) -> str:
    """Return one indented paragraph per setting: name, what it means, its default."""
    paragraphs = []
    for name, s in settings(cls).items():
        default = defaults(cls)[name]
        text = f"{name}: {s.line()} {s.more}".rstrip()
        text += "" if default is None else f" Default: {default!r}."
        paragraphs.append(
            textwrap.fill(text, 92, initial_indent="    ", subsequent_indent="        ")
        )
    return "\n".join(paragraphs)


def takes(*classes: type[Options]) -> Callable[[F], F]:
    """Show a function's ``**overrides`` as the settings of some records, in ``help()`` too."""

    def described(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        given = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
            )
            for cls in classes
            for f in dataclasses.fields(cls)
        ]
        function.__signature__ = signature.replace(parameters=[*own, *given])  # type: ignore[attr-defined]
        text = "\n\n".join(explained(cls) for cls in classes)
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{text}"
        return function

    return described
