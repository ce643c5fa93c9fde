"""How stable clusters are: those of all images beside those of the graph without each image group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score

from convergence.clustering.eigenvectors import spectral_embedding, to_units, unit_rows
from convergence.clustering.graph import Labels, Matrix
from convergence.clustering.k_means import k_means, k_means_from
from convergence.errors import UserError


@dataclass(frozen=True, eq=False)
class Stability:
    """Adjusted Rand index of a clustering with its replicates: 1 for the same clusters, 0 by chance.

    ``mean`` over replicates; ``each`` (n_replicates,); ``n_units`` (n_replicates,): units that have a cluster in
    both. Where these are fewer than two the index is 0, which is no measurement.
    """

    mean: float
    each: Matrix
    n_units: Labels


def stability(labels: Labels, replicates: Sequence[Labels]) -> Stability:
    """Mean adjusted Rand index (Hubert and Arabie 1985) of clusters with those of replicates.

    Replicates that leave out one image group of many see almost the same images, so a value near 1 says that no
    single group makes the clusters, not that other images would give them as well. One cluster of all units beside
    the same has the index 1.

    Parameters
    ----------
    labels : (n,)
        Clusters; units of label -1, here or in a replicate, are left out of that comparison.
    replicates : n_replicates of (n,)
        Those of :func:`replicate_labels`, for example.

    Raises
    ------
    UserError
        when there is no replicate or one has another number of units.
    """
    if len(replicates) == 0 or any(np.shape(other) != np.shape(labels) for other in replicates):
        raise UserError(
            f"replicates of shapes {[np.shape(other) for other in replicates]} do not belong to clusters of "
            f"{len(labels)} units; give at least one, with a label for each unit."
        )
    both = [(labels >= 0) & (other >= 0) for other in replicates]
    n_units = np.array([shared.sum() for shared in both], dtype=np.int64)
    each = np.array(
        [
            float(adjusted_rand_score(labels[shared], other[shared])) if shared.sum() > 1 else 0.0
            for other, shared in zip(replicates, both, strict=True)
        ]
    )
    return Stability(float(each.mean()), each, n_units)


def replicate_labels(similarity: Matrix, labels: Labels, seed: int = 0, n_init: int = 3) -> Labels:
    """Spectral clusters of a graph that differs little from the one that ``labels`` are of, as many as they are.

    K-means starts from those clusters, and ``n_init`` times from points of its own choice, and the best run counts:
    from the clusters alone it might stay with them for no other reason than that it began there. Eigenvectors of
    the two graphs need not resemble each other for that, only what they span.

    Parameters
    ----------
    similarity : (n, n)
        The replicate's graph.
    labels : (n,)
        Clusters of the whole, 0 … k - 1, or -1.
    seed, n_init
        Of the eigenvectors and of k-means' own starts, at least one.

    Returns
    -------
    (n,) labels, by falling size; -1 for units that are isolated here, and for all if ``labels`` has no cluster.

    Raises
    ------
    UserError
        when the graph is none, see :func:`~convergence.clustering.spectral.spectral_clusters`, or has another
        number of units.
    """
    if np.shape(labels) != (len(similarity),):
        raise UserError(f"labels of shape {np.shape(labels)} are not of a graph of {len(similarity)} units.")
    k = int(labels.max(initial=-1)) + 1
    embedding = spectral_embedding(similarity, max(k, 1), seed)
    if k == 0 or len(embedding.linked) == 0:
        return np.full(len(labels), -1, dtype=np.int64)
    points = unit_rows(embedding, k)
    found, inertia = k_means(points, min(k, len(points)), seed, n_init)
    known = k_means_from(points, labels[embedding.linked], k)
    if known is not None and known[1] <= inertia:
        found = known[0]
    return to_units(found, embedding)
