"""Consensus of several nets and presence: planted units, definitions beside, and refusals."""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from convergence.alignment.consensus import (
    Consensus,
    consensus_units,
    presence,
    score_members,
)
from convergence.alignment.matching import matching
from convergence.errors import UserError

SAMPLES = 2000
Matrix = NDArray[np.float64]


def nets_of(features: list[list[int]], noise: float, seed: int = 0) -> tuple[Matrix, NDArray[Any], NDArray[Any]]:
    """Activations, net and feature of units: net k shows ``features[k]``, its units in a hidden order, joined shuffled.

    A negative feature is private to its unit.
    """
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((SAMPLES, 1 + max(max(of_net) for of_net in features)))
    net = np.concatenate([np.full(len(of_net), k) for k, of_net in enumerate(features)])
    feature = np.concatenate([np.array(of_net) for of_net in features])
    order = rng.permutation(len(net))
    net, feature = net[order], feature[order]
    signal = np.where(feature >= 0, common[:, feature], rng.standard_normal((SAMPLES, len(net))))
    scale = rng.uniform(0.1, 10, len(net))
    return scale * (signal + noise * rng.standard_normal(signal.shape)), net, feature


def correlation_of(x: Matrix) -> Matrix:
    return np.asarray(np.corrcoef(x, rowvar=False))


def noise_correlations(widths: list[int], seed: int = 0) -> tuple[Matrix, NDArray[Any]]:
    """Correlations without any plan, so that searches have much to do."""
    rng = np.random.default_rng(seed)
    return correlation_of(rng.standard_normal((12, sum(widths)))), np.repeat(np.arange(len(widths)), widths)


def total_by_definition(correlation: Matrix, members: NDArray[Any]) -> float:
    return sum(correlation[i, j] for unit in members for i, j in combinations(unit[unit >= 0], 2))


FOUR = [[*range(10), -1, -1], [*range(10), -1, -1], [*range(10), -1, -1], [*range(10), -1, -1]]
UNEVEN = [[*range(10)], [*range(10), -1, -1, -1], [*range(10), -1], [*range(10), -1, -1, -1, -1, -1]]


@pytest.mark.parametrize("features", [FOUR, UNEVEN], ids=["even", "uneven"])
def test_planted_units_come_back(features: list[list[int]]) -> None:
    x, net, feature = nets_of(features, noise=0.5)
    found = consensus_units(correlation_of(x), net)
    n_consensus = max(map(len, features))
    assert found.members.shape == (n_consensus, 4)
    assert sorted(found.members[found.members >= 0]) == list(range(len(net)))
    for k in range(4):
        of_net = found.members[:, k]
        assert np.all(net[of_net[of_net >= 0]] == k)
    planted = feature[found.members[:10]]
    np.testing.assert_array_equal(planted, planted[:, :1].repeat(4, axis=1))
    assert sorted(planted[:, 0]) == list(range(10))
    assert found.strength[:10].min() > 0.7
    assert np.abs(found.strength[10:]).max() < 0.2
    there = presence(found, 0.5)
    np.testing.assert_array_equal(there.n_nets, [4] * 10 + [1] * (n_consensus - 10))
    assert there.stays[:10].all()


def test_units_that_some_nets_lack_are_present_in_the_others() -> None:
    # Feature 8 is in nets 0, 1 and 2 alone, feature 9 in nets 1 and 3 alone.
    features = [[*range(9), -1], [*range(10)], [*range(9), -1], [*range(8), 9, -1]]
    x, net, feature = nets_of(features, noise=0.4, seed=1)
    found = consensus_units(correlation_of(x), net)
    there = presence(found, 0.5)
    assert sorted(there.n_nets) == [2, 3, 4, 4, 4, 4, 4, 4, 4, 4]
    for wanted, nets in ((8, [True, True, True, False]), (9, [False, True, False, True])):
        unit = int(np.flatnonzero(there.n_nets == sum(nets))[0])
        np.testing.assert_array_equal(there.stays[unit], nets)
        assert set(feature[found.members[unit][nets]]) == {wanted}


def test_weak_member_does_not_lower_presence_of_others() -> None:
    # Three alike and one turned against them: beside it, none of the three is as strong as they are.
    correlation = np.full((4, 4), 0.8)
    correlation[3, :] = correlation[:, 3] = -0.5
    np.fill_diagonal(correlation, 1.0)
    found = score_members(correlation, np.arange(4)[None])
    assert found.strength[0, :3].max() < 0.7
    assert presence(found, 0.8).stays.tolist() == [[True, True, True, False]]
    assert presence(found, 0.95).n_nets.tolist() == [1]
    # Of two that part the lowest net's stays.
    assert presence(score_members(np.eye(4), [[-1, 0, 1, -1]]), 0.5).stays.tolist() == [[False, True, False, False]]


