"""Canonical correlations of two layers, and three summaries: mean CCA, SVCCA and PWCCA.

All are rank-revealing: directions without variance (duplicated units, more units than samples) are excluded, because
their correlations would be rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convergence.linalg import Matrix
from convergence.similarity.measure import aligned_measure, one
from convergence.similarity.pair import PairMoments

KEPT_VARIANCE = 0.99


@dataclass(frozen=True, eq=False)
class CanonicalDirections:
    """Weights of the canonical variables, (n_x, k) and (n_y, k), by descending correlation, and importance (k,)."""

    x: Matrix
    y: Matrix
    importance: Matrix


def canonical_directions(pair: PairMoments, kept_variance: float = 1.0) -> CanonicalDirections:
    """Compute the canonical variables of the standardised units (Hotelling 1936).

    Each layer is first reduced to the principal directions that hold ``kept_variance`` of its variance (SVCCA: 0.99).
    The variables have variance 1. ``importance`` is the sum over the units of x of their absolute covariance with a
    variable (the weights of PWCCA).
    """
    k, l = (_n_kept(layer.directions[0], kept_variance) for layer in (pair.x, pair.y))
    if (k, l) == pair.components.shape:
        left, _, right = pair.canonical
    else:
        left, _, right = np.linalg.svd(pair.components[:k, :l], full_matrices=False)
    x, y = pair.x.whitening[:, :k] @ left, pair.y.whitening[:, :l] @ right.T
    return CanonicalDirections(x, y, np.abs(pair.std_xx @ x).sum(axis=0))


def canonical_correlations(found: CanonicalDirections, pair: PairMoments) -> Matrix:
    """Correlations (k,) of canonical variables, on the pair they were fitted on or another; 0 without variance."""
    covariance = np.einsum("ik,ik->k", found.x, pair.std_xy @ found.y)
    variances = [np.einsum("ik,ik->k", w, s @ w) for w, s in ((found.x, pair.std_xx), (found.y, pair.std_yy))]
    scale = np.sqrt(np.maximum(variances[0] * variances[1], 0.0))
    return np.clip(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0), -1.0, 1.0)


def _of_the_fit(pair: PairMoments) -> Matrix:
    """Correlations (k,) of the canonical variables on the pair they are fitted on: singular values."""
    return np.clip(pair.canonical[1], 0.0, 1.0)


def _svcca_of_the_fit(pair: PairMoments) -> float:
    k, l = (_n_kept(layer.directions[0], KEPT_VARIANCE) for layer in (pair.x, pair.y))
    values = np.linalg.svd(pair.components[:k, :l], compute_uv=False)
    return float(np.clip(values, 0.0, 1.0).mean())


def _pwcca_of_the_fit(pair: PairMoments) -> float:
    variables = pair.x.whitening @ pair.canonical[0]
    return float(np.average(_of_the_fit(pair), weights=np.abs(pair.std_xx @ variables).sum(axis=0)))


@aligned_measure(
    fit=canonical_directions,
    of_the_fit=lambda pair: float(_of_the_fit(pair).mean()),
    title="Mean CCA correlation",
    source="Hotelling 1936; mean over the canonical correlations, as many as the smaller rank",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    bound=one,
)
def mean_cca(found: CanonicalDirections, pair: PairMoments) -> float:
    """Mean canonical correlation; all directions have the same weight, whatever their variance."""
    return float(canonical_correlations(found, pair).mean())


@aligned_measure(
    fit=lambda pair: canonical_directions(pair, KEPT_VARIANCE),
    of_the_fit=_svcca_of_the_fit,
    title="SVCCA",
    source="Raghu et al. 2017 (arXiv 1706.05806): CCA of the directions that hold 99 % of the variance",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    bound=one,
)
def svcca(found: CanonicalDirections, pair: PairMoments) -> float:
    """Mean canonical correlation of the principal directions that hold 99 % of each layer's variance."""
    return float(canonical_correlations(found, pair).mean())


@aligned_measure(
    fit=canonical_directions,
    of_the_fit=_pwcca_of_the_fit,
    title="PWCCA",
    source="Morcos et al. 2018 (arXiv 1806.05759), equation 5",
    symmetric=False,
    bounds=(0.0, 1.0),
    rotation_invariant=False,
    rotation_null=False,
    bound=one,
)
def pwcca(found: CanonicalDirections, pair: PairMoments) -> float:
    """Mean of the canonical correlations, weighted by the importance of each canonical variable for the units of x.

    The weights depend on the basis of x and the correlations on no basis, so rotations of y give no chance level.
    """
    return float(np.average(canonical_correlations(found, pair), weights=found.importance))


def _n_kept(values: Matrix, kept_variance: float) -> int:
    """Number of the largest variances (rank,) that hold a share of their sum."""
    if kept_variance >= 1:
        return len(values)
    share = np.cumsum(values) / values.sum()
    return int(np.searchsorted(share, kept_variance - 1e-12)) + 1
