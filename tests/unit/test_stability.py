"""Stability of clusters: 1 for the same, 0 by chance; replicates find what is there, not where they started."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.clustering.graph import similarity_graph
from convergence.clustering.spectral import spectral_clusters
from convergence.clustering.stability import replicate_labels, stability
from convergence.errors import UserError


def blocks(sizes: list[int], n_samples: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Samples of units that share a factor with their block, and the blocks."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return rng.standard_normal((n_samples, len(sizes)))[:, truth] + rng.standard_normal((n_samples, len(truth))), truth


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a[:, None] == a, b[:, None] == b)


def test_the_same_clusters_are_1_under_any_names() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 60)
    found = stability(labels, [labels, (labels + 2) % 5])
    np.testing.assert_allclose(found.each, 1.0)
    assert found.mean == pytest.approx(1.0)


def test_random_clusters_are_0() -> None:
    rng = np.random.default_rng(1)
    found = stability(rng.integers(0, 6, 400), [rng.integers(0, 6, 400) for _ in range(30)])
    assert abs(found.mean) < 0.01
    assert found.mean == pytest.approx(found.each.mean())


def test_isolated_units_are_left_out_of_their_comparison() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, -1, -1])
    other = np.array([1, 1, -1, 0, 0, 0, 1, -1])
    found = stability(labels, [other, np.full(8, -1)])
    np.testing.assert_array_equal(found.n_units, [5, 0])
    np.testing.assert_allclose(found.each, [1.0, 0.0])  # the second is no measurement, and says so


@pytest.mark.parametrize("replicates", [[], [np.zeros(3, dtype=np.int64)]])
def test_what_cannot_be_compared_is_refused(replicates: list[np.ndarray]) -> None:
    with pytest.raises(UserError):
        stability(np.zeros(4, dtype=np.int64), replicates)


def test_planted_clusters_are_stable_over_images() -> None:
    samples, truth = blocks([14, 11, 9, 6])
    labels = spectral_clusters(similarity_graph(np.corrcoef(samples, rowvar=False), threshold=0.1), 4).labels
    groups = np.arange(len(samples)) % 8
    replicates = [
        replicate_labels(similarity_graph(np.corrcoef(samples[groups != g], rowvar=False), threshold=0.1), labels)
        for g in range(8)
    ]
    assert same_partition(labels, truth)
    assert stability(labels, replicates).mean == 1.0


def test_units_without_structure_are_not_stable() -> None:
    samples = np.random.default_rng(3).standard_normal((400, 60))
    labels = spectral_clusters(similarity_graph(np.corrcoef(samples, rowvar=False)), 6).labels
    halves = [
        replicate_labels(similarity_graph(np.corrcoef(half, rowvar=False)), labels)
        for half in (samples[:200], samples[200:])
    ]
    assert stability(labels, halves).mean < 0.3


def test_replicates_do_not_depend_on_their_start() -> None:
    samples, truth = blocks([14, 11, 9, 6])
    graph = similarity_graph(np.corrcoef(samples, rowvar=False), threshold=0.1)
    wrong = np.random.default_rng(2).integers(0, 4, len(truth))
    assert same_partition(replicate_labels(graph, wrong), truth)


def test_a_replicate_keeps_the_clusters_of_the_same_graph() -> None:
    samples = np.random.default_rng(5).standard_normal((80, 300))  # no structure, so many partitions are near
    graph = similarity_graph(np.corrcoef(samples, rowvar=False), threshold=0.15)
    labels = spectral_clusters(graph, 5).labels
    assert stability(labels, [replicate_labels(graph, labels)]).mean > 0.9


def test_units_isolated_in_either_graph() -> None:
    samples, truth = blocks([8, 6, 5])
    graph = similarity_graph(np.corrcoef(samples, rowvar=False), threshold=0.1)
    labels = spectral_clusters(graph, 3).labels
    labels[0] = -1  # isolated in the whole
    graph[1] = graph[:, 1] = 0.0  # and in the replicate
    found = replicate_labels(graph, labels)
    assert found[1] == -1
    kept = np.arange(len(truth)) != 1
    assert same_partition(found[kept], truth[kept])


def test_no_clusters_have_no_replicates() -> None:
    graph = np.ones((4, 4)) - np.eye(4)
    np.testing.assert_array_equal(replicate_labels(graph, np.full(4, -1)), -1)
    np.testing.assert_array_equal(replicate_labels(np.zeros((4, 4)), np.array([0, 0, 1, 1])), -1)
    with pytest.raises(UserError, match="4 units"):
        replicate_labels(graph, np.zeros(3, dtype=np.int64))
