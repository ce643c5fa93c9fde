"""Spectral clusters: planted blocks come back, graphs are valid, nothing is lost or NaN."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.clustering.graph import by_size, normalised_cut, similarity_graph
from convergence.clustering.spectral import cluster_similarities, spectral_clusters, sweep
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


def test_pairs_inside_clusters_are_those_of_loops() -> None:
    correlation, _ = planted([9, 7, 5])
    rng = np.random.default_rng(4)
    labels, sides = rng.integers(-1, 3, 21), rng.integers(0, 2, 21)
    found = cluster_similarities(correlation, labels, sides)
    kinds = {(0, 0): 0, (1, 1): 1, (0, 1): 2, (1, 0): 2}
    values: dict[tuple[int, int], list[float]] = {}
    for i in range(21):
        for j in range(i):
            if labels[i] == labels[j] >= 0:
                values.setdefault((labels[i], kinds[sides[i], sides[j]]), []).append(abs(correlation[i, j]))
    for (cluster, kind), pairs in values.items():
        assert found.n_pairs[cluster, kind] == len(pairs)
        assert found.mean[cluster, kind] == pytest.approx(np.mean(pairs))
    assert found.n_pairs.sum() == sum(map(len, values.values()))


def test_a_wide_layer_is_clustered_by_iteration() -> None:
    correlation, truth = planted([200, 180, 160, 140])  # more units than a dense solver is asked for
    found = spectral_clusters(similarity_graph(correlation, threshold=0.1))
    assert found.n_clusters == 4
    assert same_partition(found.labels, truth)


def test_normalised_cut_by_its_definition() -> None:
    correlation, _ = planted([9, 7, 5])
    graph = similarity_graph(correlation)
    labels = np.random.default_rng(1).integers(0, 4, 21)
    shares = []
    for cluster in range(4):
        inside = labels == cluster
        cut = sum(graph[i, j] for i in np.flatnonzero(inside) for j in np.flatnonzero(~inside))
        shares.append(cut / graph[inside].sum())
    assert normalised_cut(graph, labels) == pytest.approx(np.mean(shares))


def test_components_are_never_merged() -> None:
    graph = np.kron(np.eye(3), np.ones((4, 4)) - np.eye(4))
    assert normalised_cut(graph, np.repeat([0, 1, 2], 4)) == pytest.approx(0, abs=1e-12)
    assert normalised_cut(graph, np.repeat([0, 1, -1], 4)) == pytest.approx(0, abs=1e-12)
    assert normalised_cut(graph, np.arange(12)) == 1.0
    assert normalised_cut(graph, np.full(12, -1)) == 0.0


def test_sweep_equals_separate_clusterings() -> None:
    correlation, truth = planted([10, 7, 5, 4])
    graph = similarity_graph(correlation, threshold=0.02)
    found = sweep(graph, [6, 2, 4, 3], seed=5)
    for row, k in enumerate(found.ks):
        alone = spectral_clusters(graph, int(k), seed=5)
        np.testing.assert_array_equal(found.labels[row], alone.labels)
        assert found.eigengaps[row] == pytest.approx(alone.eigengap)
        assert found.n_clusters[row] == alone.n_clusters
        assert found.normalised_cuts[row] == pytest.approx(normalised_cut(graph, alone.labels))
    assert found.ks[np.argmax(found.eigengaps)] == 4
    assert same_partition(found.labels[2], truth)
    assert found.normalised_cuts[2] < 0.15 < found.normalised_cuts[0]  # six of four blocks cut one or two


def test_a_sweep_of_few_units() -> None:
    graph = np.zeros((5, 5))
    graph[0, 1] = graph[1, 0] = 0.5
    found = sweep(graph, [1, 2, 4])
    np.testing.assert_array_equal(found.labels[:, 2:], -1)
    np.testing.assert_array_equal(found.n_clusters, [1, 2, 2])
    np.testing.assert_array_equal(found.isolated, [2, 3, 4])
    assert np.isfinite(found.eigengaps).all()
    nothing = sweep(np.zeros((3, 3)), [2])
    np.testing.assert_array_equal(nothing.labels, -1)
    assert nothing.n_clusters[0] == 0


@pytest.mark.parametrize("ks", [[], [0, 2]])
def test_numbers_of_clusters_are_checked(ks: list[int]) -> None:
    with pytest.raises(UserError, match="at least"):
        sweep(np.ones((3, 3)) - np.eye(3), ks)


def test_clusters_are_numbered_by_size() -> None:
    np.testing.assert_array_equal(by_size(np.array([7, -1, 3, 3, 5, 7, 7])), [0, -1, 1, 1, 2, 0, 0])
    np.testing.assert_array_equal(by_size(np.array([4, 2, 2, 4])), [0, 1, 1, 0])  # of equal ones the first unit's
    assert by_size(np.array([-1, -1])).tolist() == [-1, -1]
