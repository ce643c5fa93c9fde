"""Agglomerative clusters of sparse weights: planted blocks come back, from weights and from a LASSO."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, is_valid_linkage

from convergence.alignment.sparse import lasso_path
from convergence.clustering.sparse_clusters import agglomerative_clusters, cut, joined_affinity, weight_affinity
from convergence.errors import UserError


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a[:, None] == a, b[:, None] == b)


def planted(sizes_x: list[int], sizes_y: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of both directions, of either sign, inside blocks alone; and the blocks of the joined units."""
    rng = np.random.default_rng(seed)
    x, y = (rng.permutation(np.repeat(np.arange(len(sizes)), sizes)) for sizes in (sizes_x, sizes_y))

    def weights(targets: np.ndarray, predictors: np.ndarray) -> np.ndarray:
        signs = rng.choice([-1.0, 1.0], (len(targets), len(predictors)))
        return (targets[:, None] == predictors) * signs * rng.uniform(0.2, 0.8, signs.shape)

    return weights(y, x), weights(x, y), np.concatenate([x, y])


@pytest.mark.parametrize("cut_at", [{"n_clusters": 3}, {"distance": 0.9}])
def test_planted_blocks_come_back(cut_at: dict) -> None:
    weights_xy, weights_yx, truth = planted([6, 4, 3], [5, 5, 2])
    found = agglomerative_clusters(weights_xy, weights_yx, **cut_at)
    assert same_partition(found.labels, truth)
    assert found.n_clusters == 3
    assert np.all(np.diff(np.bincount(found.labels)) <= 0)
    assert is_valid_linkage(found.linkage)
    assert np.all((found.linkage[:, 2] >= 0) & (found.linkage[:, 2] <= 1 + 1e-12))
    np.testing.assert_array_equal(np.sort(found.order), np.arange(25))
    assert np.count_nonzero(np.diff(truth[found.order])) == 2  # leaves of a block stand together


def test_blocks_of_a_lasso_come_back() -> None:
    rng = np.random.default_rng(1)
    truth = np.tile(np.arange(4), 10)  # x's twenty units, then y's, each see one of four pairs of factors
    factors = rng.standard_normal((4000, 8))
    mixing = np.kron(np.eye(4), np.ones((2, 1)))[:, truth] * rng.standard_normal((8, 40))
    r = np.corrcoef(np.maximum(factors @ mixing + 0.2 * rng.standard_normal((4000, 40)), 0), rowvar=False)
    x, y = slice(0, 20), slice(20, 40)
    forth = lasso_path(r[x, x], r[x, y], [0.1]).weights[0]
    back = lasso_path(r[y, y], r[y, x], [0.1]).weights[0]
    found = agglomerative_clusters(forth, back, n_clusters=4)
    clustered = found.labels >= 0
    assert clustered.sum() > 30
    assert same_partition(found.labels[clustered], truth[clustered])


def test_affinity_takes_the_larger_weight_of_both_directions() -> None:
    forth = np.array([[0.5, 0.0], [-0.2, 0.0], [0.0, 0.1]])  # three units of y from two of x
    back = np.array([[-0.1, 0.4, 0.0], [0.0, 0.0, 0.3]])
    affinity = weight_affinity(forth, back)
    np.testing.assert_array_equal(affinity, [[0.5, 0.4, 0.0], [0.0, 0.0, 0.3]])
    np.testing.assert_array_equal(weight_affinity(back, forth), affinity.T)
    joined = joined_affinity(affinity)
    np.testing.assert_allclose(joined[:2, 2:], affinity / 0.5)
    np.testing.assert_allclose(joined, joined.T)
    np.testing.assert_allclose(np.diag(joined), 1.0)
    assert joined[0, 1] == 0.0  # no partner in common
    assert joined[2, 3] == pytest.approx(1.0)  # the same partner and no other


def test_nets_may_be_exchanged() -> None:
    weights_xy, weights_yx, _ = planted([6, 4, 3], [5, 5, 2], seed=2)
    found = agglomerative_clusters(weights_xy, weights_yx, n_clusters=5)
    other = agglomerative_clusters(weights_yx, weights_xy, n_clusters=5)
    assert same_partition(found.labels, np.concatenate([other.labels[12:], other.labels[:12]]))


def test_units_without_a_weight_are_isolated() -> None:
    weights_xy, weights_yx, truth = planted([4, 3], [4, 3])
    for unit in (2, 5):
        weights_xy[:, unit] = weights_yx[unit] = 0.0
    found = agglomerative_clusters(weights_xy, weights_yx, n_clusters=2)
    np.testing.assert_array_equal(found.isolated, [2, 5])
    np.testing.assert_array_equal(found.labels[[2, 5]], -1)
    kept = found.labels >= 0
    assert kept.sum() == 12
    assert same_partition(found.labels[kept], truth[kept])
    np.testing.assert_array_equal(np.sort(found.order), found.linked)
    assert len(found.linkage) == 11


def test_no_weights_make_no_clusters() -> None:
    found = agglomerative_clusters(np.zeros((3, 2)), np.zeros((2, 3)), n_clusters=2)
    assert found.n_clusters == 0
    np.testing.assert_array_equal(found.labels, -1)
    np.testing.assert_array_equal(found.isolated, np.arange(5))
    assert found.linkage.shape == (0, 4)


def test_tree_cut_equals_scipy_and_handles_ties() -> None:
    weights_xy, weights_yx, _ = planted([6, 4, 3], [5, 5, 2], seed=3)
    tree = agglomerative_clusters(weights_xy, weights_yx, n_clusters=1).linkage
    for n_merges in range(25):
        theirs = fcluster(tree, 25 - n_merges, criterion="maxclust")
        if len(np.unique(theirs)) == 25 - n_merges:
            assert same_partition(cut(tree, n_merges), theirs)
        assert len(np.unique(cut(tree, n_merges))) == 25 - n_merges
    ties = np.ones((4, 4))  # every unit as near to every other
    for k in range(1, 9):
        assert agglomerative_clusters(ties, ties, n_clusters=k).n_clusters == k
    assert agglomerative_clusters(ties, ties, n_clusters=100).n_clusters == 8
    assert agglomerative_clusters(ties, ties, distance=0.0).n_clusters == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"n_clusters": None}, "one of"),
        ({"distance": 0.5}, "one of"),
        ({"n_clusters": 0}, "at least 1"),
        ({"n_clusters": None, "distance": -0.1}, "at least 0"),
        ({"weights_yx": np.zeros((3, 2))}, "two directions"),
        ({"weights_xy": np.full((3, 2), np.nan)}, "NaN"),
    ],
)
def test_bad_input_is_refused(fault: dict, message: str) -> None:
    arguments = {"weights_xy": np.ones((3, 2)), "weights_yx": np.ones((2, 3)), "n_clusters": 2} | fault
    with pytest.raises(UserError, match=message):
        agglomerative_clusters(**arguments)
