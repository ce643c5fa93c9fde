"""Similarity of two layers after the best rotation: Procrustes correlation and shape distance."""

from __future__ import annotations

import numpy as np

from convergence.linalg import Matrix
from convergence.similarity.measure import aligned_measure, measure
from convergence.similarity.pair import PairMoments


def _best_rotation(pair: PairMoments) -> Matrix:
    """Orthogonal map (n_y, n_x) of the units of y with the largest total covariance with the units of x."""
    left, _, right = np.linalg.svd(pair.std_xy, full_matrices=False)
    return (left @ right).T


def procrustes_bound(pair: PairMoments) -> float:
    """Σ √(a_k b_k) / √(Σ a Σ b) of the falling eigenvalues a, b of S_xx and S_yy: 1 for equal spectra.

    S_xy = √S_xx C √S_yy with ‖C‖ <= 1, so its nuclear norm is at most Σ √(a_k b_k) (von Neumann's trace inequality).
    """
    (a, _), (b, _) = pair.directions_x, pair.directions_y
    rank = min(len(a), len(b))
    return float(np.sqrt(a[:rank] * b[:rank]).sum() / np.sqrt(pair.x.total * pair.y.total))


@aligned_measure(
    fit=_best_rotation,
    of_the_fit=lambda pair: float(pair.nuclear_norm / np.sqrt(pair.x.total * pair.y.total)),
    title="Procrustes correlation",
    source="Williams et al. 2021 (arXiv 2110.14739), cosine of the angular Procrustes distance",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    bound=procrustes_bound,
)
def procrustes_correlation(rotation: Matrix, pair: PairMoments) -> float:
    """||S_xy||_* / sqrt(tr S_xx tr S_yy) of standardised units: 1 if a rotation maps one layer onto the other.

    The nuclear norm is the largest total covariance over rotations of the units of y. For layers of different width,
    the smaller layer is padded with zero units, as in the source.
    """
    aligned = np.sum(pair.std_xy * rotation.T)
    return float(aligned / np.sqrt(pair.x.total * pair.y.total))


@measure(
    title="Shape distance",
    source="Williams et al. 2021 (arXiv 2110.14739), angular Procrustes distance, a metric",
    symmetric=True,
    bounds=(0.0, np.pi / 2),
    rotation_invariant=True,
    distance=True,
    of_itself=0.0,
    bound=lambda pair: float(np.arccos(min(procrustes_bound(pair), 1.0))),
)
def shape_distance(pair: PairMoments) -> float:
    """Arc cosine of the Procrustes correlation in radians: 0 for equal shapes; satisfies the triangle inequality."""
    return float(np.arccos(np.clip(procrustes_correlation.function(pair), -1.0, 1.0)))
