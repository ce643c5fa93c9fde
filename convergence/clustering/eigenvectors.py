"""The smallest eigenpairs of the normalised Laplacian of a graph, for spectral clustering.

Three properties make the computation fast. Most graphs are sparse, because edges below the threshold are removed.
Components are solved separately, so their eigenvalue 0 is known. Large components are solved iteratively (Lanczos with
implicit restarts, ARPACK) and checked; a dense solver is used if the check fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray
from scipy.linalg.blas import dsymv
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from convergence.clustering.graph import Labels, Matrix, by_size, checked_graph, normalised_laplacian

RESIDUAL = 1e-8
"""Largest accepted residual ||L v - λ v|| of a unit vector from ARPACK; it bounds the error of λ."""

# Measured: a dense solver is faster below this number of units, and above this share of the eigenvectors; a sparse
# product is faster below this share of edges.
_DENSE_UNITS = 512
_DENSE_SHARE = 1 / 8
_SPARSE_DENSITY = 0.1
_TOLERANCE = 1e-10
_MAX_RESTARTS = 500
_TAKES_RNG = "rng" in inspect.signature(eigsh).parameters  # SciPy 1.17: restarts after a breakdown are seeded


@dataclass(frozen=True, eq=False)
class SpectralEmbedding:
    """Eigenpairs of the normalised Laplacian of the units that have an edge.

    ``values`` (k,): smallest eigenvalues, ascending, each in [0, 2]. ``vectors`` (n_linked, k): eigenvectors as
    columns, of norm 1, with a positive largest entry. ``linked`` (n_linked,): the units with an edge. ``isolated``: the
    units without an edge.
    """

    values: Matrix
    vectors: Matrix
    linked: Labels
    isolated: Labels


def spectral_embedding(similarity: Matrix, n_vectors: int, seed: int = 0) -> SpectralEmbedding:
    """Compute the ``n_vectors`` smallest eigenpairs, or all if there are fewer, with residuals of at most 1e-8.

    The eigenvectors of a graph with several components are those of the components; the number of eigenvalues 0 is the
    number of components. Among equal eigenvalues the largest component comes first. Raises as
    :func:`~convergence.clustering.graph.checked_graph`.

    Parameters
    ----------
    similarity : (n, n)
        A graph.
    n_vectors : int
        Number of eigenpairs, at least 1.
    seed : int
        Seed of the start vector of the iteration.
    """
    graph = checked_graph(similarity)
    linked = graph.any(axis=1)
    isolated = np.flatnonzero(~linked)
    where = np.flatnonzero(linked)
    if len(where) == 0:
        return SpectralEmbedding(np.zeros(0), np.zeros((0, 0)), where, isolated)
    if len(isolated):
        graph = graph[np.ix_(where, where)]
    values, vectors = _smallest(graph, min(n_vectors, len(graph)), seed)
    return SpectralEmbedding(values, fixed_signs(vectors), where, isolated)


def smallest_eigenpairs_plain(graph: Matrix, n_vectors: int) -> tuple[Matrix, Matrix]:
    """Compute the smallest eigenpairs by a dense solver, for a graph without isolated units."""
    values, vectors = scipy.linalg.eigh(normalised_laplacian(graph), subset_by_index=(0, n_vectors - 1))
    return np.clip(values, 0.0, 2.0), vectors


def fixed_signs(vectors: Matrix) -> Matrix:
    """Fix the arbitrary signs of eigenvectors: make the largest entry of each positive."""
    largest = np.argmax(np.abs(vectors), axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def _smallest(graph: Matrix, wanted: int, seed: int) -> tuple[Matrix, Matrix]:
    """Compute the smallest eigenpairs of a graph from those of its components."""
    edges = _sparse(graph)
    if edges is None and _connected(graph):
        return _of_component(graph, None, wanted, seed)
    n_components, component = connected_components(graph if edges is None else edges, directed=False)
    if n_components == 1:
        return _of_component(graph, edges, wanted, seed)
    sizes = np.bincount(component)
    order = np.argsort(-sizes, kind="stable")
    # Every component has the eigenvalue 0 once; with at least ``wanted`` components no other eigenvalue is needed.
    each = 1 if n_components >= wanted else wanted
    members = np.split(np.argsort(component, kind="stable"), np.cumsum(sizes)[:-1])
    found = []
    for units in (members[name] for name in order[:wanted]):
        part = graph[np.ix_(units, units)]
        found.append((units, *_of_component(part, _sparse(part), min(each, len(units)), seed)))
    values = np.concatenate([own for _, own, _ in found])
    taken = np.argsort(values, kind="stable")[:wanted]
    owner = np.repeat(np.arange(len(found)), [len(own) for _, own, _ in found])
    column = np.concatenate([np.arange(len(own)) for _, own, _ in found])
    vectors = np.zeros((len(graph), len(taken)))
    for place, index in enumerate(taken):
        units, _, own = found[owner[index]]
        vectors[units, place] = own[:, column[index]]
    return values[taken], vectors


def _sparse(graph: Matrix) -> Any:
    """Convert a graph to a sparse matrix, faster than SciPy; None if it has too many edges."""
    counts = np.count_nonzero(graph, axis=1)
    if counts.sum() >= _SPARSE_DENSITY * graph.size:
        return None
    n, places = len(graph), np.flatnonzero(graph)
    columns = (places - np.repeat(np.arange(0, n * n, n), counts)).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return scipy.sparse.csr_array((graph.ravel()[places], columns, starts), shape=(n, n))


def _connected(graph: Matrix) -> bool:
    """Check whether all units can be reached from the first unit; fast for graphs with many edges."""
    reached = np.zeros(len(graph))
    reached[0] = 1.0
    while True:
        further = ((graph @ reached > 0) | (reached > 0)).astype(np.float64)
        if np.array_equal(further, reached):
            return bool(reached.all())
        reached = further


def _of_component(graph: Matrix, edges: Any, wanted: int, seed: int) -> tuple[Matrix, Matrix]:
    """Compute eigenpairs of a connected graph; ``edges`` is the graph as a sparse matrix, or None."""
    if wanted == 1:
        root = np.sqrt(graph.sum(axis=1))
        return np.zeros(1), (root / np.linalg.norm(root))[:, None]
    found = None
    if len(graph) >= _DENSE_UNITS and wanted <= _DENSE_SHARE * len(graph):
        found = _iterated(graph, edges, wanted, seed)
    values, vectors = found if found is not None else smallest_eigenpairs_plain(graph, wanted)
    values[0] = 0.0  # known exactly
    return values, vectors


def _iterated(graph: Matrix, edges: Any, wanted: int, seed: int) -> tuple[Matrix, Matrix] | None:
    """Compute eigenpairs by ARPACK; None if they are inaccurate or one may be missing."""
    n = len(graph)
    root = 1.0 / np.sqrt(graph.sum(axis=1))
    if edges is not None:
        scaled = edges.copy()
        scaled.data *= np.repeat(root, np.diff(scaled.indptr)) * root[scaled.indices]

    def multiply(x: Matrix) -> Matrix:
        """Compute D^-1/2 W D^-1/2 x; reads only one triangle of a dense W."""
        x = x.ravel()
        return scaled @ x if edges is not None else root * dsymv(1.0, graph.T, root * x)

    generator = np.random.default_rng(seed)
    found = _largest(multiply, n, wanted, generator, tol=_TOLERANCE)
    if found is None:
        return None
    values, vectors = found
    image = scaled @ vectors if edges is not None else root[:, None] * (graph @ (root[:, None] * vectors))
    if np.linalg.norm(image - vectors * values, axis=0).max() > RESIDUAL:
        return None

    def deflated(x: Matrix) -> Matrix:
        """Apply the matrix with its found eigenvalues moved to -1, the smallest possible value."""
        x = x.ravel()
        return multiply(x) - vectors @ ((values + 1.0) * (vectors.T @ x))

    # A single start vector may miss a copy of a multiple eigenvalue, as in exactly symmetric graphs. A second start,
    # orthogonal to the found vectors, would find it.
    left = _largest(deflated, n, 1, generator, tol=1e-3)
    if left is None or left[0][0] > values[-1] + RESIDUAL:
        return None
    return np.clip(1.0 - values, 0.0, 2.0), vectors


def _largest(
    multiply: Callable[[Matrix], Matrix], n: int, wanted: int, generator: np.random.Generator, tol: float
) -> tuple[Matrix, Matrix] | None:
    """Compute the largest eigenvalues, descending, and their vectors; None if ARPACK does not converge."""
    options: dict[str, Any] = {"rng": generator} if _TAKES_RNG else {}
    operator = LinearOperator((n, n), matvec=multiply, dtype=np.float64)
    start = generator.standard_normal(n)
    try:
        values, vectors = eigsh(operator, wanted, which="LA", v0=start, tol=tol, maxiter=_MAX_RESTARTS, **options)
    except ArpackError:
        return None
    order = np.argsort(-values, kind="stable")
    return values[order], np.ascontiguousarray(vectors[:, order])


# Shorter rows are rounding errors: none of the eigenvectors belongs to the component of the unit.
_NO_ROW = 1e-12


def unit_rows(embedding: SpectralEmbedding, k: int) -> Matrix:
    """Normalise the rows (n_linked, k) of the first k eigenvectors to length 1, or 0 (Ng, Jordan and Weiss 2001)."""
    rows = embedding.vectors[:, :k]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > _NO_ROW)


def to_units(found: NDArray[np.integer], embedding: SpectralEmbedding) -> Labels:
    """Expand labels of linked units to all units, numbered by descending cluster size; -1 for isolated units."""
    labels = np.full(len(embedding.linked) + len(embedding.isolated), -1, dtype=np.int64)
    labels[embedding.linked] = found
    return by_size(labels)
