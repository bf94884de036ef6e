"""CIFAR in its Python form: small files in the original format, and hostile pickles."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from sepdeploy.data import load, plain_pickle
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
        b"", b"nonsense", b"\x80\x02", forged(b"T\xff\xff\xff\x7f"),
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


def test_a_forged_index_costs_no_memory(tmp_path):
    (tmp_path / "x").write_bytes(forged(b"r\xff\xff\xff\x7f"))
    assert read_plain_pickle(tmp_path / "x") == {}


def laughs(levels, last=b""):
    """A dictionary whose key is a tuple of two tuples of two tuples …, each there once."""
    return b"\x80\x02}N" + b"".join(b"\x85q\x01h\x01" if k == 0 else b"\x86q\x01h\x01"
                                    for k in range(levels)) + b"\x86" + last + b"Ns."  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (laughs(40), "unhashable"),
        (laughs(40, b"(e"), "unhashable"),
        pytest.param(
            b"\x80\x02}N" + b"\x85" * 1_000_000 + b"Ns.", "unhashable", marks=pytest.mark.slow
        ),
        (b"\x80\x02}N\x85" + b"2\x86" * 40 + b"Ns.", "operation b'2', which is refused"),
        (b"\x80\x04}(K\x01\x91Ns.", "which is refused"),
        (b"\x80\x02}N\x85Ns.", "unhashable"),
        (b"\x80\x02}K\x01Ns.", "a key that is no short text"),
        (pickle.dumps({"x" * 257: 1}), "a key that is no short text"),
        (b"\x80\x02s.", "pop from empty list"),
        # A tuple that other operations touch stays one.
        (b"\x80\x02}" + b"N\x85" + b"(eq\x01h\x01\x86" * 40 + b"Ns.", "unhashable"),
        (b"\x80\x02}" + b"N\x85" + b"(uq\x01h\x01\x86" * 40 + b"Ns.", "unhashable"),
        (b"\x80\x02}" + b"N\x85" + b"Nbq\x01h\x01\x86" * 40 + b"Ns.", "unhashable"),
        (b"\x80\x02}X\x01\x00\x00\x00a\x96" + b"\xff" * 7 + b"\x7fs.", "which is refused"),
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
