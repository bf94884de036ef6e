"""SVHN and the MATLAB files that hold it: small ones, cut ones, and ones that ask for too much."""

import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest

from sepdeploy.data import load, matlab
from sepdeploy.data.matlab import read_arrays
from sepdeploy.errors import BadInput

RNG = np.random.default_rng(0)


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
