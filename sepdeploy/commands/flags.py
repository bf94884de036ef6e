"""Flags of the command line, from the settings of option records."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer

from sepdeploy.api import ModelOptions, Seeded
from sepdeploy.settings import Options, defaults, flags, kinds_of, settings

F = TypeVar("F", bound=Callable[..., Any])
TYPES: dict[str, Any] = {
    "str": str | None,
    "bool": bool,
    # Numbers are read, and refused, by the settings, which can say what was typed.
    "int": str | None,
    "float": str | None,
    "Path": Path | None,
    "tuple[str, ...]": list[str] | None,
}


def taking(*classes: type[Options], only_given: bool = False) -> Callable[[F], F]:
    """Put flags in the place of a command's ``**options``.

    Args:
        classes: The records whose fields are the flags.
        only_given: A flag that was not given is None, whatever its field's default.
    """

    def changed(function: F) -> F:
        off = {name for cls in classes for name, s in settings(cls).items() if s.off}

        @functools.wraps(function)
        def wrapped(**values: Any) -> Any:
            return function(**{n: not v if n in off else v for n, v in values.items()})

        wrapped.options = (classes, only_given)  # type: ignore[attr-defined]
        return cast(F, wrapped)

    return changed


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a command's signature with its flags, as the tables of choices are now."""
    signature = inspect.signature(function, eval_str=True)
    own = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in signature.parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    classes, only_given = getattr(function, "options", ((), False))
    made = [p for cls in classes for p in parameters(cls, only_given=only_given)]
    shared = settings(ModelOptions) | settings(Seeded)  # listed behind a command's own
    special = [p for p in made if only_given or p.name not in shared]
    rest = [p for p in made if p not in special]
    return signature.replace(parameters=[*own[:1], *special, *own[1:], *rest])


def parameters(cls: type[Options], *, only_given: bool = False) -> Iterator[inspect.Parameter]:
    """Give the flags of a record as parameters of a command; see ``taking``."""
    for name, s in settings(cls).items():
        if not s.flag:
            continue
        kind, default = kinds_of(cls, name)[0], defaults(cls)[name]
        line = s.line() if only_given else f"{s.line()} {s.span()}".rstrip()
        if only_given and default not in ("", 0, ()):
            line = f"{line} [default: {str(default).lower()}]"
        if only_given or s.text:
            default = None
        if default is not None and kind in ("int", "float"):
            default = str(default)
        wanted, words = str | None if s.text else TYPES[kind], flags(cls, name)
        if kind == "bool" and only_given:
            wanted, words = bool | None, (f"{words[0]}/--no-{words[0][2:]}",)
        option = typer.Option(
            *words,
            help=line,
            metavar=s.metavar or (f"<{kind}>" if kind in ("int", "float") else None),
            rich_help_panel=s.panel or None,
        )
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=not default if s.off else default or None if kind == "str" else default,
            annotation=Annotated[wanted, option, s.path] if s.path else Annotated[wanted, option],
        )
