"""Centred kernel alignment with linear kernels."""

from __future__ import annotations

import numpy as np

from convergence.similarity.pair import PairMoments, measure


@measure(
    title="Linear CKA",
    source="Kornblith et al. 2019 (arXiv 1905.00414), equation 4 with linear kernels",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
)
def linear_cka(pair: PairMoments) -> float:
    """||S_xy||_F^2 / (||S_xx||_F ||S_yy||_F) of the standardised units, so no loud unit decides alone."""
    cross = np.linalg.norm(pair.std_xy)
    return float(cross**2 / (np.linalg.norm(pair.std_xx) * np.linalg.norm(pair.std_yy)))
