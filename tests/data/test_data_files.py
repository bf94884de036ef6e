"""Data sets read from files, well-formed and not."""

import gzip
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sepdeploy import data
from sepdeploy.data import idx, npz
from sepdeploy.errors import BadInput, Missing

DATA = os.environ.get("SEPDEPLOY_DATA")


def idx_bytes(array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(5)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (20, 6, 7), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 6, 7), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
    }


@pytest.fixture
def idx_folder(tmp_path, arrays):
    for name, array in arrays.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


def one_line(error):
    assert "\n" not in error.value.message
    assert error.value.hint
    return error.value.message


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_gives_back_what_was_written(tmp_path, arrays, name, packed):
    folder = tmp_path / name if packed else tmp_path
    folder.mkdir(exist_ok=True)
    for stem, array in arrays.items():
        content = idx_bytes(array)
        file = folder / (f"{stem}.gz" if packed else stem)
        file.write_bytes(gzip.compress(content) if packed else content)
    loaded = data.load(name, tmp_path)
    assert np.array_equal(loaded.train.images[:, 0], arrays["train-images-idx3-ubyte"])
    assert np.array_equal(loaded.test.labels, arrays["t10k-labels-idx1-ubyte"])
    assert loaded.input.shape == (1, 6, 7)
    assert loaded.classes == 10
    assert loaded.input.class_names[0] == ("0" if name == "mnist" else "T-shirt/top")


def test_the_folder_comes_from_the_environment(idx_folder, monkeypatch):
    monkeypatch.setenv("SEPDEPLOY_DATA", str(idx_folder))
    assert len(data.load("mnist").train) == 20
    monkeypatch.delenv("SEPDEPLOY_DATA")
    with pytest.raises(BadInput, match="no folder given") as error:
        data.load("mnist")
    assert "--data-dir" in error.value.hint


def test_missing_folder_and_file(idx_folder):
    with pytest.raises(BadInput) as error:
        data.load("mnist", idx_folder / "nowhere")
    assert "nowhere does not exist" in one_line(error)
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BadInput) as error:
        data.load("mnist", idx_folder)
    assert "t10k-labels-idx1-ubyte" in one_line(error)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-3], "header promises"),
        (lambda raw: raw + b"x", "header promises"),
        (lambda raw: raw[:9], "too short"),
        (lambda raw: b"", "too short"),
        (lambda raw: b"\0\0\x0d" + raw[3:], "not an IDX file"),
        (lambda raw: b"PK" + raw[2:], "not an IDX file"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "header promises"),
    ],
)
def test_damaged_idx(idx_folder, arrays, damage, message):
    stem = "train-images-idx3-ubyte"
    (idx_folder / f"{stem}.gz").unlink()
    (idx_folder / stem).write_bytes(damage(idx_bytes(arrays[stem])))
    with pytest.raises(BadInput) as error:
        data.load("mnist", idx_folder)
    text = one_line(error)
    assert message in text
    assert str(idx_folder / stem) in text


@pytest.mark.parametrize("cut", [5, 40, -4])
def test_truncated_gzip(idx_folder, cut):
    file = idx_folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(BadInput) as error:
        data.load("mnist", idx_folder)
    assert str(file) in one_line(error)


def test_flipped_byte_in_gzip(idx_folder):
    file = idx_folder / "train-images-idx3-ubyte.gz"
    raw = bytearray(file.read_bytes())
    raw[-6] ^= 0xFF  # part of the checksum
    file.write_bytes(bytes(raw))
    with pytest.raises(BadInput, match="cannot be read"):
        data.load("mnist", idx_folder)


def test_no_more_is_inflated_than_the_header_promises(idx_folder, arrays, monkeypatch):
    stem = "t10k-images-idx3-ubyte"
    content = idx_bytes(arrays[stem])
    (idx_folder / f"{stem}.gz").write_bytes(gzip.compress(content + bytes(1 << 20)))
    taken, read = [], gzip.GzipFile.read

    def counted(stream, size=-1):
        found = read(stream, size)
        taken.append(len(found))
        return found

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(BadInput, match=r"promises 420 values .*, the file holds more"):
        idx.read_idx(idx_folder / f"{stem}.gz", dimensions=3)
    assert sum(taken) == len(content) + 1


