"""The commands of README's "Use" run as they stand there, one after the other."""

from __future__ import annotations

import gzip
import re
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 48  # of each part: the commands are what is tested, not the network


def commands() -> list[str]:
    use = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Use\n", 1)[1]
    block = re.search(r"((?:^    .*\n)+)", use, re.MULTILINE)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines]


def write_mnist(folder: Path) -> None:
    """Bright squares whose place is their class, in the files that MNIST comes in."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part in ("train", "t10k"):
        labels = np.arange(IMAGES, dtype=np.uint8) % 10
        images = rng.integers(0, 60, (IMAGES, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 255
        heads = {
            "images-idx3": (struct.pack(">IIII", 0x803, IMAGES, 28, 28), images),
            "labels-idx1": (struct.pack(">II", 0x801, IMAGES), labels),
        }
        for what, (head, values) in heads.items():
            data = gzip.compress(head + values.tobytes())
            (folder / f"{part}-{what}-ubyte.gz").write_bytes(data)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(
    tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEPDEPLOY_DATA", raising=False)
    write_mnist(tmp_path / "DIR")
    found = commands()
    assert len(found) >= 10
    for line in found:
        words = shlex.split(line)
        assert words[0] == "sepdeploy"
        if "--device" in words:
            words += ["--require", "estimated"]  # emulation has tests of its own
        got = call(*words[1:])
        assert got.code == 0, f"{line}: {got.err}"
    for name in ("kron.onnx", "kron.tflite", "kron.manifest.json", "kron.eval.npz", "small.pt"):
        assert (tmp_path / name).is_file()
