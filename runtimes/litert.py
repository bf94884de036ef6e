"""TFLite files in LiteRT or in the older tflite-runtime."""

from __future__ import annotations

import mmap
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.files import open_plain
from sepdeploy.flatbuffer import DamagedError, metadata
from sepdeploy.runtimes.base import ENTRY_KEY, Session, translate
from sepdeploy.runtimes.native.claims import Claim
from sepdeploy.runtimes.runner.contract import RunnerError
from sepdeploy.runtimes.runner.table import load


def open_tflite(
    path: Path, threads: int = 1, runtime: str = "litert", claimed: Claim | None = None
) -> Session:
    """Open a TFLite file on the CPU; the caller's batches stay NCHW and float32.

    Args:
        path: The file.
        threads: How many threads the runtime may use.
        runtime: A name of ``RUNTIMES`` for .tflite files.
        claimed: What runs its custom nodes; by default nothing does.

    Raises:
        BadInput: The file is damaged or has several inputs.
        Missing: The runtime is not installed, or cannot work with this numpy.
    """
    claimed = claimed or Claim()
    try:
        with open_plain(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entry = metadata(data, ENTRY_KEY)
        model = load(runtime, str(path), threads, claimed.library)
    except DamagedError as error:
        raise BadInput(f"{path}: its tables are damaged", hint="is the file complete?") from error
    except RunnerError as error:
        raise translate(error) from error
    return Session(path, model, threads, entry, claimed.note)
