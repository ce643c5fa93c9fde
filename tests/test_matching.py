"""Matching and semi-matching: planted permutations, rectangles, ties and refusals."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from convergence.alignment.matching import aligned_order, matching, overlap, semi_matching
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


def test_overlap_counts_what_it_says() -> None:
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
