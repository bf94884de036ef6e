"""CIFAR, SVHN and ImageNet-like folders, from small files in the original formats."""

import os
import pickle
import struct
import zipfile
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from sepdeploy.data import load, matlab, plain_pickle
from sepdeploy.data.matlab import read_arrays
from sepdeploy.data.plain_pickle import read_plain_pickle
from sepdeploy.errors import BadInput

RNG = np.random.default_rng(0)


def images(n):
    return RNG.integers(0, 256, (n, 3072), dtype=np.uint8)


def dump(path, table, protocol=2):
    path.write_bytes(pickle.dumps(table, protocol=protocol))


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = {}
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        batches[name] = {b"data": images(6), b"labels": [0, 1, 2, 3, 4, 5],
                         b"filenames": [b"x.png"] * 6}  # fmt: skip
        dump(folder / name, batches[name])
    dump(folder / "batches.meta", {b"label_names": [b"c%d" % k for k in range(10)]})
    return tmp_path, batches


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar10(cifar10, protocol):
    folder, batches = cifar10
    for name, table in batches.items():
        dump(folder / "cifar-10-batches-py" / name, table, protocol)
    found = load("cifar10", folder)
    assert (len(found.train), len(found.test), found.classes) == (30, 6, 10)
    expected = np.concatenate([batches[f"data_batch_{k}"][b"data"] for k in range(1, 6)])
    assert np.array_equal(found.train.images, expected.reshape(-1, 3, 32, 32))
    assert found.train.labels.tolist() == [0, 1, 2, 3, 4, 5] * 5
    assert found.input.class_names[3] == "c3"


def test_a_pickle_as_python_2_wrote_it(tmp_path):
    raw = bytes(range(12))
    stream = (
        b"\x80\x02}q\x00U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
        b"q\x03K\x00\x85U\x01b\x87Rq\x04(K\x01K\x03K\x04\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01"
        b"\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x0c"
        + raw
        + b"tbs."
    )
    path = tmp_path / "batch"
    path.write_bytes(stream)
    found = read_plain_pickle(path)
    assert np.array_equal(found["data"], np.arange(12, dtype=np.uint8).reshape(3, 4))


def test_cifar100(tmp_path):
    names = [f"n{k}" for k in range(100)]
    for part, n in (("train", 9), ("test", 4)):
        table = {"data": images(n), "fine_labels": list(range(n)), "coarse_labels": [0] * n}
        dump(tmp_path / part, table, 4)
    dump(tmp_path / "meta", {"fine_label_names": names})
    found = load("cifar100", tmp_path)
    assert found.test.labels.tolist() == [0, 1, 2, 3]
    assert found.classes == 100


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_file_is_run(cifar10, protocol):
    folder, _ = cifar10
    target = folder / "ran"
    dump(folder / "cifar-10-batches-py" / "test_batch", {"data": Touch(target)}, protocol)
    with pytest.raises(BadInput, match="refused"):
        load("cifar10", folder)
    assert not target.exists()


def forged(opcode):
    return b"\x80\x02}" + opcode + b"."


@pytest.mark.parametrize(
    "data",
    [
        b"", b"nonsense", b"\x80\x02", forged(b"r\xff\xff\xff\x7f"), forged(b"T\xff\xff\xff\x7f"),
        pickle.dumps([1, 2]), pickle.dumps({"data": np.arange(4.0)}),
        pickle.dumps({"data": np.array([print], dtype=object)}), pickle.dumps({"data": np.uint8}),
        b"\x80\x02cos\nsystem\nU\x04exitq\x00\x85R.", b"(" * 100_000,
    ],
)  # fmt: skip
def test_damaged_and_hostile_pickles(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BadInput) as error:
        read_plain_pickle(tmp_path / "x")
    assert "\n" not in error.value.message


def laughs(levels, last=b""):
    """A dictionary whose key is a tuple of two tuples of two tuples …, each there once."""
    return b"\x80\x02}N" + b"".join(b"\x85q\x01h\x01" if k == 0 else b"\x86q\x01h\x01"
                                    for k in range(levels)) + b"\x86" + last + b"Ns."  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (laughs(40), "a tuple of more than 1024 values"),
        (laughs(40, b"(e"), "a tuple of more than 1024 values"),
        (b"\x80\x02}N" + b"\x85" * 1_000_000 + b"Ns.", "a tuple of more than 1024 values"),
        (b"\x80\x02}N\x85" + b"2\x86" * 40 + b"Ns.", "DUP, which is refused"),
        (b"\x80\x04}(K\x01\x91Ns.", "FROZENSET, which is refused"),
        (b"\x80\x02}N\x85Ns.", "a key that is no short text"),
        (b"\x80\x02}K\x01Ns.", "a key that is no short text"),
        (pickle.dumps({"x" * 257: 1}), "a key that is no short text"),
        (b"\x80\x02s.", "an empty stack"),
        # A tuple that other operations touch, and leave as it is, stays what it weighs.
        (b"\x80\x02}" + b"N\x85" + b"(eq\x01h\x01\x86" * 40 + b"Ns.", "more than 1024 values"),
        (b"\x80\x02}" + b"N\x85" + b"(uq\x01h\x01\x86" * 40 + b"Ns.", "more than 1024 values"),
        (b"\x80\x02}" + b"N\x85" + b"Nbq\x01h\x01\x86" * 40 + b"Ns.", "more than 1024 values"),
    ],
)  # fmt: skip
def test_pickles_that_describe_more_than_there_is_time_for(tmp_path, data, message):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BadInput, match=message):
        read_plain_pickle(tmp_path / "x")


