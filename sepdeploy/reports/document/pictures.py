"""Adversarial images beside their originals, the perturbation magnified and its spectrum."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sepdeploy.workflows.reporting.dossier import EvalPack

SHOWN = 6
LARGEST = 96  # pixels of a side; a larger image is thinned out
DECADES = 3.0


@dataclass(frozen=True)
class Picture:
    """Images side by side, each as a data URI with its words, and what they show."""

    images: tuple[tuple[str, str], ...]
    caption: str


def examples(pack: EvalPack) -> tuple[list[Picture], str]:
    """Return images that were right and are wrong now, and a sentence about all of them."""
    if pack.adversarial is None or pack.images.ndim != 4 or pack.images.shape[1] not in (1, 3):
        return [], "Its samples are no images of one or three channels: none are shown."
    before = pack.logits.argmax(1)
    after = before if pack.adversarial_logits is None else pack.adversarial_logits.argmax(1)
    fooled = np.flatnonzero((before == pack.labels) & (after != pack.labels))
    clean = pack.clean()
    found = []
    for index in fooled[:SHOWN]:
        change = pack.adversarial[index] - clean[index]
        top = float(np.abs(change).max()) or 1.0
        images = (
            (_uri(clean[index]), f"Image {pack.ids[index]}"),
            (_uri(pack.adversarial[index]), "The same image, attacked"),
            (_uri(0.5 + change / (2 * top)), f"The change, {0.5 / top:.3g} times as strong"),
            (_uri(spectrum(change)), "Its spectrum, the lowest frequency in the middle"),
        )
        said = f"Image {pack.ids[index]}: {before[index]} becomes {after[index]}; largest change "
        found.append(Picture(images, f"{said}{top:.3g} (= {255 * top:.3g}/255)"))
    total = f"{len(fooled)} of {len(pack)} images were right and are wrong under the attack."
    order = " Image, attacked image, the change magnified, its spectrum over three decades."
    return found, total + (order if found else "")


def spectrum(change: NDArray[Any]) -> NDArray[np.float64]:
    """Return the energy of a change (C, H, W) by frequency as (1, H, W) in [0, 1], logarithmic."""
    plane = np.abs(np.fft.fftshift(np.fft.fft2(change.astype(np.float64)), axes=(1, 2))) ** 2
    energy = plane.sum(0, keepdims=True)
    top = float(energy.max()) or 1.0
    logs: NDArray[np.float64] = np.log10(np.maximum(energy / top, 10**-DECADES))
    return 1 + logs / DECADES


def _uri(image: NDArray[Any]) -> str:
    """Return (C, H, W) in [0, 1] as the data URI of a PNG."""
    step = max(1, -(-max(image.shape[1:]) // LARGEST))
    pixels = np.rint(255 * np.clip(image[:, ::step, ::step], 0, 1)).astype(np.uint8)
    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    high, wide, channels = rows.shape
    raw = b"".join(b"\0" + row.tobytes() for row in rows)  # a filter byte before every line
    head = struct.pack(">IIBBBBB", wide, high, 8, 2 if channels == 3 else 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    return f"data:image/png;base64,{b64encode(data).decode()}"
