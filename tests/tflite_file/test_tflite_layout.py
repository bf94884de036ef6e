"""The layout algebra, against numpy: a value's memory, put in logical order, is the array."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sepdeploy.exporters.tflite_file.format.graph import BATCH, Tensor
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.layout import Value

FLOAT = np.dtype(np.float32)


def read(value: Value, memory: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logical array that a value's note says its memory holds."""
    in_memory = memory.reshape([value.atoms[a] for a in value.order])
    return in_memory.transpose(np.argsort(value.order)).reshape(value.shape)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Value, NDArray[np.float32], NDArray[np.float32]]:
    """A value in a random memory order, its memory, and its logical array."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    order = draw(st.permutations(range(len(shape))))
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    memory = np.ascontiguousarray(array.transpose(order))
    value = layout.permuted(Tensor("t", memory.shape, FLOAT), shape, order)
    return value, memory, array


def factorings(size: int) -> st.SearchStrategy[list[int]]:
    @st.composite
    def build(draw: st.DrawFn) -> list[int]:
        rest, dims = size, [1] * draw(st.integers(0, 2))
        while rest > 1:
            dims.append(draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0])))
            rest //= dims[-1]
        return draw(st.permutations(dims))

    return build()


@given(arrays(), st.data())
def test_reshapes_and_transposes_only_change_the_note(
    start: tuple[Value, NDArray[np.float32], NDArray[np.float32]], data: st.DataObject
) -> None:
    value, memory, array = start
    assert np.array_equal(read(value, memory), array)
    for _ in range(data.draw(st.integers(0, 6))):
        if data.draw(st.booleans()):
            axes = data.draw(st.permutations(range(array.ndim)))
            value, array = layout.transpose(value, axes), array.transpose(axes)
        else:
            shape = tuple(data.draw(factorings(array.size)))
            moved = layout.reshape(value, shape)
            if moved is None:
                continue
            value, array = moved, array.reshape(shape)
        assert value.shape == array.shape
        assert np.array_equal(read(value, memory), array)


@given(arrays(), st.data())
def test_memory_in_logical_order_takes_any_shape(
    start: tuple[Value, NDArray[np.float32], NDArray[np.float32]], data: st.DataObject
) -> None:
    _, _, array = start
    value = layout.plain(Tensor("t", array.shape, FLOAT))
    shape = tuple(data.draw(factorings(array.size)))
    moved = layout.reshape(value, shape)
    assert moved is not None
    assert np.array_equal(read(moved, array), array.reshape(shape))


@given(arrays(), st.data())
def test_one_dimension_can_be_made_one_atom_or_is_said_to_be_apart(
    start: tuple[Value, NDArray[np.float32], NDArray[np.float32]], data: st.DataObject
) -> None:
    value, memory, array = start
    axis = data.draw(st.integers(0, array.ndim - 1))
    shape = (*array.shape[:axis], *_halves(array.shape[axis]), *array.shape[axis + 1 :])
    split = layout.reshape(value, shape)
    assert split is not None
    back = layout.reshape(split, array.shape)
    assert back is not None
    merged = layout.merge_axis(back, axis)
    if merged is not None:
        assert len(merged.groups()[axis]) <= 1
        assert np.array_equal(read(merged, memory), array)


def _halves(size: int) -> Sequence[int]:
    return (2, size // 2) if size % 2 == 0 else (size, 1)


@given(st.lists(st.integers(2, 6), max_size=4), st.data())
def test_a_common_factoring_refines_both(dims: list[int], data: st.DataObject) -> None:
    other = data.draw(factorings(math.prod(dims)))
    common = layout.common_atoms(dims, other)
    if common is None:
        assert layout.split_groups(dims, other) is None
        return
    assert math.prod(common) == math.prod(dims)
    assert layout.split_groups(common, dims) is not None
    assert layout.split_groups(common, [d for d in other if d != 1]) is not None


def test_the_open_batch_is_a_factor_like_any_other() -> None:
    tensor = Tensor("t", (BATCH, 7, 7, 64), FLOAT)
    value = layout.permuted(tensor, (BATCH, 64, 7, 7), (0, 2, 3, 1))
    flat = layout.reshape(value, (BATCH, 64 * 49))
    assert flat is not None
    assert flat.atoms == (BATCH, 64, 49)
    assert flat.order == (0, 2, 1)
    tokens = layout.reshape(value, (BATCH * 64, 49))
    assert tokens is not None
    assert tokens.groups() == [[0, 1], [2]]


def test_a_dimension_torn_apart_in_memory_is_not_reshaped_over() -> None:
    tensor = Tensor("t", (4, 6), FLOAT)
    value = layout.permuted(tensor, (6, 4), (1, 0))
    assert layout.reshape(value, (4, 6)) is None
    assert layout.reshape(value, (8, 3)) is None
    assert layout.reshape(value, (2, 3, 4)) is not None
