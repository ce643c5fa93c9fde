"""Clusters that are too large are split again: nested blocks come back, and the tree adds up."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.clustering.graph import similarity_graph
from convergence.clustering.hierarchical import HierarchicalClusters, _parts, hierarchical_clusters
from convergence.clustering.spectral import spectral_clusters
from convergence.errors import UserError


def nested(n_outer: int, n_inner: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Graph of blocks in blocks, shuffled, with the outer and the inner block of every unit."""
    rng = np.random.default_rng(0)
    inner = np.repeat(np.arange(n_outer * n_inner), size)
    outer = inner // n_inner
    graph = 0.02 + 0.2 * (outer[:, None] == outer) + 0.6 * (inner[:, None] == inner)
    graph += 0.01 * rng.random(graph.shape)
    order = rng.permutation(len(graph))
    graph = similarity_graph(graph[np.ix_(order, order)])
    return graph, outer[order], inner[order]


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a[:, None] == a, b[:, None] == b)


def check_tree(found: HierarchicalClusters) -> None:
    tree, labels = found.tree, found.clusters.labels
    nodes = np.arange(len(tree.parent))
    assert tree.parent[0] == -1
    assert np.all(tree.parent[1:] < nodes[1:])
    assert np.all(tree.parent[1:] >= 0)
    children = np.bincount(tree.parent[1:], weights=tree.size[1:], minlength=len(nodes))
    split = tree.label < 0
    np.testing.assert_array_equal(children[split], tree.size[split])
    np.testing.assert_array_equal(children[~split], 0)
    assert tree.size[0] == (labels >= 0).sum()
    np.testing.assert_array_equal(np.sort(tree.label[~split]), np.arange(found.clusters.n_clusters))
    np.testing.assert_array_equal(np.bincount(labels[labels >= 0])[tree.label[~split]], tree.size[~split])
    sizes = np.bincount(labels[labels >= 0])
    assert np.all(np.delete(sizes, found.too_large) <= found.limit)
    assert np.all(sizes[found.too_large] > found.limit)


@pytest.mark.parametrize("n_inner", [2, 3])
def test_nested_blocks_come_back(n_inner: int) -> None:
    graph, outer, inner = nested(3, n_inner, 12)
    alpha = 13 / len(graph)  # the limit is 13 units: an inner block and no more
    found = hierarchical_clusters(graph, alpha, n_clusters=3)
    assert found.limit == pytest.approx(13)
    assert same_partition(found.clusters.labels, inner)
    assert found.clusters.n_clusters == 3 * n_inner
    check_tree(found)
    first = np.flatnonzero(found.tree.parent == 0)
    np.testing.assert_array_equal(found.tree.size[first], 12 * n_inner)  # the outer blocks came first
    assert len(found.too_large) == 0
    above = hierarchical_clusters(graph, alpha * n_inner, n_clusters=3)
    assert same_partition(above.clusters.labels, outer)


def test_nothing_is_split_below_the_limit() -> None:
    graph, _, _ = nested(3, 2, 10)
    plain = spectral_clusters(graph, 4, seed=2)
    found = hierarchical_clusters(graph, alpha=1.0, n_clusters=4, seed=2)
    np.testing.assert_array_equal(found.clusters.labels, plain.labels)
    np.testing.assert_array_equal(found.clusters.eigenvalues, plain.eigenvalues)
    assert len(found.tree.parent) == 5
    check_tree(found)


def test_the_width_of_one_net_sets_the_limit() -> None:
    graph, _, inner = nested(2, 3, 8)
    found = hierarchical_clusters(graph, alpha=0.05, n_clusters=2, n_units=90)
    assert found.limit == pytest.approx(9)
    assert same_partition(found.clusters.labels, inner)


def test_one_cluster_at_first_is_split_like_any_other() -> None:
    graph, _, inner = nested(2, 2, 10)
    found = hierarchical_clusters(graph, alpha=12 / 40, n_clusters=1)
    assert same_partition(found.clusters.labels, inner)
    check_tree(found)


def test_equal_units_are_not_split() -> None:
    graph = np.zeros((24, 24))
    graph[:12, :12], graph[12:, 12:] = 0.5, 0.8
    np.fill_diagonal(graph, 0.0)
    found = hierarchical_clusters(graph, alpha=3 / 24, n_clusters=2)
    assert found.clusters.n_clusters == 2
    np.testing.assert_array_equal(found.too_large, [0, 1])
    check_tree(found)


def test_unit_without_edge_inside_its_cluster_is_kept() -> None:
    graph = np.kron(np.eye(2), np.ones((4, 4)))
    graph[3, 4] = graph[4, 3] = 0.1
    graph = np.pad(graph, (0, 3))
    graph[8, 9:] = graph[9:, 8] = 1.0  # unit 8 has edges, but to units of another cluster
    np.fill_diagonal(graph, 0.0)
    parts = _parts(graph, np.arange(9), seed=0)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert [part.tolist() for part in _parts(graph, np.array([8]), seed=0)] == [[8]]


def test_units_without_an_edge_stay_out_of_the_tree() -> None:
    graph, _, inner = nested(2, 2, 6)
    found = hierarchical_clusters(np.pad(graph, (0, 2)), alpha=7 / 26, n_clusters=2)
    np.testing.assert_array_equal(found.clusters.isolated, [24, 25])
    np.testing.assert_array_equal(found.clusters.labels[24:], -1)
    assert same_partition(found.clusters.labels[:24], inner)
    check_tree(found)


def test_the_smallest_limit_leaves_equal_units_alone() -> None:
    graph, _, _ = nested(2, 2, 5)
    found = hierarchical_clusters(graph, alpha=1e-3, n_clusters=2)
    check_tree(found)
    sizes = np.bincount(found.clusters.labels)
    assert np.all(sizes[found.too_large] >= 1)
    assert found.clusters.labels.min() == 0


def test_a_graph_without_edges_has_no_tree() -> None:
    found = hierarchical_clusters(np.zeros((4, 4)))
    assert found.clusters.n_clusters == 0
    assert len(found.tree.parent) == 0


@pytest.mark.parametrize("arguments", [{"alpha": 0.0}, {"alpha": float("nan")}, {"n_units": 0}])
def test_limits_are_checked(arguments: dict) -> None:
    with pytest.raises(UserError, match="positive"):
        hierarchical_clusters(np.ones((4, 4)) - np.eye(4), **arguments)