def test_an_idx_file_for_a_larger_machine(idx_folder, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(gzip.GzipFile, "read", fail)
    with pytest.raises(BadInput, match="does not fit in memory"):
        data.load("mnist", idx_folder)


def test_labels_of_another_file(idx_folder, arrays):
    file = idx_folder / "train-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(idx_bytes(arrays["t10k-labels-idx1-ubyte"])))
    with pytest.raises(BadInput, match="10 labels for 20 images"):
        data.load("mnist", idx_folder)


@pytest.mark.skipif(not DATA, reason="SEPDEPLOY_DATA is not set")
def test_the_real_mnist():
    loaded = data.load("mnist")
    assert loaded.train.images.shape == (60000, 1, 28, 28)
    assert np.bincount(loaded.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert loaded.input.mean == (0.1307,)
    assert loaded.input.std == (0.3081,)


def save_image(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


@pytest.fixture
def image_root(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (2, 2, 3, 5, 4, 3), dtype=np.uint8)
    for p, part in enumerate(("train", "test")):
        for c, name in enumerate(("cat", "ant")):
            for k in range(3):
                save_image(tmp_path / part / name / f"{k}.png", pixels[p, c, k])
    return tmp_path, pixels


def test_image_folder_orders_classes_and_files_by_name(image_root):
    root, pixels = image_root
    loaded = data.load("image-folder", root)
    assert loaded.input.class_names == ("ant", "cat")
    assert loaded.input.shape == (3, 5, 4)
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(loaded.train.images[0], pixels[0, 1, 0].transpose(2, 0, 1))
    assert np.array_equal(loaded.test.images[5], pixels[1, 0, 2].transpose(2, 0, 1))


def test_grey_images_have_one_channel(tmp_path):
    pixels = np.arange(40, dtype=np.uint8).reshape(2, 4, 5)
    for part in ("train", "test"):
        for k in (0, 1):
            save_image(tmp_path / part / str(k) / "x.png", pixels[k])
    loaded = data.load("image-folder", tmp_path)
    assert loaded.input.shape == (1, 4, 5)
    assert np.array_equal(loaded.train.images[1, 0], pixels[1])
    save_image(tmp_path / "test" / "1" / "y.png", np.zeros((4, 5, 3), np.uint8))
    assert data.load("image-folder", tmp_path).input.shape == (3, 4, 5)


def test_image_folder_complaints(image_root):
    root, _ = image_root
    broken = root / "train" / "cat" / "1.png"
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2])
    with pytest.raises(BadInput) as error:
        data.load("image-folder", root)
    assert str(broken) in one_line(error)
    broken.write_bytes(b"not a picture")
    with pytest.raises(BadInput, match="not a readable image"):
        data.load("image-folder", root)
    save_image(broken, np.zeros((6, 4, 3), np.uint8))
    with pytest.raises(BadInput, match=r"4x6 pixels.*4x5"):
        data.load("image-folder", root)
    broken.write_bytes(good)
    save_image(root / "test" / "dog" / "0.png", np.zeros((5, 4, 3), np.uint8))
    with pytest.raises(BadInput, match="class 'dog' is not among the training classes"):
        data.load("image-folder", root)


def test_image_folder_without_images(tmp_path):
    with pytest.raises(BadInput, match="train does not exist"):
        data.load("image-folder", tmp_path)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=r"class folder .*cat holds no image"):
        data.load("image-folder", tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").unlink()
    (tmp_path / "train" / "cat").rmdir()
    with pytest.raises(BadInput, match="no class folder with images"):
        data.load("image-folder", tmp_path)


def test_without_pillow(image_root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Missing, match="Pillow") as error:
        data.load("image-folder", image_root[0])
    assert "sepdeploy[train]" in error.value.hint


@pytest.fixture
def npz_arrays():
    rng = np.random.default_rng(2)
    return {
        "x_train": rng.integers(0, 256, (8, 5, 4, 3), dtype=np.uint8),
        "y_train": np.arange(8) % 4,
        "x_test": rng.integers(0, 256, (4, 5, 4, 3), dtype=np.uint8),
        "y_test": np.arange(4)[:, None],
    }


def test_npz_layouts(tmp_path, npz_arrays):
    np.savez(tmp_path / "set.npz", **npz_arrays)
    loaded = data.load("set.npz", tmp_path)
    assert loaded.name == "set"
    assert loaded.input.shape == (3, 5, 4)
    assert loaded.input.class_names == ("0", "1", "2", "3")
    assert np.array_equal(loaded.train.images, npz_arrays["x_train"].transpose(0, 3, 1, 2))
    assert loaded.test.labels.tolist() == [0, 1, 2, 3]
    grey = npz_arrays | {k: npz_arrays[k][..., 0] for k in ("x_train", "x_test")}
    np.savez(tmp_path / "grey.npz", **grey, class_names=np.array(["a", "b", "c", "d"]))
    loaded = data.load(str(tmp_path / "grey.npz"))
    assert loaded.input.shape == (1, 5, 4)
    assert loaded.input.class_names == ("a", "b", "c", "d")
    assert np.array_equal(data.load("npz", tmp_path / "grey.npz").test.images, loaded.test.images)


def test_npz_floats(tmp_path, npz_arrays):
    floats = {k: v / 255 if k[0] == "x" else v for k, v in npz_arrays.items()}
    np.savez(tmp_path / "f.npz", **floats)
    loaded = data.load("f.npz", tmp_path)
    assert loaded.train.images.dtype == np.float32
    assert np.allclose(loaded.train.batch(slice(None)).transpose(0, 2, 3, 1), floats["x_train"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.full((8, 5, 4), np.nan)}, "values from nan"),
        ({"x_train": np.full((8, 5, 4), 7.0)}, "values from 0 to 7"),
        ({"x_train": np.zeros((8, 5, 4), np.int32)}, "type int32"),
        ({"x_train": np.zeros((8, 20), np.uint8)}, r"shape \(8, 20\)"),
        ({"y_train": np.zeros(8)}, "y_train is float64"),
        ({"y_train": np.zeros(7, int)}, r"y_train is int64\[7\] for 8 images"),
        ({"y_train": np.full(8, -1)}, "labels run from -1"),
        ({"y_test": np.full(4, 1 << 40)}, "labels go up to"),
        ({"x_test": np.array([object()])}, "not a readable"),
    ],
)
def test_npz_complaints(tmp_path, npz_arrays, change, message):
    np.savez(tmp_path / "bad.npz", **(npz_arrays | change))
    with pytest.raises(BadInput, match=message) as error:
        data.load("bad.npz", tmp_path)
    one_line(error)


