"""Latencies measured on a device, kept to make later estimates for it better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.cache import config_folder
from sepdeploy.codec import dump, read
from sepdeploy.devices.estimate.model import MODEL
from sepdeploy.devices.profile import DeviceProfile
from sepdeploy.errors import BadInput
from sepdeploy.files import write_text
from sepdeploy.files.claims import Output, claimed
from sepdeploy.files.roles import Writes

ANCHORS_SCHEMA = "sepdeploy.anchors/1"
MAX_ANCHORS = 1 << 20  # bytes


@dataclass(frozen=True)
class Anchor:
    """One latency that was measured and estimated.

    Attributes:
        profile_sha256: Digest of the profile it was estimated from.
        model: The cost model's name and version.
        runtime: The runtime it was measured in.
        runtime_version: Its version, for readers: versions differ far less than devices.
        threads: Its threads.
        model_sha256: Digest of the file.
        measured_ms: Median latency.
        estimated_ms: What the cost model says without anchors.
        date: ISO date, for readers.
    """

    profile_sha256: str
    model: str
    runtime: str
    runtime_version: str
    threads: int
    model_sha256: str
    measured_ms: float
    estimated_ms: float
    date: str = ""

    def __post_init__(self) -> None:
        for value in (self.measured_ms, self.estimated_ms):
            if not 0 < value < float("inf"):
                raise BadInput(
                    f"an anchor needs positive times, found {value} ms",
                    hint="measure the device again: bench --device ID --host … --save-anchor",
                )

    @property
    def ratio(self) -> float:
        """Measured / estimated."""
        return self.measured_ms / self.estimated_ms


@dataclass(frozen=True)
class AnchorFile:
    """The anchors of one device."""

    device: str
    anchors: tuple[Anchor, ...]
    schema: str = ANCHORS_SCHEMA


def anchor_path(device: str) -> Path:
    """Return where a device's anchors are kept (``XDG_CONFIG_HOME`` is honoured)."""
    return config_folder() / "anchors" / f"{re.sub(r'[^a-z0-9+._-]', '_', device)}.json"


def load_anchors(device: str) -> tuple[Anchor, ...]:
    """Return the anchors of a device; none when there is no file.

    Raises:
        BadInput: The file is damaged.
    """
    path = anchor_path(device)
    if not path.is_file():
        return ()
    return read(AnchorFile, path, limit=MAX_ANCHORS).anchors


def save_anchor(device: str, anchor: Anchor) -> Path:
    """Keep an anchor; one of the same file, runtime and threads is replaced. Return the file."""
    path = anchor_path(device)
    with claimed([Output(path, Writes("anchors", waits=True), "--save-anchor")]):
        kept = [a for a in load_anchors(device) if _key(a) != _key(anchor)]
        write_text(path, dump(AnchorFile(device, (*kept, anchor))))
    return path


def _key(anchor: Anchor) -> tuple[object, ...]:
    return (
        anchor.profile_sha256,
        anchor.model,
        anchor.runtime,
        anchor.threads,
        anchor.model_sha256,
    )


def fitting(
    anchors: Sequence[Anchor], profile: DeviceProfile, *, runtime: str, threads: int
) -> tuple[Anchor, ...]:
    """Return the anchors that say something about a runtime on a device.

    Those of another profile (its figures were changed), cost model, runtime or number of threads
    do not count.
    """
    wanted = (profile.digest, MODEL, runtime, threads)
    return tuple(a for a in anchors if (a.profile_sha256, a.model, a.runtime, a.threads) == wanted)
