"""Spectral clusters: planted blocks come back, graphs are valid, nothing is lost or NaN."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.alignment.clustering import cluster_similarities, similarity_graph, spectral_clusters
from convergence.errors import UserError


def planted(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of units that share a factor with their block, in shuffled order, and the blocks."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    samples = rng.standard_normal((3000, len(sizes)))[:, truth] + 0.5 * rng.standard_normal((3000, len(truth)))
    return np.atleast_2d(np.corrcoef(samples, rowvar=False)), truth


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a[:, None] == a, b[:, None] == b)


@pytest.mark.parametrize("sizes", [[12, 8], [10, 7, 5, 4]])
@pytest.mark.parametrize("given", [True, False])
def test_planted_blocks_come_back(sizes: list[int], given: bool) -> None:
    correlation, truth = planted(sizes)
    found = spectral_clusters(similarity_graph(correlation, threshold=0.02), len(sizes) if given else "eigengap")
    assert found.n_clusters == len(sizes)
    assert same_partition(found.labels, truth)
    assert list(np.bincount(found.labels)) == sorted(sizes, reverse=True)  # numbered by size
    assert found.eigengap > 0.3
    assert np.all((found.eigenvalues >= 0) & (found.eigenvalues <= 2))


def test_the_result_is_the_same_every_time() -> None:
    correlation, _ = planted([9, 9, 9], seed=3)
    graph = similarity_graph(correlation)
    first, again = (spectral_clusters(graph, 5, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.labels, again.labels)


def test_units_without_an_edge_are_listed() -> None:
    correlation, truth = planted([6, 5])
    joint = np.eye(13)
    joint[:11, :11] = correlation
    found = spectral_clusters(similarity_graph(joint, threshold=0.2), 2)
    np.testing.assert_array_equal(found.isolated, [11, 12])
    np.testing.assert_array_equal(found.labels[11:], -1)
    assert same_partition(found.labels[:11], truth)


def test_a_graph_without_edges_has_no_clusters() -> None:
    found = spectral_clusters(np.zeros((4, 4)))
    assert found.n_clusters == 0
    assert np.all(found.labels == -1)
    np.testing.assert_array_equal(found.isolated, np.arange(4))


@pytest.mark.parametrize("n_clusters", [1, 2, 5, 50, "eigengap"])
def test_small_and_complete_graphs_give_clusters(n_clusters: object) -> None:
    for n in (2, 3, 6):
        graph = np.ones((n, n)) - np.eye(n)  # n equal units
        found = spectral_clusters(graph, n_clusters)  # type: ignore[arg-type]
        assert found.labels.min() == 0
        assert found.n_clusters == found.labels.max() + 1
        assert np.isfinite(found.eigengap)


def test_graph_kinds() -> None:
    r = np.array([[1.0, -0.6, 0.3], [-0.6, 1.0, 0.05], [0.3, 0.05, 1.0]])
    np.testing.assert_allclose(similarity_graph(r, "absolute", 0.1), [[0, 0.6, 0.3], [0.6, 0, 0], [0.3, 0, 0]])
    np.testing.assert_allclose(similarity_graph(r, "positive"), [[0, 0, 0.3], [0, 0, 0.05], [0.3, 0.05, 0]])


def test_similarities_of_clusters_by_hand() -> None:
    r = np.array([[1.0, 0.5, -0.2, 0.1], [0.5, 1, 0.4, 0.3], [-0.2, 0.4, 1, 0.6], [0.1, 0.3, 0.6, 1]])
    sides = np.array([0, 0, 1, 1])
    together = cluster_similarities(r, np.zeros(4, dtype=np.int64), sides)
    np.testing.assert_allclose(together.mean, [[0.5, 0.6, 0.25]])
    np.testing.assert_array_equal(together.n_pairs, [[1, 1, 4]])
    np.testing.assert_array_equal(together.sizes, [[2, 2]])
    apart = cluster_similarities(r, np.array([0, 0, 1, -1]), sides)
    np.testing.assert_allclose(apart.mean, [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])  # no such pairs: 0 with a count of 0
    np.testing.assert_array_equal(apart.n_pairs, [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(apart.sizes, [[2, 0], [0, 1]])


@pytest.mark.parametrize("fault", ["negative", "loop", "nan", "shape", "asymmetric", "zero clusters"])
def test_invalid_graphs_are_refused(fault: str) -> None:
    graph = np.ones((4, 4)) - np.eye(4)
    if fault == "negative":
        graph[0, 1] = graph[1, 0] = -0.1
    elif fault == "loop":
        graph[2, 2] = 1.0
    elif fault == "nan":
        graph[0, 1] = np.nan
    elif fault == "shape":
        graph = graph[:3]
    elif fault == "asymmetric":
        graph[0, 1] = 0.2
    with pytest.raises(UserError):
        spectral_clusters(graph, 0 if fault == "zero clusters" else 2)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="absolute"):
        similarity_graph(np.eye(3), "signed")  # type: ignore[arg-type]
