import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sepdeploy import data
from sepdeploy.errors import BadInput, Missing


def test_digits_are_scikit_learns_digits():
    digits, bundled = data.load("digits"), load_digits()
    for split in (digits.train, digits.test):
        assert split.images.dtype == np.uint8
        assert np.abs(split.batch(slice(None))[:, 0] - bundled.images[split.ids] / 16).max() < 0.002
        assert np.array_equal(split.labels, bundled.target[split.ids])


def test_the_test_split_is_fixed_and_balanced():
    digits = data.load("digits")
    assert np.bincount(digits.test.labels).tolist() == [34] * 10
    assert sorted([*digits.train.ids, *digits.test.ids]) == list(range(1797))
    assert digits.test.ids[:5].tolist() == data.load("digits").test.ids[:5].tolist()
    assert digits.input.shape == (1, 8, 8)
    assert digits.input.class_names == tuple("0123456789")


def test_digits_read_no_folder(tmp_path):
    with pytest.raises(BadInput, match="reads no folder"):
        data.load("digits", tmp_path)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(Missing, match="scikit-learn") as error:
        data.load("digits")
    assert "sepdeploy[train]" in error.value.hint