def test_operations_are_counted(tmp_path, monkeypatch):
    dump(tmp_path / "x", {"a": list(range(50))})
    assert read_plain_pickle(tmp_path / "x") == {"a": list(range(50))}
    monkeypatch.setattr(plain_pickle, "MAX_OPERATIONS", 40)
    with pytest.raises(BadInput, match="more than 40 operations"):
        read_plain_pickle(tmp_path / "x")


@pytest.mark.parametrize("shape", [[2, 3], (1,) * 33, (1 << 40, 0), (True, 6), ((6,),)])
def test_arrays_with_odd_shapes(tmp_path, shape):
    class Odd:
        def __reduce__(self):
            build, arguments, state = np.zeros(6, np.uint8).__reduce__()
            return build, arguments, (state[0], shape, *state[2:])

    dump(tmp_path / "x", {"data": Odd()})
    with pytest.raises(BadInput, match="an array without"):
        read_plain_pickle(tmp_path / "x")


@pytest.mark.parametrize("name", [3, ("a", "b"), None, "x" * 257, ["a"]])
def test_class_names_are_short_texts(cifar10, name):
    folder, _ = cifar10
    names = [f"c{k}" for k in range(9)]
    dump(folder / "cifar-10-batches-py" / "batches.meta", {"label_names": [*names, name]})
    with pytest.raises(BadInput, match="a class name in 'label_names' is no short text"):
        load("cifar10", folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"data": images(2)}, "'labels' does not label"),
        ({"data": images(2), "labels": [0]}, "'labels' does not label"),
        ({"data": images(2), "labels": [0, 10]}, "a label is outside 0 … 9"),
        ({"data": images(2), "labels": ["a", "b"]}, "'labels' does not label"),
        ({"data": images(2)[:, :5], "labels": [0, 1]}, "no table of 3x32x32 images"),
        ({"labels": [0, 1]}, "no table of 3x32x32 images"),
    ],
)
def test_cifar_files_that_hold_something_else(cifar10, table, message):
    folder, _ = cifar10
    dump(folder / "cifar-10-batches-py" / "data_batch_3", table)
    with pytest.raises(BadInput, match=message):
        load("cifar10", folder)


def test_a_missing_file(cifar10):
    folder, _ = cifar10
    (folder / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(BadInput, match="test_batch is not there"):
        load("cifar10", folder)


def element(kind, data, order="<"):
    if len(data) <= 4 and kind != 15:
        return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    padding = b"" if kind == 15 else b"\0" * (-len(data) % 8)
    return struct.pack(f"{order}II", kind, len(data)) + data + padding


def matrix(name, array, order="<"):
    kind = {"u1": 2, "f8": 9, "i2": 3}[array.dtype.str[1:]]
    body = element(6, struct.pack(f"{order}II", 9, 0), order)
    body += element(5, struct.pack(f"{order}{array.ndim}i", *array.shape), order)
    body += element(1, name.encode(), order)
    body += element(kind, array.astype(array.dtype.newbyteorder(order)).tobytes("F"), order)
    return element(14, body, order)


def mat_file(arrays, *, deflate=False, order="<"):
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100)
    header += b"IM" if order == "<" else b"MI"
    parts = [matrix(name, array, order) for name, array in arrays.items()]
    return header + b"".join(element(15, zlib.compress(p), order) if deflate else p for p in parts)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_matlab_arrays(tmp_path, deflate, order):
    arrays = {
        "X": RNG.integers(0, 255, (3, 4, 2), dtype=np.uint8),
        "y": RNG.random((5, 1)),
        "s": np.array([[7]], dtype=np.int16),
    }
    (tmp_path / "a.mat").write_bytes(mat_file(arrays, deflate=deflate, order=order))
    found = read_arrays(tmp_path / "a.mat")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[k], arrays[k]) for k in arrays)


