"""Cycles of matchings: consistent ones, chance, and partial ones."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convergence.alignment.cycles import cycle_consistency
from convergence.errors import UserError

Matrix = NDArray[np.float64]


def matchings_of(orders: list[NDArray[Any]]) -> dict[tuple[int, int], NDArray[Any]]:
    """Unit i of net k is feature ``orders[k][i]``; units of the same feature are partners."""
    return {
        (a, b): np.array([[*np.flatnonzero(orders[b] == feature), -1][0] for feature in orders[a]])
        for a, b in combinations(range(len(orders)), 2)
    }


def test_permutations_are_consistent() -> None:
    rng = np.random.default_rng(0)
    found = cycle_consistency(matchings_of([rng.permutation(20) for _ in range(4)]))
    assert found.mean == 1.0
    assert found.chance == pytest.approx(1 / 20)
    assert found.n_paths == 24 * 20
    for share, paths in zip(found.unit_share, found.unit_paths, strict=True):
        np.testing.assert_array_equal(share, np.ones(20))
        np.testing.assert_array_equal(paths, np.full(20, 6))


def test_random_matchings_are_at_chance() -> None:
    rng = np.random.default_rng(1)
    found = [cycle_consistency({pair: rng.permutation(10) for pair in combinations(range(5), 2)}) for _ in range(60)]
    means = np.array([one.mean for one in found])
    assert found[0].chance == pytest.approx(0.1)
    assert abs(means.mean() - 0.1) < 5 * means.std() / np.sqrt(len(means))
    assert means.std() < 0.05


def test_partial_matchings_count_existing_paths() -> None:
    # Features 0 … 5 are in all nets; net 0 alone has 6, nets 1 and 3 alone have 7.
    orders = [np.array(order) for order in ([6, 0, 1, 2, 3, 4, 5], [5, 4, 7, 3, 2, 1, 0], [1, 0, 2, 3, 4, 5])]
    orders.append(np.array([7, 2, 1, 0, 5, 4, 3]))
    found = cycle_consistency(matchings_of(orders))
    assert found.mean == 1.0
    assert found.n_paths == 24 * 6
    assert (found.unit_paths[0][0], found.unit_share[0][0]) == (0, 0.0)
    assert found.chance == pytest.approx(np.mean([1 / 7, 1 / 7, 1 / 6, 1 / 7]))
    # Two units of net 0 that change places on their way to net 1.
    wrong = matchings_of(orders)
    wrong[0, 1] = wrong[0, 1][[0, 2, 1, 3, 4, 5, 6]]
    found = cycle_consistency(wrong)
    # 12 of the 24 ordered triples of nets go between nets 0 and 1; in them two of six units do not return.
    assert found.mean == pytest.approx(0.5 + 0.5 * 4 / 6)
    np.testing.assert_allclose(found.unit_share[0][[1, 2]], 2 / 6)
    np.testing.assert_allclose(found.unit_share[0][3:], 1.0)
    np.testing.assert_allclose(found.unit_share[2], [4 / 6, 4 / 6, 1, 1, 1, 1])


def test_cycle_chance_uses_width_of_first_net() -> None:
    # 0 of the first net -> 0 -> 0 -> 1 of the first, whose other unit has no partner: back only the same way.
    found = cycle_consistency({(0, 1): np.array([0, -1]), (0, 2): np.array([-1, 0]), (1, 2): np.array([0])})
    assert (found.mean, found.chance, found.n_paths) == (0.0, 0.5, 2)
    assert [paths.tolist() for paths in found.unit_paths] == [[1, 1], [0], [0]]


def test_widths_say_how_many_units_the_last_net_has() -> None:
    matchings = {pair: np.arange(3) for pair in combinations(range(3), 2)}
    assert [len(share) for share in cycle_consistency(matchings).unit_share] == [3, 3, 3]
    found = cycle_consistency(matchings, widths=[3, 3, 5])
    assert [len(share) for share in found.unit_share] == [3, 3, 5]
    assert found.mean == 1.0
    assert found.unit_paths[2].tolist() == [2, 2, 2, 0, 0]


GOOD = {pair: np.arange(3) for pair in combinations(range(3), 2)}


@pytest.mark.parametrize(
    ("matchings", "widths"),
    [
        ({}, None),
        ({(0, 1): np.arange(3)}, None),
        ({(0, 1): np.arange(3), (1, 2): np.arange(3)}, None),
        (GOOD | {(1, 0): np.arange(3)}, None),
        (GOOD | {(0, 1): np.array([0, 0, 1])}, None),
        (GOOD | {(0, 1): np.array([0, 1, 3])}, None),
        (GOOD | {(0, 1): np.array([0, 1, -2])}, None),
        (GOOD | {(0, 1): np.arange(4)}, None),
        (GOOD | {(0, 1): np.arange(3.0)}, None),
        (GOOD | {(0, 2): np.full(3, -1)}, None),
        (GOOD, [3, 3]),
        (GOOD, [3, 3, 2]),
        (GOOD, [3, 3, 0]),
    ],
)
def test_unusable_matchings_are_refused(matchings: Any, widths: Any) -> None:
    with pytest.raises(UserError):
        cycle_consistency(matchings, widths)
