import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.data import Split, split_validation
from sepdeploy.data.dataset import channel_statistics, make_dataset
from sepdeploy.errors import BadInput


def make_split(n, classes=3, channels=1, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, channels, 4, 5)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    if dtype == np.float32:
        images = rng.random(shape, dtype=np.float32)
    return Split(images, np.arange(n, dtype=np.int64) % classes, np.arange(n, dtype=np.int64) + 7)


def test_batch_is_float32_division_by_255():
    split = Split(
        np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1),
        np.zeros(256, np.int64),
        np.arange(256),
    )
    batch = split.batch(slice(None))
    assert batch.dtype == np.float32
    expected = [np.float32(np.float32(v) / np.float32(255)) for v in range(256)]
    assert batch.ravel().tolist() == [float(v) for v in expected]
    assert batch.min() == 0
    assert batch.max() == 1


def test_batch_of_floats_is_a_copy():
    split = make_split(6, dtype=np.float32)
    batch = split.batch(slice(0, 2))
    batch[:] = 9
    assert split.images.max() < 1


def test_batch_follows_the_index():
    split = make_split(9)
    index = np.array([4, 4, 0])
    assert np.array_equal(split.batch(index), split.batch(slice(None))[[4, 4, 0]])


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_a_smaller_draw_is_part_of_a_larger_one(a, b, seed):
    split = make_split(20)
    small, large = (set(split.take(n, seed).ids.tolist()) for n in sorted((a, b)))
    assert small <= large
    assert len(large) == min(max(a, b), 20)


def test_take_depends_on_the_seed_only():
    split = make_split(50)
    assert np.array_equal(split.take(9, 1).ids, split.take(9, 1).ids)
    assert not np.array_equal(split.take(9, 1).ids, split.take(9, 2).ids)
    taken = split.take(9, 1)
    assert np.array_equal(taken.images, split.images[taken.ids - 7])
    with pytest.raises(BadInput, match="0 samples"):
        split.take(0)


@given(st.integers(4, 60), st.integers(1, 4), st.floats(0.01, 0.99), st.integers(0, 3))
def test_validation_is_disjoint_complete_and_has_every_class(n, classes, fraction, seed):
    split = make_split(max(n, 2 * classes), classes)
    train, held = split_validation(split, fraction, seed)
    both = np.concatenate([train.ids, held.ids])
    assert sorted(both.tolist()) == split.ids.tolist()
    assert set(held.labels.tolist()) == set(train.labels.tolist()) == set(range(classes))
    for label in range(classes):
        members = int((split.labels == label).sum())
        kept = int((held.labels == label).sum())
        assert abs(kept - fraction * members) <= 1


def test_validation_is_the_same_for_the_same_seed():
    split = make_split(60)
    first, again, other = (split_validation(split, 0.2, s)[1].ids for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_fractions(fraction):
    with pytest.raises(BadInput, match="not between 0 and 1"):
        split_validation(make_split(10), fraction, 0)


def test_single_images_cannot_be_held_out():
    with pytest.raises(BadInput, match="no validation image"):
        split_validation(make_split(3, classes=3), 0.5, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_agree_with_numpy(dtype):
    split = make_split(1500, channels=3, dtype=dtype)
    pixels = split.batch(slice(None)).astype(np.float64)
    mean, std = channel_statistics(split)
    assert mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), abs=6e-5)
    assert std == pytest.approx(pixels.std(axis=(0, 2, 3)), abs=6e-5)


def test_a_constant_channel_is_not_scaled():
    split = Split(np.full((4, 1, 2, 2), 128, np.uint8), np.zeros(4, np.int64), np.arange(4))
    assert channel_statistics(split)[1] == (1.0,)


def test_digest_sees_pixels_labels_and_types():
    split = make_split(6)
    changed = split.images.copy()
    changed[0, 0, 0, 0] ^= 1
    variants = [
        split,
        Split(changed, split.labels, split.ids),
        Split(split.images, split.labels[::-1], split.ids),
        Split(split.images.astype(np.float32), split.labels, split.ids),
    ]
    assert len({v.sha256() for v in variants}) == 4
    assert make_split(6).sha256() == split.sha256()


def test_splits_that_do_not_fit_together():
    names = ("a", "b", "c")
    with pytest.raises(BadInput, match="labels run from 0 to 2"):
        make_dataset("x", make_split(9), make_split(9), names[:2])
    wide = Split(np.zeros((3, 1, 4, 6), np.uint8), np.arange(3), np.arange(3))
    with pytest.raises(BadInput, match="training images are"):
        make_dataset("x", make_split(9), wide, names)
    empty = Split(np.zeros((0, 1, 4, 5), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
    with pytest.raises(BadInput, match="no test images"):
        make_dataset("x", make_split(9), empty, names)