def test_npz_files_that_are_none(tmp_path, npz_arrays):
    with pytest.raises(BadInput, match="does not exist"):
        data.load("no.npz", tmp_path)
    with pytest.raises(BadInput, match="no file given"):
        data.load("npz")
    good = tmp_path / "good.npz"
    np.savez(good, **npz_arrays)
    for cut in (0, 10, 200):
        (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:cut])
        with pytest.raises(BadInput, match=r"cut\.npz: not a readable"):
            data.load("cut.npz", tmp_path)
    np.savez(tmp_path / "few.npz", x_train=npz_arrays["x_train"])
    with pytest.raises(BadInput, match="lacks y_train, x_test, y_test"):
        data.load("few.npz", tmp_path)
    with (tmp_path / "one.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(BadInput, match="not an"):
        data.load("one.npz", tmp_path)


def test_an_npz_that_inflates_to_more_than_memory(tmp_path, npz_arrays, monkeypatch):
    much = npz_arrays | {"x_test": np.zeros((4, 1000, 1000), np.uint8)}
    np.savez_compressed(tmp_path / "bomb.npz", **much)
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr(npz, "MAX_BYTES", 1 << 20)
    with pytest.raises(BadInput, match=r"bomb\.npz: its arrays take more than"):
        data.load("bomb.npz", tmp_path)


def test_a_pickle_in_an_npz_does_not_run(tmp_path, npz_arrays):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    bomb = np.empty(8, dtype=object)
    bomb[:] = Bomb()
    np.savez(tmp_path / "bomb.npz", **(npz_arrays | {"y_train": bomb}))
    with pytest.raises(BadInput):
        data.load("bomb.npz", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_unknown_names_get_three_suggestions():
    with pytest.raises(BadInput, match="closest: mnist, fashion-mnist, digits"):
        data.load("minst")


@pytest.mark.parametrize("content", [b"no array at all", b"\x93NUMPY\x01\x00\x76\x00((("])
def test_an_npz_whose_member_is_no_array(tmp_path, content):
    path = tmp_path / "odd.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", content.ljust(128))
    with pytest.raises(BadInput) as error:
        data.load(str(path))
    assert "odd.npz" in one_line(error)


def test_an_archive_that_unpacks_to_far_more_than_images_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "SMALL_BYTES", 1 << 20)
    path = tmp_path / "bomb.npz"
    zeros = np.zeros((4000, 28, 28), np.uint8)
    labels = np.zeros(len(zeros), np.int64)
    np.savez_compressed(path, x_train=zeros, y_train=labels, x_test=zeros[:1], y_test=labels[:1])
    with pytest.raises(BadInput, match="which no images packed so small do"):
        data.load(str(path))
