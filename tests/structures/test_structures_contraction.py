from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.structures.contraction import best_order, contraction_macs


def macs_by_simulation(in_shape, out_shape, order):
    shape, total = list(in_shape), 0
    for mode in order:
        places = 1
        for k, n in enumerate(shape):
            places *= 1 if k == mode else n
        total += places * in_shape[mode] * out_shape[mode]
        shape[mode] = out_shape[mode]
    return total


@st.composite
def shapes(draw):
    d = draw(st.integers(2, 5))
    sizes = st.tuples(*[st.integers(1, 40)] * d)
    return draw(sizes), draw(sizes)


@given(shapes())
def test_the_sorted_order_is_the_best_of_all(pair):
    in_shape, out_shape = pair
    costs = {
        order: macs_by_simulation(in_shape, out_shape, order)
        for order in permutations(range(len(in_shape)))
    }
    chosen = best_order(in_shape, out_shape)
    assert costs[chosen] == min(costs.values())
    assert contraction_macs(in_shape, out_shape, chosen) == costs[chosen]


def test_ties_start_with_the_contiguous_mode():
    assert best_order((8, 8), (8, 8)) == (1, 0)
    assert best_order((4, 4, 4), (4, 4, 4)) == (2, 1, 0)


def test_many_modes_are_ordered_at_once():
    assert sorted(best_order((2,) * 12, tuple(range(1, 13)))) == list(range(12))
