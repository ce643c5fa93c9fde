"""Centred kernel alignment with linear kernels: of standardised and raw units, debiased, and with images as samples."""

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
    title="Linear CKA, debiased",
    source="CKA of standardised units with HSIC from pairs of different image groups, a U-statistic over groups in the "
    "sense of Song et al. 2007 (arXiv 0805.2368); positions are samples",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=True,
    needs="groups",
)
def debiased_cka(pair: PairMoments) -> float:
    """HSIC_xy / sqrt(HSIC_xx HSIC_yy), HSIC = sum over image groups g != h of <C_g, C_h>.

    C_g is the sum over the samples of group g of the products of standardised units, about the means of the group.
    Different groups have no image in common. Independent layers therefore have a value of 0 on average, for any number
    of samples, also where the positions of an image are dependent.

    Raises
    ------
    UserError
        if the HSIC of a layer with itself is not positive (too few images).
    """
    assert pair.hsic is not None
    return _of_hsic(pair.x.hsic, pair.hsic, pair.y.hsic, "debiased_cka")


@measure(
    title="Linear CKA, images as samples, debiased",
    source="Kornblith et al. 2019 (arXiv 1905.00414): a sample is an image, its features are the values of all units "
    "at all positions; unbiased HSIC of Song et al. 2007 (arXiv 0805.2368), equation 5",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=True,
    scale_invariant=False,
    needs="gram",
)
def image_cka(pair: PairMoments) -> float:
    """HSIC_xy / sqrt(HSIC_xx HSIC_yy) of the stored images' flattened maps, raw: the CKA of convolutional layers.

    All other measures take positions as samples: they compare what units say about a place. This one compares how
    similar two whole images are in either layer, and sees where in the image something is.

    Raises
    ------
    UserError
        if the HSIC of a layer with itself is not positive (too few images).
    """
    assert pair.x.images is not None
    assert pair.y.images is not None
    x, y, kept = pair.x.images, pair.y.images, pair.kept
    n = len(x.kernel) if kept is None else int(np.count_nonzero(kept))
    if n < 4:
        raise UserError(f"{n} stored images are too few for the unbiased HSIC, which needs 4: raise statistics.subset.")
    return _of_hsic(x.hsic(x, kept), x.hsic(y, kept), y.hsic(y, kept), "image_cka")


def _of_hsic(xx: float, xy: float, yy: float, name: str) -> float:
    if min(xx, yy) <= 0:
        raise UserError(
            f"the unbiased HSIC of a layer with itself is {min(xx, yy):.3g}, but must be positive: there are too few "
            f"images. Use more images, or remove {name} from analysis.measures."
        )
    return xy / float(np.sqrt(xx) * np.sqrt(yy))


def _cka(s_xx: Matrix, s_xy: Matrix, s_yy: Matrix) -> float:
    cross = np.linalg.norm(s_xy / np.sqrt(np.outer(*(np.full(len(s), np.linalg.norm(s)) for s in (s_xx, s_yy)))))
    return float(cross**2)