def test_strength_is_the_correlation_with_the_mean_of_the_others() -> None:
    x, net, _ = nets_of(UNEVEN, noise=1.0, seed=2)
    found = consensus_units(correlation_of(x), net)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = np.zeros(found.members.shape)
    for unit, members in enumerate(found.members):
        for k, member in enumerate(members):
            others = [other for other in members if other not in (-1, member)]
            if member >= 0 and others:
                expected[unit, k] = np.corrcoef(standard[:, member], standard[:, others].mean(axis=1))[0, 1]
    np.testing.assert_allclose(found.strength, expected, atol=1e-10)
    assert np.any(found.members == -1)


@pytest.mark.parametrize("rounding", [0.0, 1e-15])
def test_anticorrelated_members_have_zero_strength(rounding: float) -> None:
    turned = rounding - 1.0
    correlation = np.array([[1.0, turned, 0.3], [turned, 1.0, -0.3 + 1e-9], [0.3, -0.3 + 1e-9, 1.0]])
    found = score_members(correlation, [[0, 1, 2]])
    assert found.strength[0, 2] == 0.0
    assert np.isfinite(found.strength).all()


def check_numbers(found: Consensus, correlation: Matrix) -> None:
    """Objective, pair counts, mean correlations and their order, by definition."""
    pairs = [[correlation[i, j] for i, j in combinations(unit[unit >= 0], 2)] for unit in found.members]
    together = [value for of_unit in pairs for value in of_unit]
    assert found.n_pairs == len(together)
    assert found.objective == pytest.approx(np.mean(together))
    np.testing.assert_allclose(found.mean_correlation, [np.mean(of_unit) if of_unit else 0 for of_unit in pairs])
    counted = [len(of_unit) > 0 for of_unit in pairs]
    assert counted == sorted(counted, reverse=True)
    assert np.all(np.diff(found.mean_correlation[counted]) <= 0)
    assert found.trace[-1] == pytest.approx(sum(together))


@pytest.mark.parametrize("widths", [[8, 8, 8, 8, 8], [5, 9, 7], [1, 6, 4, 6]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_consensus_search_is_monotone_and_ends_at_optimum(widths: list[int], seed: int) -> None:
    correlation, net = noise_correlations(widths, seed)
    found = consensus_units(correlation, net)
    check_numbers(found, correlation)
    assert np.all(np.diff(found.trace) > 0)
    for k in range(len(widths)):
        units = np.flatnonzero(net == k)
        others = np.delete(found.members, k, axis=1)
        gain = np.array([[correlation[other[other >= 0], unit].sum() for unit in units] for other in others])
        now = sum(gain[place, list(units).index(unit)] for place, unit in enumerate(found.members[:, k]) if unit >= 0)
        rows, columns = linear_sum_assignment(gain, maximize=True)
        assert gain[rows, columns].sum() <= now + 1e-8


def test_consensus_search_improves_its_start() -> None:
    traces = [consensus_units(*noise_correlations([8] * 5, seed)).trace for seed in range(3)]
    assert all(len(trace) > 2 and trace[-1] > trace[0] + 0.1 for trace in traces)


def test_the_best_pivot_is_kept() -> None:
    kept = set()
    for seed in range(12):
        correlation, net = noise_correlations([8] * 4, seed)
        units = [np.flatnonzero(net == k) for k in range(4)]
        found = consensus_units(correlation, net)
        ends = []
        for pivot in range(4):
            start = np.empty((8, 4), dtype=int)
            for k in range(4):
                pairs = matching(correlation[np.ix_(units[pivot], units[k])])
                start[:, k] = units[k][pairs.columns] if k != pivot else units[k]
            from_pivot = consensus_units(correlation, net, start)
            assert from_pivot.trace[0] == pytest.approx(total_by_definition(correlation, start))
            ends.append(from_pivot.trace[-1])
        assert found.trace[-1] == pytest.approx(max(ends))
        assert found.pivot == np.flatnonzero(np.array(ends) > max(ends) - 1e-8)[0]
        kept.add(found.pivot)
    assert len(kept) > 1


def test_consensus_is_near_exhaustive_optimum() -> None:
    hits = 0
    for seed in range(8):
        correlation, net = noise_correlations([3, 3, 3], seed)
        units = [np.flatnonzero(net == k) for k in range(3)]
        found = consensus_units(correlation, net)
        best = max(
            total_by_definition(correlation, np.stack([units[0], units[1][list(p)], units[2][list(q)]], axis=1))
            for p, q in product(permutations(range(3)), repeat=2)
        )
        assert found.trace[-1] <= best + 1e-9
        hits += found.trace[-1] >= best - 1e-9
    assert hits >= 6


def test_units_without_a_pair_come_last() -> None:
    correlation = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.4], [-0.5, -0.4, 1.0]])
    found = consensus_units(correlation, [0, 0, 1])
    np.testing.assert_array_equal(found.members, [[1, 2], [0, -1]])
    np.testing.assert_array_equal(found.mean_correlation, [-0.4, 0.0])
    assert (found.objective, found.n_pairs) == (-0.4, 1)


