"""Files on disk: read with care, written whole or not at all, and never over what is needed."""

from __future__ import annotations

from sepdeploy.files.reading import (
    Watched,
    file_beside,
    open_plain,
    read_bytes,
    sha256_file,
)
from sepdeploy.files.scratch import scratch, temporary_folder
from sepdeploy.files.writing import (
    WRITE_HINT,
    atomic_path,
    check_writable,
    write_bytes,
    write_out,
    write_text,
)

__all__ = [
    "WRITE_HINT",
    "Watched",
    "atomic_path",
    "check_writable",
    "file_beside",
    "open_plain",
    "read_bytes",
    "scratch",
    "sha256_file",
    "temporary_folder",
    "write_bytes",
    "write_out",
    "write_text",
]
