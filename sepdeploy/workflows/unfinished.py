"""An attack that may take long: shared by processes, and kept until it is done.

Its state lies beside the set to be and is replaced whole, so whatever ends the attack, the same
command with ``--resume`` goes on to the same set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sepdeploy.data.archive import FACTS, packed, table_of, unpacked
from sepdeploy.errors import BadInput
from sepdeploy.files import write_bytes
from sepdeploy.records import Notify

if TYPE_CHECKING:
    from sepdeploy.attacks.course import Course, News
    from sepdeploy.training.machine.team import Team

FORMAT, VERSION = "sepdeploy.unfinished", 1
SAVE_EVERY_S = 30.0
ARRAYS = ("points", "blind", "standing", "waiting", "place")
AGAIN = "remove it, or leave --resume out, to start again"

State = dict[str, NDArray[Any]]


def _ignore(_: object) -> None:
    """Another process tells."""


@dataclass(frozen=True)
class Way:
    """How an attack is brought to its end.

    Attributes:
        team: The processes that share it.
        resume: Whether to go on from a state that was left.
        notify: Told what goes on; by default nobody is.
        on_progress: Called before every batch.
    """

    team: Team
    resume: bool
    notify: Notify = _ignore
    on_progress: Callable[[News], None] = _ignore


def go(course: Course, way: Way, path: Path, model_sha256: str) -> None:
    """Attack all images, each process its part of the batches; all of them hold the same state.

    Args:
        course: The attack.
        way: How.
        path: Of its state.
        model_sha256: What is attacked.

    Raises:
        BadInput: The state is none, or one of another attack; or it cannot be written.
    """
    team, facts = way.team, {"model": model_sha256, **course.identity()}
    team.check_same(facts)
    if way.resume:
        _restore(course, way, path, facts)
    saved = time.monotonic()
    while batches := course.batches():
        turn = batches[: team.world]
        with team.agreed():
            if team.first and time.monotonic() - saved >= SAVE_EVERY_S:
                _write(path, course.state(), facts)
                saved = time.monotonic()
            way.on_progress(course.news())
            mine = course.attack(turn[team.rank]) if team.rank < len(turn) else None
        for found in team.everyones(mine):
            if found is not None:
                course.book(found)


def _restore(course: Course, way: Way, path: Path, facts: dict[str, Any]) -> None:
    state = way.team.from_first(lambda: _read(path, facts))
    if state is None:
        way.notify(f"nothing to resume: there is no {path}; it starts anew")
        return
    with way.team.agreed():
        try:
            course.restore(state)
        except (ValueError, KeyError) as error:
            raise BadInput(f"{path} is damaged: {error}", hint=AGAIN) from error
    way.notify(f"resuming {course.news()}")


def _write(path: Path, state: State, facts: dict[str, Any]) -> None:
    table = {"format": FORMAT, "version": VERSION, "attack": facts}
    write_bytes(path, packed({**state, FACTS: table_of(table)}))


def _read(path: Path, facts: dict[str, Any]) -> State | None:
    """Return the state of this attack, or None where there is none.

    Raises:
        BadInput: Something else is there, naming what differs.
    """
    if not path.exists():
        return None
    state, table = unpacked(path, ARRAYS, what="state of an attack", hint=AGAIN)
    kept = table.get("attack")
    if (table.get("format"), table.get("version")) != (FORMAT, VERSION) or not isinstance(
        kept, dict
    ):
        raise BadInput(f"{path} is no state of an attack of this version", hint=AGAIN)
    changed = [name for name, value in facts.items() if kept.get(name) != value]
    if changed:
        raise BadInput(
            f"{path} belongs to another attack; changed: {', '.join(changed)}",
            hint="resume with the old values, or leave --resume out to start again",
        )
    return state
