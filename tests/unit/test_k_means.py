"""K-means: scikit-learn's, from the same start; planted clusters come back; every cluster has a point."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from convergence.clustering.k_means import _lloyd, _starts, distinct, k_means, k_means_from


def clouds(n: int, k: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points about k corners of a cube, and the corner of each."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    return np.eye(k)[truth] + spread * rng.standard_normal((n, k)), truth


def inertia_of(points: np.ndarray, labels: np.ndarray) -> float:
    return sum(((points[labels == c] - points[labels == c].mean(axis=0)) ** 2).sum() for c in np.unique(labels))


def test_planted_clusters_come_back() -> None:
    points, truth = clouds(300, 6, 0.05)
    labels, inertia = k_means(points, 6, seed=1)
    np.testing.assert_array_equal(labels[:, None] == labels, truth[:, None] == truth)
    assert inertia == pytest.approx(inertia_of(points, truth))


@pytest.mark.parametrize("spread", [0.2, 0.5])
def test_k_means_run_equals_scikit_learn(spread: float) -> None:
    points, _ = clouds(400, 7, spread)
    start = np.random.default_rng(2).integers(7, size=400)
    means = np.stack([points[start == cluster].mean(axis=0) for cluster in range(7)])
    theirs = KMeans(7, init=means, n_init=1).fit(points)
    found = k_means_from(points, start, 7)
    assert found is not None
    np.testing.assert_array_equal(found[0], theirs.labels_)
    assert found[1] == pytest.approx(theirs.inertia_)


def test_the_best_of_ten_is_as_good_as_that_of_scikit_learn() -> None:
    points, _ = clouds(500, 8, 0.6)
    inertia = np.mean([k_means(points, 8, seed)[1] for seed in range(5)])
    theirs = np.mean([KMeans(8, n_init=10, random_state=seed).fit(points).inertia_ for seed in range(5)])
    assert inertia < 1.01 * theirs


def test_k_means_keeps_the_best_run() -> None:
    points, _ = clouds(500, 12, 0.4)
    _, ten = k_means(points, 12, seed=0)
    _, hundred = k_means(points, 12, seed=0, n_init=100)
    assert hundred <= ten
    labels, again = k_means(points, 12, seed=0)
    assert again == ten
    assert ten == pytest.approx(inertia_of(points, labels), rel=1e-3)  # the last means lag by the tolerance


def test_k_means_starts_are_spread() -> None:
    points, truth = clouds(200, 10, 0.01)
    draws = np.random.default_rng(0).random((5, 10, 4))
    for run in _starts(points, (points**2).sum(axis=1), draws):
        np.testing.assert_array_equal(np.sort(truth[run]), np.arange(10))  # one in each cloud


def test_an_empty_cluster_gets_the_farthest_point() -> None:
    points = np.array([[0.0, 0], [0.1, 0], [1, 0], [1.1, 0], [5, 5]])
    start = np.array([[0.0, 0], [1, 0], [-100, 0]])
    labels, inertia = _lloyd(points, (points**2).sum(axis=1), start, 100, 0.0)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2])
    assert inertia == pytest.approx(0.01)


def test_duplicated_points_do_not_add_clusters() -> None:
    points = np.repeat(np.eye(3), 5, axis=0)
    assert distinct(points) == 3
    labels, inertia = k_means(points, 8, seed=0)
    np.testing.assert_array_equal(np.bincount(labels), [5, 5, 5])
    assert inertia == pytest.approx(0.0, abs=1e-12)
    assert k_means(points, 1, seed=0)[1] == pytest.approx(inertia_of(points, np.zeros(15)))


def test_start_with_empty_cluster_is_refused() -> None:
    points, truth = clouds(60, 3, 0.1)
    assert k_means_from(points, np.where(truth == 2, -1, truth), 3) is None
    assert k_means_from(np.ones((4, 2)), np.array([0, 1, 0, 1]), 2) is None
    found = k_means_from(points, np.where(np.arange(60) < 30, truth, -1), 3)  # half of the points know theirs
    assert found is not None
    np.testing.assert_array_equal(found[0], truth)
