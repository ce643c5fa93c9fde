"""Matching and semi-matching: planted permutations, rectangles, ties and refusals."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from convergence.alignment.matching import Matching, aligned_order, cycle_order, matching, overlap, semi_matching
from convergence.errors import UserError


def test_a_planted_permutation_comes_back() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.permutation(30)
    similarity = rng.uniform(-0.4, 0.4, (30, 30))
    similarity[np.arange(30), hidden] = rng.uniform(0.5, 1.0, 30)
    np.testing.assert_array_equal(semi_matching(similarity), hidden)
    found = matching(similarity)
    np.testing.assert_array_equal(found.columns, hidden)
    agreement = overlap(similarity, found)
    assert agreement.share == 1.0
    assert len(agreement.never_chosen) == 0
    assert len(agreement.mutual) == 30


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (1, 3)])
def test_matching_is_the_best_of_all_assignments(shape: tuple[int, int]) -> None:
    similarity = np.random.default_rng(1).uniform(-1, 1, shape)
    tall = similarity if shape[0] <= shape[1] else similarity.T
    best = max(
        sum(tall[i, j] for i, j in enumerate(choice)) for choice in permutations(range(tall.shape[1]), tall.shape[0])
    )
    found = matching(similarity)
    assert found.values.sum() == pytest.approx(best)
    assert found.mean == pytest.approx(best / min(shape))
    rows = np.concatenate([found.rows, found.unmatched_rows])
    columns = np.concatenate([found.columns, found.unmatched_columns])
    np.testing.assert_array_equal(np.sort(rows), np.arange(shape[0]))
    np.testing.assert_array_equal(np.sort(columns), np.arange(shape[1]))


def test_ties_go_to_the_lowest_index() -> None:
    np.testing.assert_array_equal(semi_matching(np.ones((3, 4))), [0, 0, 0])


def test_overlap_equals_definition() -> None:
    similarity = np.array([[0.9, 0.1, 0.0], [0.8, 0.5, 0.0], [0.0, 0.6, 0.1]])
    # Semi-matching takes 0, 0, 1; the best assignment is 0-0, 1-1, 2-2 (1.5) or 0-0, 1-2, 2-1 (1.5): any of
    # the two.
    agreement = overlap(similarity)
    np.testing.assert_array_equal(agreement.in_degree, [2, 1, 0])
    np.testing.assert_array_equal(agreement.never_chosen, [2])
    np.testing.assert_array_equal(agreement.mutual, [[0, 0], [2, 1]])
    columns = matching(similarity).columns
    assert agreement.share == pytest.approx(np.mean(columns == [0, 0, 1]))


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_aligned_order_puts_pairs_on_a_falling_diagonal(shape: tuple[int, int]) -> None:
    similarity = np.random.default_rng(2).uniform(-1, 1, shape)
    order_x, order_y = aligned_order(similarity)
    assert sorted(order_x) == list(range(shape[0]))
    assert sorted(order_y) == list(range(shape[1]))
    diagonal = np.diagonal(similarity[order_x][:, order_y])
    assert np.all(np.diff(diagonal) <= 0)
    assert diagonal.sum() == pytest.approx(matching(similarity).values.sum())


def given(partner: list[int], n_y: int) -> Matching:
    """A matching whose unit i of x goes with ``partner[i]`` of y, -1 for none."""
    rows = np.flatnonzero(np.array(partner) >= 0)
    columns = np.array(partner)[rows]
    return Matching(
        rows=rows,
        columns=columns,
        values=np.ones(len(rows)),
        mean=1.0,
        unmatched_rows=np.setdiff1d(np.arange(len(partner)), rows),
        unmatched_columns=np.setdiff1d(np.arange(n_y), columns),
    )


def test_cycles_lie_on_the_first_superdiagonal_longest_first() -> None:
    # 0 -> 3 -> 0, 1 -> 4 -> 6 -> 1, 2 -> 2, 5 -> 7 -> 5
    partner = [3, 4, 2, 0, 6, 7, 1, 5]
    order_x, order_y = cycle_order(given(partner, 8), 8, 8)
    np.testing.assert_array_equal(order_x, [1, 4, 6, 0, 3, 5, 7, 2])
    np.testing.assert_array_equal(order_y, order_x)
    pairs = np.zeros((8, 8))
    pairs[np.arange(8), partner] = 1
    wraps = {(2, 0), (4, 3), (6, 5), (7, 7)}
    expected = {(0, 1), (1, 2), (3, 4), (5, 6)} | wraps
    assert set(map(tuple, np.argwhere(pairs[order_x][:, order_y]).tolist())) == expected


def test_chains_lie_on_the_diagonal_after_the_cycles_and_unmatched_units_come_last() -> None:
    # The cycle 1 -> 2 -> 1; the chains 0 -> 6 and 3 -> 5 -> 4 -> 8; 6 and 7 of y's indices lead nowhere.
    order_x, order_y = cycle_order(given([6, 2, 1, 5, 8, 4], 9), 6, 9)
    np.testing.assert_array_equal(order_x, [1, 2, 3, 5, 4, 0])
    np.testing.assert_array_equal(order_y, [1, 2, 5, 4, 8, 6, 0, 3, 7])
    # The same the other way round: y's units lead to x's.
    order_x, order_y = cycle_order(given([-1, 2, 1, -1, 5, 3, 0, -1, 4], 6), 9, 6)
    np.testing.assert_array_equal(order_x, [1, 2, 8, 4, 5, 6, 0, 3, 7])
    np.testing.assert_array_equal(order_y, [1, 2, 4, 5, 3, 0])
    # Partial in both: 0 -> 1 alone.
    order_x, order_y = cycle_order(given([1, -1, -1], 3), 3, 3)
    np.testing.assert_array_equal(order_x, [0, 1, 2])
    np.testing.assert_array_equal(order_y, [1, 0, 2])


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (9, 14), (14, 9), (3, 30)])
def test_cycle_order_contains_every_unit_once(shape: tuple[int, int]) -> None:
    n_x, n_y = shape
    found = matching(np.random.default_rng(3).uniform(-1, 1, shape))
    order_x, order_y = cycle_order(found, n_x, n_y)
    assert sorted(order_x) == list(range(n_x))
    assert sorted(order_y) == list(range(n_y))
    partner = dict(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    m = len(partner)
    on_cycles, lengths = 0, []
    while on_cycles < m:
        cycle = [int(order_x[on_cycles])]
        while partner.get(cycle[-1], cycle[0]) != cycle[0]:
            cycle.append(partner[cycle[-1]])
        if cycle[-1] not in partner:
            break  # a chain, and all that follow
        np.testing.assert_array_equal(order_x[on_cycles : on_cycles + len(cycle)], cycle)
        assert cycle[0] == min(cycle)
        on_cycles += len(cycle)
        lengths.append(len(cycle))
    assert lengths == sorted(lengths, reverse=True)
    np.testing.assert_array_equal(order_x[:on_cycles], order_y[:on_cycles])
    assert [partner[i] for i in order_x[on_cycles:m].tolist()] == order_y[on_cycles:m].tolist()
    assert (on_cycles == m) == (not set(found.rows) ^ set(found.columns))
    np.testing.assert_array_equal(order_x[m:], found.unmatched_rows)
    np.testing.assert_array_equal(order_y[m:], found.unmatched_columns)


@pytest.mark.parametrize("widths", [(4, 5), (5, 4), (3, 4)])
def test_an_order_of_other_layers_is_refused(widths: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="4 and 4 units"):
        cycle_order(matching(np.eye(4)), *widths)


@pytest.mark.parametrize("function", [semi_matching, matching, overlap, aligned_order])
@pytest.mark.parametrize("bad", [np.nan, np.inf, "empty", "vector"])
def test_unusable_similarities_are_refused(function: object, bad: object) -> None:
    similarity: Any = np.eye(3)
    if bad == "empty":
        similarity = np.empty((0, 3))
    elif bad == "vector":
        similarity = np.ones(3)
    else:
        similarity[1, 1] = bad
    with pytest.raises(UserError):
        function(similarity)  # type: ignore[operator]
