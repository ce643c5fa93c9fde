"""Clusters of clusters: spectral clusters that are too large are split again, and the tree of splits is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from convergence.clustering.eigenvectors import spectral_embedding, to_units, unit_rows
from convergence.clustering.graph import Labels, Matrix, by_size
from convergence.clustering.k_means import k_means
from convergence.clustering.spectral import UnitClusters, spectral_clusters
from convergence.errors import UserError

ALPHA = 0.025
"""The paper's, on conv2."""

# From this second eigenvalue of the Laplacian on, no two parts have fewer edges between them than random parts have:
# all units are equally near (1 or more only for complete multipartite graphs; less by rounding).
_NO_STRUCTURE = 1.0 - 1e-9


@dataclass(frozen=True, eq=False)
class ClusterTree:
    """A row for each set of units that was a cluster at some time, the root first: all units that have an edge.

    ``parent`` (n_nodes,): the node that was split into this and others, -1 for the root; a parent comes before its
    children. ``size`` (n_nodes,): units. ``label`` (n_nodes,): the cluster that a node is in the end, -1 for one
    that was split.
    """

    parent: Labels
    size: Labels
    label: Labels


@dataclass(frozen=True, eq=False)
class HierarchicalClusters:
    """``clusters`` in the end, with the ``tree`` of splits; no cluster but those in ``too_large`` has more units than
    ``limit``: these have no parts. Eigenvalues and eigengap are those of the first split, of the whole graph.
    """

    clusters: UnitClusters
    tree: ClusterTree
    limit: float
    too_large: Labels


def hierarchical_clusters(
    similarity: Matrix,
    alpha: float = ALPHA,
    n_clusters: int | Literal["eigengap"] = "eigengap",
    n_units: int | None = None,
    max_clusters: int = 20,
    seed: int = 0,
) -> HierarchicalClusters:
    """Spectral clusters, of which those of more than 2 α C units are split in two until none is left (Li et al. 2016).

    A cluster is split by its own graph, without the edges that leave it. A unit that has no others becomes a cluster
    of its own. A cluster has no parts where all its units are equally near: those of a complete graph, or one unit.

    Parameters
    ----------
    similarity : (n, n)
        A graph of joined units as :func:`~convergence.clustering.graph.similarity_graph` makes it.
    alpha : float
        Positive.
    n_clusters, max_clusters
        Of the first split, as in :func:`~convergence.clustering.spectral.spectral_clusters`.
    n_units : int, optional
        C, the units of one net; n / 2 if not given.
    seed : int
        Seed of eigenvectors and k-means.

    Raises
    ------
    UserError
        when the graph is none, or alpha or a number is not positive.
    """
    width = len(similarity) / 2 if n_units is None else n_units
    if not alpha > 0 or not width > 0:
        raise UserError(f"alpha {alpha} and n_units {n_units} must be positive; the limit is 2 x alpha x n_units.")
    limit = 2.0 * alpha * width
    first = spectral_clusters(similarity, n_clusters, max_clusters, seed)
    graph = np.asarray(similarity, dtype=np.float64)
    nodes = [np.flatnonzero(first.labels >= 0)] if first.n_clusters else []
    parent, ends, too_large = [-1] * len(nodes), [], []
    for node, units in enumerate(nodes):  # which grows on the way
        if node == 0 and first.n_clusters > 1:
            parts = [np.flatnonzero(first.labels == cluster) for cluster in range(first.n_clusters)]
        elif len(units) > limit:
            parts = _parts(graph, units, seed)
            too_large += [node] if len(parts) == 1 else []
        else:
            parts = [units]
        if len(parts) == 1:
            ends.append(node)
        else:
            nodes += parts
            parent += [node] * len(parts)
    labels = np.full(len(graph), -1, dtype=np.int64)
    for node in ends:
        labels[nodes[node]] = node
    labels = by_size(labels)
    label = np.full(len(nodes), -1, dtype=np.int64)
    label[ends] = [labels[nodes[node][0]] for node in ends]
    tree = ClusterTree(np.array(parent, dtype=np.int64), np.array([len(n) for n in nodes], dtype=np.int64), label)
    clusters = UnitClusters(labels, first.eigenvalues, int(labels.max()) + 1, first.eigengap, first.isolated)
    return HierarchicalClusters(clusters, tree, limit, np.sort(label[too_large]))


def _parts(graph: Matrix, units: Labels, seed: int) -> list[Labels]:
    """The two halves of a cluster, the larger one first, and after them its units without an edge to any other."""
    embedding = spectral_embedding(graph[np.ix_(units, units)], 2, seed)
    alone = [units[[unit]] for unit in embedding.isolated]
    if len(embedding.linked) < 2 or embedding.values[1] > _NO_STRUCTURE:
        return [*([units[embedding.linked]] if len(embedding.linked) else []), *alone]
    labels = to_units(k_means(unit_rows(embedding, 2), 2, seed)[0], embedding)
    return [*(units[labels == part] for part in range(labels.max() + 1)), *alone]
