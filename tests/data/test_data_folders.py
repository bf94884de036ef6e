"""Data sets as folders of images: ImageNet's layout, and CIFAR written out as pictures."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sepdeploy.data import load
from sepdeploy.errors import BadInput


def picture(path, width, height, seed):
    Image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_an_imagenet_folder(tmp_path):
    own = picture(tmp_path / "train" / "n01" / "a.png", 12, 12, 1)
    picture(tmp_path / "train" / "n02" / "b.png", 40, 12, 2)
    wide = picture(tmp_path / "val" / "n01" / "c.png", 30, 12, 3)
    picture(tmp_path / "val" / "n02" / "d.png", 9, 25, 4)
    found = load("image-folder:12", tmp_path)
    assert found.train.images.shape == (2, 3, 12, 12)
    assert np.array_equal(found.train.images[0], own.transpose(2, 0, 1))
    assert np.array_equal(found.test.images[0], wide[:, 9:21].transpose(2, 0, 1))  # the middle
    assert found.input.class_names == ("n01", "n02")
    with pytest.raises(BadInput) as error:
        load("image-folder", tmp_path)
    assert "image-folder:12" in error.value.hint


@pytest.mark.parametrize("size", ["", "3", "9999", "x"])
def test_sizes_that_make_no_sense(size, tmp_path):
    with pytest.raises(BadInput, match="is no size between"):
        load(f"image-folder:{size}", tmp_path)


def test_more_images_than_memory(tmp_path, monkeypatch):
    from sepdeploy.data import image_folder

    for part in ("train", "val"):
        picture(tmp_path / part / "a" / "x.png", 8, 8, 0)
    monkeypatch.setattr(image_folder, "MAX_BYTES", 100)
    with pytest.raises(BadInput, match="do not fit"):
        load("image-folder:8", tmp_path)


@pytest.fixture
def abc(tmp_path):
    """Three classes of two images in both parts."""
    for part in ("train", "test"):
        for k, name in enumerate("abc"):
            for i in range(2):
                picture(tmp_path / part / name / f"{i}.png", 8, 8, 10 * k + i)
    return tmp_path


@pytest.mark.parametrize("ending", ["tiff", "jfif", "avif", "jpe", "jp2", "tga", "PNG", "qoi"])
def test_every_format_that_pillow_reads_by_itself(abc, ending):
    Image = pytest.importorskip("PIL.Image")
    kind = {"jfif": "JPEG", "jpe": "JPEG", "PNG": "PNG"}.get(ending)
    for path in (abc / "train" / "b").iterdir():
        Image.open(path).save(path.with_suffix(f".{ending}"), format=kind)
        if ending != "PNG":
            path.unlink()
    found = load("image-folder", abc)
    assert found.input.class_names == ("a", "b", "c")
    assert len(found.train) == (8 if ending == "PNG" else 6)
    assert found.notes == ()


def test_a_file_that_would_start_another_program_is_no_image(abc):
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    (abc / "train" / "a" / "x.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert any(".eps" in note for note in load("image-folder", abc).notes)
    (abc / "train" / "a" / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(BadInput, match=r"x\.png: not a readable image"):
        load("image-folder", abc)


def test_subfolders_are_read_and_links_to_above_end(abc):
    picture(abc / "train" / "a" / "more" / "deep" / "x.png", 8, 8, 99)
    (abc / "train" / "a" / "more" / "again").symlink_to(abc / "train" / "a")
    found = load("image-folder", abc)
    assert np.bincount(found.train.labels).tolist() == [3, 2, 2]


def test_what_is_passed_over_is_said_with_its_reason(abc):
    (abc / "train" / "a" / "._0.png").write_bytes(b"of a Mac")
    (abc / "train" / "b" / ".DS_Store").write_bytes(b"too")
    (abc / "train" / "b" / "list.txt").write_text("0.png")
    (abc / "train" / "readme.md").write_text("hello")
    (note,) = load("image-folder", abc).notes
    assert "4 files passed over" in note
    for part in ("2 hidden", "1 without an image's ending, as .txt", "1 outside the class folders"):
        assert part in note


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_folder_without_images_is_refused(abc, part):
    for path in (abc / part / "b").iterdir():
        path.rename(path.with_suffix(".dat"))
    with pytest.raises(BadInput, match=r"b holds no image"):
        load("image-folder", abc)


def test_hidden_classes_and_classes_that_differ_in_case_are_refused(abc):
    picture(abc / "train" / ".d" / "x.png", 8, 8, 0)
    with pytest.raises(BadInput, match=r"\.d is hidden but holds 1 images"):
        load("image-folder", abc)
    (abc / "train" / ".d" / "x.png").unlink()  # as the folders that programs leave behind
    picture(abc / "train" / "A" / "x.png", 8, 8, 0)
    with pytest.raises(BadInput, match="'A' and 'a' differ in case alone"):
        load("image-folder", abc)


def test_a_class_that_the_test_images_lack_is_said(abc):
    for path in (abc / "test" / "b").iterdir():
        path.unlink()
    (abc / "test" / "b").rmdir()
    found = load("image-folder", abc)
    assert found.input.class_names == ("a", "b", "c")
    assert found.test.labels.tolist() == [0, 0, 2, 2]
    assert [n for n in found.notes if "no images of class b" in n]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(
    ("ending", "options"), [("png", {}), ("webp", {"lossless": True}), ("tif", {})]
)
def test_images_are_loaded_the_way_they_are_shown(tmp_path, turn, ending, options):
    Image, ops = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    for part in ("train", "test"):
        path = tmp_path / part / "a" / f"0.{ending}"
        path.parent.mkdir(parents=True)
        exif = Image.Exif()
        exif[274] = turn
        Image.fromarray(pixels).save(path, exif=exif, **options)
    shown = np.asarray(ops.exif_transpose(Image.open(path)))
    assert np.array_equal(load("image-folder", tmp_path).train.images[0], shown.transpose(2, 0, 1))


def test_deep_grey_images_are_turned_too(tmp_path):
    Image, ops = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    deep = np.random.default_rng(0).integers(0, 1 << 16, (6, 6), dtype=np.uint16)
    for part in ("train", "test"):
        path = tmp_path / part / "a" / "0.png"
        path.parent.mkdir(parents=True)
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(deep).save(path, exif=exif)
    shown = np.asarray(ops.exif_transpose(Image.open(path))).astype(np.uint32)
    expected = ((shown * 255 + 32767) // 65535).astype(np.uint8)
    assert np.array_equal(load("image-folder", tmp_path).train.images[0, 0], expected)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_as_an_image_folder(name, tmp_path):
    root = tmp_path / name
    own = {n: picture(root / "train" / n / "x.png", 32, 32, k) for k, n in enumerate("cab")}
    picture(root / "test" / "b" / "y.png", 32, 32, 9)
    found = load(name, tmp_path)
    assert (found.name, found.input.class_names) == (name, ("a", "b", "c"))
    assert found.train.labels.tolist() == [0, 1, 2]
    for image, label in zip(found.train.images, "abc", strict=True):
        assert np.array_equal(image, own[label].transpose(2, 0, 1))
    assert found.test.labels.tolist() == [1]
    picture(root / "test" / "b" / "y.png", 16, 16, 9)
    with pytest.raises(BadInput, match="test images"):
        load(name, tmp_path)
    for path in root.rglob("*.png"):
        picture(path, 16, 16, 0)
    with pytest.raises(BadInput, match=rf"those of {name} \(3, 32, 32\)"):
        load(name, tmp_path)


def test_real_cifar_pictures(tmp_path):
    """Published facts: ten classes, and the mean and spread of the channels (of few images)."""
    archives = sorted(Path(os.environ.get("SEPDEPLOY_DATA") or "/nowhere").glob("cifar10*.zip"))
    if not archives:
        pytest.skip("no CIFAR-10 archives in SEPDEPLOY_DATA")
    taken = Counter()
    for archive in archives:
        with zipfile.ZipFile(archive) as files:
            for member in files.namelist():
                folder = member.rpartition("/")[0]
                if member.endswith(".png") and taken[folder] < 40:
                    taken[folder] += 1
                    files.extract(member, tmp_path / "cifar10")
    found = load("cifar10", tmp_path)
    assert (len(found.train), len(found.test)) == (400, 400)
    assert found.input.class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert np.bincount(found.train.labels).tolist() == [40] * 10
    assert found.input.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.03)
    assert found.input.std == pytest.approx((0.247, 0.243, 0.262), abs=0.03)
