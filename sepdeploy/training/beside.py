"""The files of a training: the model, and what is written beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sepdeploy.files.roles import Values, Writes


def checkpoint_path(out: Path) -> Path:
    """Return where the training of ``out`` keeps its state: ``STEM.training.pt`` beside it."""
    return out.with_name(f"{out.stem}.training.pt")


def history_path(out: Path) -> Path:
    """Return the history file of ``out``: ``STEM.history.jsonl`` beside it."""
    return out.with_name(f"{out.stem}.history.jsonl")


def training_files(out: Path, values: Values) -> Iterator[Path]:
    """Give everything that a training of ``out`` writes."""
    yield out
    yield history_path(out)
    yield checkpoint_path(out)


TRAINED = Writes("a model file", (".pt", ".pth"), training_files)