def test_svhn(tmp_path):
    pixels = {part: RNG.integers(0, 255, (32, 32, 3, n), dtype=np.uint8)
              for part, n in (("train", 11), ("test", 4))}  # fmt: skip
    for part, X in pixels.items():
        y = (np.arange(X.shape[3], dtype=np.uint8) % 10 + 1)[:, None]
        data = mat_file({"X": X, "y": y}, deflate=True)
        (tmp_path / f"{part}_32x32.mat").write_bytes(data)
    found = load("svhn", tmp_path)
    assert found.train.images.shape == (11, 3, 32, 32)
    assert np.array_equal(found.train.images[2, 1], pixels["train"][:, :, 1, 2])
    assert found.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


@pytest.mark.parametrize("label", [np.nan, np.inf, 0.5, -1, 11, 1e300])
def test_svhn_labels_are_digits(tmp_path, label):
    arrays = {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1.0], [label]])}
    (tmp_path / "train_32x32.mat").write_bytes(mat_file(arrays))
    with pytest.raises(BadInput, match="a label is none of 0 … 10"):
        load("svhn", tmp_path)


@pytest.mark.parametrize("cut", [0, 10, 127, 130, 200, -9])
def test_damaged_matlab_files(tmp_path, cut):
    data = mat_file({"X": RNG.integers(0, 255, (32, 32, 3, 2), dtype=np.uint8)}, deflate=True)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(data[:cut])
    with pytest.raises(BadInput) as error:
        load("svhn", tmp_path)
    assert "\n" not in error.value.message


@pytest.mark.parametrize("seed", range(20))
def test_matlab_files_with_flipped_bytes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    arrays = {"X": rng.integers(0, 255, (4, 4, 3, 2), dtype=np.uint8), "y": np.ones((2, 1))}
    data = bytearray(mat_file(arrays, deflate=seed % 2 == 0))
    for at in rng.integers(124, len(data), 6):
        data[at] = rng.integers(256)
    path = tmp_path / "m.mat"
    path.write_bytes(bytes(data))
    with suppress(BadInput):  # nothing else may be raised
        read_arrays(path)


def mat(*parts):
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + b"".join(parts)


def many_parts(n):
    return element(14, element(6, b"1234") * n)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([element(15, zlib.compress(element(15, zlib.compress(matrix("X", np.ones((2, 2)))))))],
         "a deflated element inside a deflated one"),
        ([element(15, zlib.compress(struct.pack("<II", 14, 1 << 30) + bytes(99)))],
         "more than 536870912 bytes of arrays"),
        ([element(15, zlib.compress(matrix("X", np.ones((9, 9))) + bytes(99)))], "longer than"),
        ([element(15, zlib.compress(b"1234"))], "cut off"),
        ([matrix("X", np.ones((1, 1)))] * 1025, "more than 1024 elements"),
        ([element(14, element(6, bytes(8)) + element(5, struct.pack("<33i", *[1] * 33))
                  + element(1, b"X") + element(9, bytes(8)))], "more than 32 dimensions"),
    ],
)  # fmt: skip
def test_matlab_files_that_ask_for_too_much(tmp_path, parts, message):
    path = tmp_path / "m.mat"
    path.write_bytes(mat(*parts))
    with pytest.raises(BadInput, match=message) as error:
        read_arrays(path)
    assert "\n" not in error.value.message
    assert error.value.hint


def test_all_that_a_matlab_file_inflates_to_is_counted(tmp_path, monkeypatch):
    arrays = {name: np.zeros((100, 10)) for name in "abc"}
    path = tmp_path / "m.mat"
    path.write_bytes(mat_file(arrays, deflate=True))
    assert read_arrays(path).keys() == arrays.keys()
    monkeypatch.setattr(matlab, "MAX_BYTES", 20_000)
    with pytest.raises(BadInput, match="more than 20000 bytes of arrays"):
        read_arrays(path)


def test_cells_of_many_parts_are_passed_over_unread(tmp_path, monkeypatch):
    taken, elements = [], matlab._elements

    def counted(data, order):
        for found in elements(data, order):
            taken.append(found[0])
            yield found

    monkeypatch.setattr(matlab, "_elements", counted)
    (tmp_path / "m.mat").write_bytes(mat(many_parts(100_000), matrix("y", np.ones((2, 1)))))
    assert read_arrays(tmp_path / "m.mat").keys() == {"y"}
    assert len(taken) < 20


@pytest.mark.parametrize("raises", [MemoryError, RecursionError])
def test_a_matlab_file_for_a_larger_machine(tmp_path, monkeypatch, raises):
    def fail(*_):
        raise raises

    (tmp_path / "m.mat").write_bytes(mat_file({"X": np.ones((2, 2))}))
    monkeypatch.setattr(matlab, "_matrix", fail)
    with pytest.raises(BadInput, match=r"m\.mat: too large for memory"):
        read_arrays(tmp_path / "m.mat")


def test_another_version_of_matlab(tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 200)
    with pytest.raises(BadInput, match=r"MATLAB 7\.3"):
        load("svhn", tmp_path)


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
