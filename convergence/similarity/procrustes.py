"""How well one layer can be rotated onto the other."""

from __future__ import annotations

import numpy as np

from convergence.similarity.pair import PairMoments, measure


@measure(
    title="Procrustes correlation",
    source="Williams et al. 2021 (arXiv 2110.14739), cosine of the angular Procrustes distance",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
)
def procrustes_correlation(pair: PairMoments) -> float:
    """||S_xy||_* / sqrt(tr S_xx tr S_yy) of standardised units: 1 where a rotation maps one onto the other.

    The nuclear norm is the largest total covariance that a rotation of y's units can have with x's. Where
    the widths differ, the smaller layer is padded with silent units, as in the source.
    """
    aligned = np.linalg.svd(pair.std_xy, compute_uv=False).sum()
    return float(aligned / np.sqrt(np.trace(pair.std_xx) * np.trace(pair.std_yy)))
