"""Image files that a folder may hold: deep grey values, odd shapes, and what is no image at all."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sepdeploy.data import load
from sepdeploy.errors import BadInput

DEEP = np.array([[0, 127, 128, 129, 255], [256, 257, 4095, 32768, 65535]], dtype=np.uint16)
SHALLOW = np.array([[0, 0, 0, 1, 1], [1, 1, 16, 128, 255]], dtype=np.uint8)  # round(DEEP / 257)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, rows):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def deep_png(pixels):
    height, width = pixels.shape
    return png(width, height, 16, b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))


def pgm(pixels, white):
    height, width = pixels.shape
    return b"P5 %d %d %d\n" % (width, height, white) + pixels.astype(">u2").tobytes()


def tiff(pixels, *, bits=16, sample=1, black=1, order="<"):
    """An uncompressed grey file; ``sample``: 1 unsigned, 2 signed, 3 float."""
    height, width = pixels.shape
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: black, 273: 0, 277: 1, 278: height,
            279: len(raw), 339: sample}  # fmt: skip
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    table = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
                     for tag, value in tags.items())  # fmt: skip
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + table + struct.pack(f"{order}I", 0) + raw


def place(root, content, name="x.png"):
    for part in ("train", "test"):
        folder = root / part / "a"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [deep_png(DEEP), pgm(DEEP, 65535), tiff(DEEP), tiff(DEEP, order=">")],
    ids=["png", "pgm", "tiff", "tiff-big-endian"],
)
def test_sixteen_bits_are_scaled_to_eight(tmp_path, content):
    place(tmp_path, content)
    assert np.array_equal(load("image-folder", tmp_path).train.images, SHALLOW[None, None])
    place(tmp_path, png(5, 2, 8, b"\0abcde\0fghij"), "y.png")
    assert np.array_equal(load("image-folder", tmp_path).train.images[:1], SHALLOW[None, None])


def test_white_is_what_the_file_says(tmp_path):
    pixels = np.array([[0, 5, 500, 1000]], dtype=np.uint16)
    place(tmp_path, pgm(pixels, 1000))
    assert load("image-folder", tmp_path).train.images.ravel().tolist() == [0, 1, 128, 255]
    twelve = np.frombuffer(bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10]), np.uint8)[None]
    content = bytearray(tiff(twelve, bits=12))
    content[content.index(struct.pack("<HHI", 256, 3, 1)) + 8] = 4  # pixels, not bytes, a row
    place(tmp_path, bytes(content))
    assert load("image-folder", tmp_path).train.images.ravel().tolist() == [0, 255, 128, 1]


def test_deep_grey_among_colours_is_scaled_as_well(tmp_path):
    place(tmp_path, deep_png(DEEP), "a.png")
    Image.new("RGB", (5, 2)).save(tmp_path / "test" / "a" / "b.png")
    found = load("image-folder", tmp_path)
    assert np.array_equal(found.train.images, np.stack([SHALLOW] * 3)[None])


@pytest.mark.parametrize(
    "content",
    [
        tiff(DEEP.astype(np.uint32), bits=32),
        tiff(DEEP.view(np.int16), sample=2),
        tiff(DEEP / np.float32(65535), bits=32, sample=3),
        tiff(DEEP, black=0),
    ],
    ids=["32-bits", "signed", "float", "white-is-zero"],
)
def test_grey_values_without_a_known_white_are_refused(tmp_path, content):
    place(tmp_path, content)
    with pytest.raises(BadInput, match=r"x\.png: grey values in mode .* not known") as error:
        load("image-folder", tmp_path)
    assert "8 or 16" in error.value.hint


@pytest.mark.parametrize("shape", [(20_000, 1), (1, 20_000)])
def test_only_the_middle_of_a_long_image_is_scaled(tmp_path, monkeypatch, shape):
    width, height = shape
    place(tmp_path, png(width, height, 8, (b"\0" + b"\x07" * width) * height))
    made, resize = [], Image.Image.resize

    def watched(image, size, *args, **kwargs):
        made.append(size)
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    images = load("image-folder:64", tmp_path).train.images
    assert images.shape == (1, 1, 64, 64)
    assert (images == 7).all()
    assert set(made) == {(64, 64)}


@pytest.mark.parametrize(("width", "height"), [(50, 37), (31, 77), (16, 16), (9, 13), (333, 7)])
def test_the_middle_is_that_of_the_scaled_image(tmp_path, width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    place(tmp_path, b"")
    for part in ("train", "test"):
        Image.fromarray(pixels).save(tmp_path / part / "a" / "x.png")
    scale = 16 / min(width, height)
    scaled = (round(width * scale), round(height * scale))
    whole = np.asarray(Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR), int)
    left, top = (scaled[0] - 16) // 2, (scaled[1] - 16) // 2
    found = load("image-folder:16", tmp_path).train.images[0].transpose(1, 2, 0)
    assert np.abs(found - whole[top : top + 16, left : left + 16]).max() <= 1


@pytest.mark.parametrize("raises", [MemoryError(), OverflowError("too much"), KeyError(3)])
def test_whatever_pillow_answers_names_the_file(tmp_path, monkeypatch, raises):
    place(tmp_path, deep_png(DEEP))

    def fail(*_):
        raise raises

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(BadInput, match=r"x\.png: not a readable image") as error:
        load("image-folder", tmp_path)
    assert "\n" not in error.value.message


def test_more_pixels_than_the_system_gives(tmp_path, monkeypatch):
    from sepdeploy.data import image_folder

    class NoRoom:
        def __getattr__(self, name):
            return getattr(np, name)

        def empty(self, *args, **kwargs):
            raise MemoryError

    place(tmp_path, deep_png(DEEP))
    monkeypatch.setattr(image_folder, "np", NoRoom())
    with pytest.raises(BadInput, match="do not fit in memory"):
        load("image-folder", tmp_path)


def test_a_pipe_with_the_name_of_an_image(tmp_path):
    place(tmp_path, deep_png(DEEP))
    os.mkfifo(tmp_path / "train" / "a" / "p.png")
    with pytest.raises(BadInput, match=r"p\.png: not a regular file"):
        load("image-folder", tmp_path)
