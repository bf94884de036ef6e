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
