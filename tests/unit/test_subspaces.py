"""Shared subspaces: a rotated basis spans the same, permuted units share the basis too, unrelated ones neither."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.alignment.matching import matching
from convergence.clustering.subspaces import NUMBERS, cluster_subspaces, rotated_matchings, shared_subspace
from convergence.errors import UserError
from convergence.linalg import random_rotation
from convergence.similarity.pair import PairMoments

N = 20_000


def units_of_x(n: int, seed: int = 0) -> np.ndarray:
    """Samples of n correlated units, standardised."""
    rng = np.random.default_rng(seed)
    return standardised(rng.standard_normal((N, n)) @ (np.eye(n) + 0.3 * rng.standard_normal((n, n))))


def standardised(samples: np.ndarray) -> np.ndarray:
    return (samples - samples.mean(axis=0)) / samples.std(axis=0)


def compare(x: np.ndarray, y: np.ndarray):
    r = np.atleast_2d(np.corrcoef(x, y, rowvar=False))
    n = x.shape[1]
    return shared_subspace(r[:n, :n], r[:n, n:], r[n:, n:], np.arange(n), np.arange(y.shape[1]))


def test_canonical_correlations_are_those_of_samples() -> None:
    rng = np.random.default_rng(1)
    x = units_of_x(5)
    y = standardised(x[:, :3] @ rng.standard_normal((3, 4)) + rng.standard_normal((N, 4)))
    found = compare(x, y)
    bases = [np.linalg.qr(samples)[0] for samples in (x, y)]  # the definition: angles between the spans
    cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    np.testing.assert_allclose(found.correlations, cosines, atol=1e-8)
    assert found.mean_correlation == pytest.approx(cosines.mean())
    for predictors, targets, value in ((x, y, found.explained_y), (y, x, found.explained_x)):
        residual = targets - predictors @ np.linalg.lstsq(predictors, targets)[0]
        assert value == pytest.approx(1 - (residual**2).mean(), abs=1e-8)


def test_a_rotated_basis_spans_the_same_and_is_another() -> None:
    x = units_of_x(12)
    rng = np.random.default_rng(2)
    found = compare(x, x @ random_rotation(12, rng))
    np.testing.assert_allclose(found.correlations, 1.0)
    np.testing.assert_allclose([found.mean_correlation, found.explained_x, found.explained_y], 1.0)
    level = rotated_matchings(*blocks(x, x), np.stack([random_rotation(12, rng) for _ in range(40)]))
    assert abs(found.matched - np.mean(level)) < 4 * np.std(level)
    assert found.matched < 0.8


def blocks(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r = np.corrcoef(x, y, rowvar=False)
    return r[: x.shape[1], x.shape[1] :], r[x.shape[1] :, x.shape[1] :]


def test_permuted_units_share_subspace_and_basis() -> None:
    x = units_of_x(12)
    found = compare(x, -3.0 * x[:, np.random.default_rng(3).permutation(12)])
    np.testing.assert_allclose(found.correlations, 1.0)
    assert found.matched == pytest.approx(1.0)


def test_unrelated_groups_share_nothing() -> None:
    found = compare(units_of_x(6), units_of_x(4, seed=9))
    assert len(found.correlations) == 4
    assert found.correlations.max() < 0.1
    assert max(found.explained_x, found.explained_y, found.matched) < 0.03


def test_duplicated_units_add_no_dimension() -> None:
    x = units_of_x(5)
    y = x @ random_rotation(5, np.random.default_rng(4))
    found = compare(x[:, [0, 1, 2, 3, 4, 0, 0]], np.concatenate([y, y], axis=1))
    assert (found.rank_x, found.rank_y) == (5, 5)
    np.testing.assert_allclose(found.correlations, 1.0)
    np.testing.assert_allclose([found.explained_x, found.explained_y], 1.0)
    part = compare(x[:, [0, 0]], x[:, [0, 1]])
    np.testing.assert_allclose(part.correlations, [1.0])
    assert part.explained_x == pytest.approx(1.0)
    assert part.explained_y < 1.0


def test_one_unit_against_another_is_their_correlation() -> None:
    x = units_of_x(6)
    r = np.corrcoef(x, rowvar=False)
    found = shared_subspace(r, r, r, [1], [4])
    expected = abs(r[1, 4])
    np.testing.assert_allclose(found.correlations, [expected])
    assert found.matched == pytest.approx(expected)
    np.testing.assert_allclose([found.explained_x, found.explained_y], expected**2)
    one_of_many = shared_subspace(r, r, r, [1], [1, 2, 3])
    assert one_of_many.explained_x == pytest.approx(1.0)
    assert one_of_many.explained_y == pytest.approx((r[1, [1, 2, 3]] ** 2).mean())


def test_rotated_matching_is_that_of_a_rotated_pair() -> None:
    cov = np.cov(units_of_x(9), rowvar=False)
    q = random_rotation(5, np.random.default_rng(6))
    pair = PairMoments.of(float(N), cov[:4, :4], cov[:4, 4:], cov[4:, 4:])
    expected = matching(np.abs(pair.in_basis(q).corr_xy)).mean
    assert rotated_matchings(pair.corr_xy, pair.corr_yy, q[None])[0] == pytest.approx(expected)


def test_cluster_subspaces_have_chance_and_rotation_levels() -> None:
    """Cluster 0 shares its basis, 1 its subspace alone, 2 neither; units of x and y are mixed on the axis."""
    rng = np.random.default_rng(7)
    x = np.concatenate([units_of_x(8, seed=s) for s in (11, 12, 13)], axis=1)
    y = np.concatenate([x[:, rng.permutation(8)], x[:, 8:16] @ random_rotation(8, rng), units_of_x(8, seed=14)], axis=1)
    samples = np.concatenate([x, y, rng.standard_normal((N, 2))], axis=1)
    labels = np.concatenate([np.repeat([0, 1, 2], 8)] * 2 + [[3, -1]])  # cluster 3 has a unit of x alone
    sides = np.concatenate([np.repeat([0, 1], 24), [0, 1]])
    order = rng.permutation(50)
    r = np.corrcoef(samples[:, order], rowvar=False)
    found = cluster_subspaces(r, labels[order], sides[order], n_random=10, seed=1)
    np.testing.assert_array_equal(found.clusters, [0, 1, 2])
    np.testing.assert_array_equal(found.sizes, [[8, 8]] * 3)
    names = {name: column for column, name in enumerate(NUMBERS)}
    mean, matched = names["mean_correlation"], names["matched"]
    np.testing.assert_allclose(found.values[:2, [mean, names["explained_x"], names["explained_y"]]], 1.0)
    assert np.all(found.chance[:, mean] < 0.9)
    assert np.all(found.values[:2, mean] > found.chance[:2, mean] + 3 * found.chance_sd[:2, mean])
    assert found.values[2, mean] < 0.1
    assert found.values[0, matched] == pytest.approx(1.0)
    assert found.values[0, matched] > found.rotated[0] + 5 * found.rotated_sd[0]
    assert abs(found.values[1, matched] - found.rotated[1]) < 4 * found.rotated_sd[1]
    for row, one in enumerate(found.shared):
        np.testing.assert_array_equal(found.values[row], [getattr(one, name) for name in NUMBERS])
    again = cluster_subspaces(r, labels[order], sides[order], n_random=10, seed=1)
    np.testing.assert_array_equal(found.chance, again.chance)
    np.testing.assert_array_equal(found.rotated, again.rotated)


def test_small_clusters_and_none() -> None:
    r = np.corrcoef(units_of_x(5), rowvar=False)
    sides = np.array([0, 0, 0, 1, 1])
    one = cluster_subspaces(r, np.array([0, 1, -1, 0, 2]), sides)
    np.testing.assert_array_equal(one.clusters, [0])
    assert one.rotated[0] == pytest.approx(abs(r[0, 3]))  # a basis of one unit can but change its sign
    assert one.rotated_sd[0] == pytest.approx(0.0, abs=1e-12)
    twins = np.ones((4, 4))
    same = cluster_subspaces(twins, np.zeros(4, dtype=np.int64), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(same.values, 1.0)
    np.testing.assert_allclose(same.chance, 1.0)
    nothing = cluster_subspaces(r, np.array([0, 0, 1, 2, 2]), sides)
    assert nothing.chance.shape == nothing.values.shape == (0, 4)
    assert nothing.rotated.shape == (0,)


@pytest.mark.parametrize("fault", ["empty", "outside", "covariance", "shape", "nan"])
def test_bad_groups_are_refused(fault: str) -> None:
    r = np.eye(4) + 0.1 * (1 - np.eye(4))
    cross, x = r.copy(), [0, 1]
    if fault == "empty":
        x = []
    elif fault == "outside":
        x = [0, 4]
    elif fault == "covariance":
        r = 2 * r
    elif fault == "shape":
        cross = cross[:3]
    else:
        cross[0, 2] = np.nan
    with pytest.raises(UserError):
        shared_subspace(r, cross, r, x, [2, 3])


def test_bad_draws_and_labels_are_refused() -> None:
    r = np.eye(4)
    labels, sides = np.zeros(4, dtype=np.int64), np.array([0, 0, 1, 1])
    with pytest.raises(UserError, match="2 or more"):
        cluster_subspaces(r, labels, sides, n_random=1)
    with pytest.raises(UserError, match="4 units"):
        cluster_subspaces(r, labels[:3], sides)
