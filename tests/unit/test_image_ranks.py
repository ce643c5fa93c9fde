"""Ranks of pairs of images without some images are those of sorting them anew."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from scipy.stats import rankdata

from convergence.similarity.image_ranks import RECENT, PairOrder, RecentOrders, counted_pairs


def similarity(n: int, decimals: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5))
    return (x @ x.T).round(decimals)


@pytest.mark.parametrize("decimals", [0, 1, 15])
@pytest.mark.parametrize("left_out", [None, 0, 1, 20, 37, 38, 39, 40])
def test_ranks_are_those_of_the_counted_pairs_alone(decimals, left_out):
    matrix = similarity(40, decimals)
    order = PairOrder(matrix)
    kept = None
    if left_out is not None:
        kept = np.ones(40, bool)
        kept[np.random.default_rng(1).permutation(40)[:left_out]] = False
    own = matrix if kept is None else matrix[np.ix_(kept, kept)]
    values = own[np.triu_indices(len(own), 1)]
    np.testing.assert_array_equal(order.ranks(counted_pairs(kept)), rankdata(values.round(12)))


def test_differences_of_rounding_are_ties():
    matrix = np.ones((4, 4)) + 1e-15 * np.random.default_rng(0).standard_normal((4, 4))
    np.testing.assert_array_equal(PairOrder(matrix).ranks(None), np.full(6, 3.5))


def test_orders_are_made_once_for_the_same_samples_and_forgotten_with_them():
    orders, made = RecentOrders(), []

    def order_of(samples, kind="a"):
        def make():
            made.append(kind)
            return similarity(6, 3, seed=len(made))

        return orders.of(samples, kind, make)

    x, y = np.zeros((6, 2)), np.zeros((6, 2))
    first = order_of(x)
    assert order_of(x) is first
    assert order_of(y) is not first, "equal samples are other samples"
    assert order_of(x, "b") is not first
    assert len(made) == 3
    more = [np.zeros((6, 2)) for _ in range(RECENT)]
    for samples in more:
        order_of(samples)
    assert order_of(x) is not first, "only the last ones are kept"
    assert len(orders._found) == RECENT
    del more, samples
    gc.collect()
    order_of(y)
    assert len(orders._found) == 2, "orders of samples that are gone are forgotten"
