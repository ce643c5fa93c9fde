"""Stability of clusters: compare clusters of all images with those without each image group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.clustering.eigenvectors import spectral_embedding, to_units, unit_rows
from convergence.clustering.graph import Labels, Matrix
from convergence.clustering.halves_kernels import agreement_of
from convergence.clustering.k_means import k_means, k_means_from
from convergence.errors import UserError


@dataclass(frozen=True, eq=False)
class Stability:
    """Adjusted Rand index of a clustering and its replicates: 1 for the same clusters, 0 by chance.

    ``mean``: mean over replicates. ``each`` (n_replicates,): index of each replicate. ``n_units`` (n_replicates,):
    number of units with a cluster in both; for fewer than two units the index is 0, which is no measurement.
    """

    mean: float
    each: Matrix
    n_units: Labels


def stability(labels: Labels, replicates: Sequence[Labels]) -> Stability:
    """Compute the mean adjusted Rand index (Hubert and Arabie 1985) of clusters and their replicates.

    Replicates without one image group share almost all images. A value near 1 therefore means that no single group
    determines the clusters, not that other images would give the same clusters. Two clusterings with a single cluster
    of all units have index 1.

    Parameters
    ----------
    labels : (n,)
        Clusters; units of label -1, here or in a replicate, are excluded from that comparison.
    replicates : n_replicates of (n,)
        Clusters of replicates, for example from :func:`replicate_labels`.

    Raises
    ------
    UserError
        if there is no replicate, or one has another number of units.
    """
    if len(replicates) == 0 or any(np.shape(other) != np.shape(labels) for other in replicates):
        raise UserError(
            f"replicates of shapes {[np.shape(other) for other in replicates]} do not fit clusters of "
            f"{len(labels)} units; give at least one replicate, with a label for each unit."
        )
    both = [(labels >= 0) & (other >= 0) for other in replicates]
    n_units = np.array([shared.sum() for shared in both], dtype=np.int64)
    each = np.array(
        [
            agreement_of(labels[shared], other[shared], 1.0) if shared.sum() > 1 else 0.0
            for other, shared in zip(replicates, both, strict=True)
        ]
    )
    return Stability(float(each.mean()), each, n_units)


def replicate_labels(similarity: Matrix, labels: Labels, seed: int = 0, n_init: int = 3) -> Labels:
    """Compute spectral clusters of a replicate's graph, with the same number of clusters as ``labels``.

    K-means starts once from the clusters of ``labels`` and ``n_init`` times from k-means++, and the best run counts;
    started from ``labels`` alone, it could keep them only because of the start. The eigenvectors of the two graphs need
    not be similar, only their spans.

    Parameters
    ----------
    similarity : (n, n)
        Graph of the replicate.
    labels : (n,)
        Clusters of all images, 0 … k - 1, or -1.
    seed
        Seed of eigenvectors and k-means.
    n_init
        Number of starts by k-means++, at least one; fewer for more than 20 clusters.

    Returns
    -------
    (n,) labels by descending size; -1 for units that are isolated in the replicate, and for all units if ``labels`` has
    no cluster.

    Raises
    ------
    UserError
        if the graph is invalid (see :func:`~convergence.clustering.spectral.spectral_clusters`), or has another number
        of units.
    """
    if np.shape(labels) != (len(similarity),):
        raise UserError(
            f"labels of shape {np.shape(labels)} do not fit a graph of {len(similarity)} units; give one per unit."
        )
    k = int(labels.max(initial=-1)) + 1
    embedding = spectral_embedding(similarity, max(k, 1), seed)
    if k == 0 or len(embedding.linked) == 0:
        return np.full(len(labels), -1, dtype=np.int64)
    points = unit_rows(embedding, k)
    found, inertia = k_means(points, min(k, len(points)), seed, max(min(n_init, 20 * n_init // k), 1))
    known = k_means_from(points, labels[embedding.linked], k)
    if known is not None and known[1] <= inertia:
        found = known[0]
    return to_units(found, embedding)
