"""Few eigenpairs of a graph: those of the whole Laplacian, whichever way they are found, and none is missing."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.clustering import eigenvectors
from convergence.clustering.eigenvectors import smallest_eigenpairs_plain, spectral_embedding
from convergence.clustering.graph import normalised_laplacian, similarity_graph


def latent(n: int, n_factors: int, threshold: float, seed: int = 0) -> np.ndarray:
    """Graph of units that see one factor mostly, and a little of others."""
    rng = np.random.default_rng(seed)
    mixing = 0.2 * rng.standard_normal((n_factors, n))
    mixing[np.arange(n) % n_factors, np.arange(n)] += 1.5
    units = np.maximum(rng.standard_normal((2000, n_factors)) @ mixing + 0.5 * rng.standard_normal((2000, n)), 0)
    return similarity_graph(np.corrcoef(units, rowvar=False), threshold=threshold)


def torus(side: int) -> np.ndarray:
    """Each unit linked with its four neighbours: eigenvalues of multiplicity 4 and 8."""
    ring = np.roll(np.eye(side), 1, axis=0)
    ring = ring + ring.T
    return np.kron(ring, np.eye(side)) + np.kron(np.eye(side), ring)


def equal_blocks(n_blocks: int, size: int) -> np.ndarray:
    """All blocks the same and equally near: one eigenvalue has the multiplicity n_blocks - 1."""
    graph = np.kron(np.eye(n_blocks), np.ones((size, size))) + 0.01
    np.fill_diagonal(graph, 0.0)
    return graph


def side_by_side(*graphs: np.ndarray) -> np.ndarray:
    n = sum(len(graph) for graph in graphs)
    joint, start = np.zeros((n, n)), 0
    for graph in graphs:
        joint[start : start + len(graph), start : start + len(graph)] = graph
        start += len(graph)
    order = np.random.default_rng(5).permutation(n)
    return joint[np.ix_(order, order)]


GRAPHS = {
    "sparse": (lambda: latent(600, 12, 0.2), 12),
    "dense": (lambda: latent(560, 10, 0.0), 10),
    "small": (lambda: latent(90, 5, 0.2), 5),
    "torus": (lambda: torus(26), 20),
    "equal blocks": (lambda: equal_blocks(20, 30), 20),
    "ring": (lambda: np.roll(np.eye(520), 1, 0) + np.roll(np.eye(520), -1, 0), 9),
    "equal components": (lambda: side_by_side(*[latent(60, 2, 0.2)] * 4, latent(540, 6, 0.2)), 15),
    "dense components": (lambda: side_by_side(latent(530, 3, 0.0), latent(40, 3, 0.0)), 6),
    "many pairs": (lambda: side_by_side(latent(520, 6, 0.2), *[np.array([[0, 0.3], [0.3, 0]])] * 30), 40),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_eigenpairs_are_those_of_the_whole_laplacian(name: str) -> None:
    make, k = GRAPHS[name]
    graph = make()
    found = spectral_embedding(graph, k + 1)
    values, vectors = smallest_eigenpairs_plain(graph, k + 1)
    np.testing.assert_allclose(found.values, values, atol=1e-9)
    residual = normalised_laplacian(graph) @ found.vectors - found.vectors * found.values
    assert np.linalg.norm(residual, axis=0).max() < 2 * eigenvectors.RESIDUAL
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k + 1), atol=1e-7)
    assert np.all(found.vectors[np.abs(found.vectors).argmax(axis=0), np.arange(k + 1)] > 0)
    if values[k] - values[k - 1] > 1e-3:  # or the first k span no subspace of their own
        ours, plain = (v[:, :k] @ v[:, :k].T for v in (found.vectors, vectors))
        np.testing.assert_allclose(ours, plain, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_large_graphs_use_the_iterative_solver(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = latent(560, 10, threshold)
    values, _ = smallest_eigenpairs_plain(graph, 11)
    monkeypatch.delattr(eigenvectors, "smallest_eigenpairs_plain")
    np.testing.assert_allclose(spectral_embedding(graph, 11).values, values, atol=1e-9)


def test_wrong_eigenvectors_fall_back_to_dense_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = latent(560, 10, 0.2)
    right = spectral_embedding(graph, 11)
    largest = eigenvectors._largest

    def damaged(*arguments, **options):
        values, vectors = largest(*arguments, **options)
        return values, np.roll(vectors, 1, axis=0)

    monkeypatch.setattr(eigenvectors, "_largest", damaged)
    found = spectral_embedding(graph, 11)
    np.testing.assert_allclose(found.values, right.values, atol=1e-9)
    np.testing.assert_allclose(np.abs(found.vectors), np.abs(right.vectors), atol=1e-6)


def test_missed_eigenvalue_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = latent(560, 10, 0.2)
    right = spectral_embedding(graph, 11)
    largest = eigenvectors._largest

    def one_missing(multiply, n, wanted, generator, tol):
        values, vectors = largest(multiply, n, wanted + 1, generator, tol)
        kept = np.arange(wanted + 1) != 4 if wanted > 1 else [0]
        return values[kept], vectors[:, kept]

    monkeypatch.setattr(eigenvectors, "_largest", one_missing)
    np.testing.assert_allclose(spectral_embedding(graph, 11).values, right.values, atol=1e-9)


def test_the_same_bits_every_time() -> None:
    for graph in (latent(600, 12, 0.2), equal_blocks(20, 30)):
        first, again = (spectral_embedding(graph, 21, seed=3) for _ in range(2))
        np.testing.assert_array_equal(first.values, again.values)
        np.testing.assert_array_equal(first.vectors, again.vectors)


def test_every_component_has_the_eigenvalue_0() -> None:
    graph = side_by_side(latent(30, 2, 0.2), latent(20, 2, 0.2), latent(10, 2, 0.0))
    linked = graph.any(axis=1)
    found = spectral_embedding(graph, 60)
    np.testing.assert_array_equal(found.linked, np.flatnonzero(linked))
    np.testing.assert_array_equal(found.isolated, np.flatnonzero(~linked))
    plain, _ = smallest_eigenpairs_plain(graph[np.ix_(linked, linked)], int(linked.sum()))
    n_zero = int((plain < 1e-10).sum())
    assert n_zero >= 3
    np.testing.assert_array_equal(found.values[:n_zero], 0.0)
    assert found.values[n_zero] > 1e-6
    # Fewer vectors than components: those of the largest ones, and nothing but zeros elsewhere.
    two = spectral_embedding(graph, 2)
    np.testing.assert_array_equal(two.values, [0.0, 0.0])
    sizes = (two.vectors != 0).sum(axis=0)
    assert sizes[0] >= sizes[1] >= 10
    assert not np.any((two.vectors[:, 0] != 0) & (two.vectors[:, 1] != 0))
