"""Cut the eigenvectors of a graph into clusters: by pivoted QR in one pass, or by k-means from several starts."""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dgeqp3

from convergence.clustering.eigenvectors import SpectralEmbedding, unit_rows
from convergence.clustering.graph import Labels, Matrix
from convergence.clustering.k_means import N_INIT, k_means, k_means_from

# Greedy k-means++ takes time in proportion to k² and gains little over the start by QR for many clusters.
_MANY = 20
_QR_BLOCK = 32  # columns that LAPACK takes at a time


def qr_labels(vectors: Matrix) -> Labels:
    """Assign each row of the eigenvectors (…, n, k) to one of k clusters (Damle, Minden and Ying 2019).

    Rows of well-separated clusters point in k orthogonal directions. A QR decomposition with pivoting picks a
    representative of each; the nearest orthogonal basis is the polar factor of these rows. A row belongs to the axis of
    its largest entry. The result has no random start. Rows of zeros go to cluster 0.

    Source: Information and Inference 8 (2019), 181-203.
    """
    stack = vectors.reshape(-1, *vectors.shape[-2:])
    _, n, k = stack.shape
    lwork = _QR_BLOCK * (n + 1) + 2 * n
    pivots = np.stack([dgeqp3(one.T, lwork=lwork)[1][:k] for one in stack]) - 1  # LAPACK counts from 1
    chosen = np.take_along_axis(stack, pivots[:, :, None], axis=1).transpose(0, 2, 1)
    values, basis = np.linalg.eigh(chosen.transpose(0, 2, 1) @ chosen)
    # Pivoting keeps the rows far from dependent, so that squaring them loses nothing; missing rows are left out.
    root = np.divide(1.0, np.sqrt(np.abs(values)), out=np.zeros_like(values), where=values > 1e-12)
    polar = chosen @ ((basis * root[:, None, :]) @ basis.transpose(0, 2, 1))
    return np.argmax(np.abs(stack @ polar), axis=-1).reshape(vectors.shape[:-1])


def partition(embedding: SpectralEmbedding, k: int, seed: int, n_init: int = N_INIT) -> Labels:
    """Cluster the linked units of an embedding into k groups by k-means on rows of length 1; (n_linked,) labels.

    For up to 20 clusters the best of ``n_init`` starts by k-means++ counts. For more, the start by :func:`qr_labels`
    competes with fewer of them.
    """
    k = min(k, len(embedding.linked))
    points = unit_rows(embedding, k)
    if k <= _MANY:
        return k_means(points, k, seed, n_init)[0]
    found, inertia = k_means(points, k, seed, max(n_init * _MANY // k, 1))
    other = k_means_from(points, qr_labels(embedding.vectors[:, :k]), k)
    return other[0] if other is not None and other[1] < inertia else found