def test_two_nets_are_matched() -> None:
    correlation, net = noise_correlations([6, 9])
    found = consensus_units(correlation, net)
    pairs = matching(correlation[:6, 6:])
    assert found.trace[-1] == pytest.approx(pairs.values.sum())
    assert found.n_pairs == 6
    assert {(i, j - 6) for i, j in found.members.tolist() if i >= 0} == set(
        zip(pairs.rows.tolist(), pairs.columns.tolist(), strict=True)
    )


def test_the_order_of_the_joined_axis_does_not_matter() -> None:
    correlation, net = noise_correlations([6, 4, 7, 7], seed=5)
    order = np.random.default_rng(0).permutation(len(net))
    one, other = consensus_units(correlation, net), consensus_units(correlation[np.ix_(order, order)], net[order])
    np.testing.assert_allclose(other.mean_correlation, one.mean_correlation, atol=1e-12)
    named = np.where(other.members >= 0, order[other.members], -1)
    counted = one.mean_correlation != 0  # units without a pair have no order of their own
    np.testing.assert_array_equal(named[counted], one.members[counted])


def test_consensus_search_begins_at_given_start() -> None:
    x, net, _ = nets_of(FOUR, noise=0.5)
    correlation = correlation_of(x)
    found = consensus_units(correlation, net)
    again = consensus_units(correlation, net, found.members)
    np.testing.assert_array_equal(again.members, found.members)
    assert (again.pivot, len(again.trace)) == (-1, 1)
    shuffled = np.random.default_rng(0).permuted(found.members, axis=0)
    assert consensus_units(correlation, net, shuffled).trace[0] < found.trace[-1] / 2


def test_members_are_scored_on_other_images() -> None:
    x, net, _ = nets_of(UNEVEN, noise=1.0, seed=3)
    fit, score = correlation_of(x[::2]), correlation_of(x[1::2])
    found = consensus_units(fit, net)
    np.testing.assert_array_equal(score_members(fit, found.members).strength, found.strength)
    scored = score_members(score, found.members)
    np.testing.assert_array_equal(scored.members, found.members)
    assert scored.trace[0] == pytest.approx(total_by_definition(score, found.members))
    private = slice(10, None)  # the chance that fitting took is gone
    assert scored.mean_correlation[private].mean() < found.mean_correlation[private].mean()


def test_the_same_bits_every_time() -> None:
    correlation, net = noise_correlations([7, 5, 7])
    one, other = consensus_units(correlation, net), consensus_units(correlation, net)
    np.testing.assert_array_equal(one.members, other.members)
    np.testing.assert_array_equal(one.strength, other.strength)


def spoilt(**changes: Any) -> dict[str, Any]:
    correlation, net = noise_correlations([3, 2])
    return {"correlation": correlation, "net_of_unit": net} | changes


ASYMMETRIC = np.eye(5) + np.diag([0.5] * 4, 1)
DEAD = np.diag([1.0, 1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "arguments",
    [
        spoilt(correlation=np.ones((5, 4))),
        spoilt(correlation=np.empty((0, 0))),
        spoilt(correlation=np.where(np.eye(5) > 0, np.nan, 0)),
        spoilt(correlation=ASYMMETRIC),
        spoilt(correlation=DEAD),
        spoilt(net_of_unit=[0, 0, 0, 1]),
        spoilt(net_of_unit=[0, 0, 0, 0, 0]),
        spoilt(net_of_unit=[0, 0, 0, 2, 2]),
        spoilt(net_of_unit=[0, 0, 0, -1, 1]),
        spoilt(net_of_unit=[0.0, 0.0, 0.0, 1.0, 1.0]),
        spoilt(start=[[0, 3], [1, 4]]),
        spoilt(start=[[0, 3], [1, 4], [1, -1]]),
        spoilt(start=[[0, 3], [1, -1], [2, -1]]),
        spoilt(start=[[0, 3], [1, 4], [2, -2]]),
        spoilt(start=[[0.0, 3.0], [1.0, 4.0], [2.0, -1.0]]),
    ],
)
def test_unusable_nets_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        consensus_units(**arguments)


@pytest.mark.parametrize("members", [[[0, 5]], [[0, 0]], [[0, -2]], [0, 1], [[0.0, 1.0]]])
def test_unusable_members_are_refused(members: Any) -> None:
    with pytest.raises(UserError):
        score_members(np.eye(5), members)


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, np.nan])
def test_an_unusable_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(UserError, match="threshold"):
        presence(score_members(np.eye(2), [[0, 1]]), threshold)
