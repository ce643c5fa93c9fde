"""Centred kernel alignment with linear kernels: of standardised units, of raw units, and debiased."""

from __future__ import annotations

import numpy as np

from convergence.errors import UserError
from convergence.linalg import Matrix
from convergence.similarity.measure import measure
from convergence.similarity.pair import PairMoments


def cka_bound(a: Matrix, b: Matrix) -> float:
    """Σ a_k b_k / (‖a‖ ‖b‖) of the falling eigenvalues of S_xx and S_yy: 1 for equal spectra.

    S_xy = √S_xx C √S_yy with ‖C‖ <= 1, so ‖S_xy‖_F² is at most Σ a_k b_k (von Neumann's trace inequality).
    """
    rank = min(len(a), len(b))
    return float(a[:rank] @ b[:rank] / (np.linalg.norm(a) * np.linalg.norm(b)))


def _spectrum(covariance: Matrix) -> Matrix:
    return np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0.0)


@measure(
    title="Linear CKA",
    source="Kornblith et al. 2019 (arXiv 1905.00414), equation 4 with linear kernels, of standardised units",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    bound=lambda pair: cka_bound(pair.directions_x[0], pair.directions_y[0]),
)
def linear_cka(pair: PairMoments) -> float:
    """||S_xy||_F^2 / (||S_xx||_F ||S_yy||_F) of the standardised units, so all units have the same weight."""
    return _cka(pair.std_xx, pair.std_xy, pair.std_yy)


@measure(
    title="Linear CKA, raw units",
    source="Kornblith et al. 2019 (arXiv 1905.00414), equation 4 with linear kernels",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    scale_invariant=False,
    bound=lambda pair: cka_bound(_spectrum(pair.cov_xx), _spectrum(pair.cov_yy)),
)
def linear_cka_raw(pair: PairMoments) -> float:
    """||S_xy||_F^2 / (||S_xx||_F ||S_yy||_F) of the raw units, dominated by units with large variance."""
    return _cka(pair.cov_xx, pair.cov_xy, pair.cov_yy)


@measure(
    title="Linear CKA, raw units, debiased",
    source="unbiased HSIC of Song et al. 2007 (arXiv 0805.2368), equation 5, in place of the HSIC of CKA",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=True,
    scale_invariant=False,
    needs="hsic",
)
def debiased_cka(pair: PairMoments) -> float:
    """HSIC_xy / sqrt(HSIC_xx HSIC_yy) with unbiased HSIC: 0 on average for independent layers, for any sample size.

    All finite units are included, without standardisation. The estimator assumes independent samples; positions of one
    image are dependent, so bias from that dependence remains.

    Raises
    ------
    UserError
        if the HSIC of a layer with itself is not positive (too few samples).
    """
    assert pair.hsic is not None
    if min(pair.hsic.xx, pair.hsic.yy) <= 0:
        raise UserError(
            f"the unbiased HSIC of a layer with itself is {min(pair.hsic.xx, pair.hsic.yy):.3g}, but must be positive: "
            f"{pair.n:.0f} samples are too few. Use more images, or remove debiased_cka from analysis.measures."
        )
    return pair.hsic.xy / float(np.sqrt(pair.hsic.xx) * np.sqrt(pair.hsic.yy))


def _cka(s_xx: Matrix, s_xy: Matrix, s_yy: Matrix) -> float:
    cross = np.linalg.norm(s_xy / np.sqrt(np.outer(*(np.full(len(s), np.linalg.norm(s)) for s in (s_xx, s_yy)))))
    return float(cross**2)
