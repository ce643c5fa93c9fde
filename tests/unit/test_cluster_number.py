"""The number of clusters: planted groups are found, and nets without groups are said to have none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from convergence.clustering.eigenvectors import spectral_embedding
from convergence.clustering.graph import similarity_graph
from convergence.clustering.halves_kernels import agreements, n_not_alone, separations
from convergence.clustering.number import (
    ClusterNumber,
    agreement,
    candidate_numbers,
    choose_number,
    halves_agreement,
    largest_eigengap,
    n_rotations,
    rotated_halves,
    separation,
)
from convergence.clustering.spectral import most_clusters, spectral_clusters
from convergence.linalg import random_rotation

N_SAMPLES = 1000


def found_in(samples: np.ndarray, sides: np.ndarray) -> tuple[ClusterNumber, np.ndarray]:
    """The number of clusters of units (n_samples, n_units), and their labels."""

    def graph(matrix):
        return similarity_graph(matrix, "absolute", 0.2)

    pooled = graph(np.corrcoef(samples.T))
    halves = (np.corrcoef(samples[::2].T), np.corrcoef(samples[1::2].T))
    embedding = spectral_embedding(pooled, len(pooled))
    ks = candidate_numbers(embedding.values, most_clusters(len(pooled)))
    if not len(ks):
        return choose_number(ks, np.zeros((2, 0)), np.zeros((2, 2, 0))), np.full(len(pooled), -1)
    own = halves_agreement([(graph(halves[0]), graph(halves[1]))], ks, len(embedding.linked))[0]
    null = []
    for k in range(n_rotations(len(pooled))):
        first, second = rotated_halves(halves, sides, np.random.default_rng([0, k]))
        null.append(halves_agreement([(graph(first), graph(second))], ks, len(embedding.linked))[0])
    number = choose_number(ks, own, np.stack(null), largest_eigengap(embedding.values, ks))
    return number, spectral_clusters(pooled, number.n_clusters).labels


def planted(sizes: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Groups of units with correlation .61 inside and 0 between."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    causes = rng.standard_normal((N_SAMPLES, len(sizes)))
    return causes[:, labels] + 0.8 * rng.standard_normal((N_SAMPLES, len(labels))), labels


@pytest.mark.parametrize(
    "sizes",
    [[4] * 5, [4] * 15, [4] * 20, [4] * 21, [4] * 30, [4] * 64, [2, 3, 4, 8, 12, 20], list(range(2, 16)), [2] * 30],
    ids=["5", "15", "20", "21", "30", "64", "unequal 6", "unequal 14", "30 pairs"],
)
def test_planted_groups_are_found(sizes):
    samples, labels = planted(sizes, np.random.default_rng(len(sizes)))
    number, found = found_in(samples, np.arange(len(labels)) % 2)
    assert number.beyond_chance
    assert abs(number.n_clusters - len(sizes)) <= len(sizes) / 50
    assert adjusted_rand_score(labels, found) >= 0.95
    assert number.stability > 0.95
    assert number.null < number.stability - 0.2


def test_of_nested_groups_the_finer_are_found():
    rng = np.random.default_rng(0)
    coarse, fine = np.repeat(np.arange(4), 16), np.repeat(np.arange(16), 4)
    parts = [rng.standard_normal((N_SAMPLES, n)) for n in (4, 16, 64)]
    number, found = found_in(0.7 * parts[0][:, coarse] + 0.7 * parts[1][:, fine] + 0.6 * parts[2], np.arange(64) % 2)
    assert number.n_clusters == 16
    np.testing.assert_array_equal(np.bincount(found), [4] * 16)


def test_units_of_no_group_do_not_hide_groups():
    samples, _ = planted([4] * 10 + [1] * 40, np.random.default_rng(3))
    number, found = found_in(samples, np.arange(80) % 2)
    assert number.beyond_chance
    assert abs(number.n_clusters - 10) <= 1
    assert (found[40:] < 0).sum() >= 38


@pytest.mark.parametrize("kind", ["independent", "linear", "rotated", "rectified"])
def test_nets_without_groups_have_none_beyond_chance(kind):
    beyond, excess = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        causes, n = rng.standard_normal((N_SAMPLES, 20)), 20
        noise = [0.3 * rng.standard_normal((N_SAMPLES, n)) for _ in range(2)]
        nets = [
            causes @ (random_rotation(n, rng) if kind == "rotated" else rng.standard_normal((n, n))) + own
            for own in noise
        ]
        if kind == "rectified":
            nets = [np.maximum(net, 0) for net in nets]
        if kind == "independent":
            nets = noise
        number, _ = found_in(np.concatenate(nets, axis=1), np.repeat([0, 1], n))
        beyond.append(number.beyond_chance)
        excess.append(number.stability - number.null)
    assert sum(beyond) <= 1
    assert abs(np.mean(excess)) < 0.15


def test_agreement_is_the_adjusted_rand_index():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 5, 40), rng.integers(0, 4, 40)
        assert agreement(first, second) == pytest.approx(adjusted_rand_score(first, second))
    first[:7], second[3:12] = -1, -1
    alone = [np.where(labels < 0, 100 + np.arange(40), labels) for labels in (first, second)]
    assert agreement(first, second) == pytest.approx(adjusted_rand_score(*alone))
    nothing = np.full(4, -1)
    assert agreement(nothing, nothing) == 0
    assert agreement(np.zeros(4, dtype=int), np.zeros(4, dtype=int)) == 1


def test_null_has_the_distribution_of_weights_of_rectified_units():
    rng = np.random.default_rng(1)
    causes = rng.standard_normal((4000, 8))
    nets = [np.maximum(causes @ rng.standard_normal((8, 25)), 0) for _ in range(2)]
    samples, sides = np.concatenate(nets, axis=1), np.repeat([0, 1], 25)
    halves = (np.corrcoef(samples[::2].T), np.corrcoef(samples[1::2].T))
    for own, turned in zip(halves, rotated_halves(halves, sides, np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(turned, turned.T)
        np.testing.assert_array_equal(np.diagonal(turned), 1)
        between = [np.sort(matrix[:25, 25:], axis=None) for matrix in (own, turned)]
        np.testing.assert_allclose(*(np.quantile(one, np.linspace(0.05, 0.95, 7)) for one in between), atol=0.08)


def test_numbers_are_at_most_half_of_the_units_and_the_sweep_is_among_them():
    values = np.concatenate([np.zeros(7), np.linspace(0.9, 1.1, 33)])
    ks = candidate_numbers(values, 39)
    assert ks.max() <= 20
    assert {2, 3, 4, 6, 7, 8, 12, 16} <= set(ks.tolist())
    assert ks[largest_eigengap(values, ks)] == 7
    assert candidate_numbers(values, 5).max() <= 5
    assert len(candidate_numbers(np.zeros(0), 1)) == 0


def test_compiled_evidence_is_that_of_the_definitions():
    rng = np.random.default_rng(5)
    graph = rng.random((30, 30))
    graph = (graph + graph.T) * (1 - np.eye(30))
    first, second = (rng.integers(-1, k, (12, 30)) for k in (4, 9))
    first[0], second[0] = np.arange(30), np.arange(30)
    first[1] = -1
    np.testing.assert_allclose(
        agreements(first, second), [agreement(*both) for both in zip(first, second, strict=True)]
    )
    np.testing.assert_allclose(separations(graph, first), [separation(graph, labels) for labels in first])
    assert n_not_alone(first).tolist() == [sum((row == u).sum() > 1 for u in row if u >= 0) for row in first]


def test_clusters_of_many_nets_are_those_of_each_net():
    rng = np.random.default_rng(8)
    graphs = []
    for n_isolated in (0, 3, 0, 3):
        graph = rng.random((20, 20)) * (rng.random((20, 20)) < 0.7)
        graph = (graph + graph.T) * (1 - np.eye(20))
        graph[:n_isolated] = graph[:, :n_isolated] = 0.0
        graphs.append((graph, graph + graph**2))
    together = halves_agreement(graphs, [2, 3, 7], 20)
    for graph, found in zip(graphs, together, strict=True):
        np.testing.assert_array_equal(halves_agreement([graph], [2, 3, 7], 20)[0], found)
