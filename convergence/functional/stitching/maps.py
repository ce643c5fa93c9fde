"""Affine maps from the units of a layer of net B to those of net A, fitted on the sums of some image groups.

Units of A are estimated as ``W b + c``. All maps come from the same moments:

one_to_one     each unit of A from its partner in the one-to-one matching, with A's mean and standard deviation:
               ā + (s_a / s_b)(b − b̄). Only the partners are fitted.
one_to_one_slope   the same partners with the slope of least squares, r s_a / s_b; unlike "sparse" with one unit, no
               partner is used twice.
soft           each unit of A from the units of B that the soft matching moves to it, in the shares of the plan, with
               A's mean and standard deviation (of equal widths the matching's).
sparse k       least squares on at most k units of B, by forward selection.
least_squares  least squares on all of B's units, rank-revealing.
orthogonal     the rotation of B's units, not standardised, that fits A's best (Schönemann 1966), with one factor for
               all units that gives A's total variance: no unit is favoured, and no direction amplified.
lasso λ, sgd λ the paper's mapping layers: at their optimum, and as SGD leaves them (:mod:`convergence.paper`).
mean           A's means: no information from B.
permuted, permuted_slope   one_to_one and one_to_one_slope with random partners.
rotated        one_to_one with B's standardised units in a random basis.

Units of A that are not live (constant, or in too few groups) or have no partner get their mean; units of B that are not
live are not used. Mapped values may be negative after a ReLU and are not clipped, as in Lenc & Vedaldi 2015 (arXiv
1411.5908).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from convergence.alignment.mapping_sgd import train_mapping
from convergence.alignment.matching import matching
from convergence.alignment.soft_matching import soft_matching
from convergence.alignment.sparse import dense_fit, forward_selection, lasso_path, prediction_loss, refit
from convergence.errors import UserError
from convergence.functional.context import ExperimentContext
from convergence.linalg import RandomBases
from convergence.similarity.pair import PairMoments

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
NO_PARTNER = -1


@dataclass(frozen=True, eq=False)
class AffineMap:
    """a = W b + c for all units of both layers: ``weights`` (n_a, n_b) and ``bias`` (n_a,)."""

    weights: Float64
    bias: Float64


@dataclass(frozen=True, eq=False)
class Partners:
    """A live unit of B, or ``NO_PARTNER``, for each live unit of A, and their correlation.

    Attributes
    ----------
    unit : (n_live_a,) index among B's live units
    correlation : (n_live_a,), 0 without a partner
    """

    unit: Indices
    correlation: Float64


@dataclass(frozen=True, eq=False)
class LayerFit:
    """Moments of the layers of B and A from one half of the image groups, and the maps fitted on them.

    Attributes
    ----------
    moments : of B's live units (x) and A's (y)
    live_b, live_a : (n_live,) indices of live units
    mean_b, mean_a : (n,) means of all units
    """

    moments: PairMoments
    live_b: npt.NDArray[np.int64]
    live_a: npt.NDArray[np.int64]
    mean_b: Float64
    mean_a: Float64

    @classmethod
    def of(cls, context: ExperimentContext, comparison: str, a: str, b: str, half: int) -> LayerFit:
        """From the sums of a half of the image groups.

        Raises
        ------
        UserError
            for a net with a unit that is not finite, or without live units.
        """
        sums = context.sums(comparison)
        pair = context.pair(comparison, b, a)
        groups = context.half(half)
        count = sums.group_count[groups].sum()
        means = sums.shift + sums.group_sums[groups].sum(axis=0) / count
        mean_b, mean_a = means[sums.units(b)], means[sums.units(a)]
        for net, mean in ((b, mean_b), (a, mean_a)):
            if not np.isfinite(mean).all():
                unit = int(np.flatnonzero(~np.isfinite(mean))[0])
                raise UserError(
                    f"{comparison}: unit {unit} of {net} is not finite on some image, and the layer cannot be "
                    "stitched. Remove the net or the comparison from [functional.stitch]."
                )
        return cls(context.half_moments(pair, half), pair.units_x, pair.units_y, mean_b, mean_a)

    @property
    def correlation(self) -> Float64:
        """(n_live_a, n_live_b)."""
        return self.moments.corr_xy.T

    def matched(self) -> Partners:
        """The one-to-one matching."""
        found = matching(self.correlation)
        unit = np.full(len(self.live_a), NO_PARTNER)
        unit[found.rows] = found.columns
        return self.partners(unit)

    def drawn(self, generator: np.random.Generator) -> Partners:
        """Random partners, none twice."""
        n_a, n_b = self.correlation.shape
        unit = np.full(n_a, NO_PARTNER)
        rows = generator.permutation(n_a)[: min(n_a, n_b)]
        unit[rows] = generator.permutation(n_b)[: len(rows)]
        return self.partners(unit)

    def partners(self, unit: Indices) -> Partners:
        """Chosen partners with their correlations."""
        there = unit != NO_PARTNER
        return Partners(unit, np.where(there, self.correlation[np.arange(len(unit)), unit], 0.0))

    def affine_map(self, standard: Float64) -> AffineMap:
        """The map of weights (n_live_a, n_live_b) for standardised units, as the methods below return them."""
        deviation_b, deviation_a = (np.sqrt(np.diagonal(c)) for c in (self.moments.cov_xx, self.moments.cov_yy))
        weights = np.zeros((len(self.mean_a), len(self.mean_b)))
        weights[np.ix_(self.live_a, self.live_b)] = deviation_a[:, None] * standard / deviation_b
        return AffineMap(weights, self.mean_a - weights @ self.mean_b)

    def one_to_one(self, partners: Partners, slope: bool = False) -> Float64:
        """Each unit from its partner, with the moments of A's unit or with the slope of least squares."""
        standard = np.zeros(self.correlation.shape)
        there = np.flatnonzero(partners.unit != NO_PARTNER)
        standard[there, partners.unit[there]] = partners.correlation[there] if slope else 1.0
        return standard

    def soft(self) -> Float64:
        """Each unit from the shares of units that the soft matching moves to it, scaled to unit variance."""
        return _unit_variance(soft_matching(self.correlation).plan, self.moments.corr_xx)

    @cached_property
    def _bases(self) -> RandomBases:
        return RandomBases(self.moments.corr_xx)

    def rotated(self, generator: np.random.Generator) -> Float64:
        """The one-to-one matching with B's standardised units in a random basis."""
        basis = self._bases.draw(generator)
        found = matching(self.moments.swapped().in_basis(basis).corr_xy)
        standard = np.zeros(self.correlation.shape)
        standard[found.rows] = basis[:, found.columns].T
        return _unit_variance(standard, self.moments.corr_xx)

    def sparse(self, numbers: Sequence[int]) -> dict[int, Float64]:
        """Least squares on at most k units per target for each k of ``numbers``, by forward selection."""
        n_a, n_b = self.correlation.shape
        r_xx, r_xy = self.moments.corr_xx, self.moments.corr_xy
        order, _ = forward_selection(r_xx, r_xy, min(max(numbers), n_b))
        found = {}
        for number in numbers:
            first = order[:, :number]
            chosen = np.zeros((n_a, n_b))
            rows, columns = np.nonzero(first >= 0)
            chosen[rows, first[rows, columns]] = 1.0
            found[number] = refit(r_xx, r_xy, chosen)[0]
        return found

    def least_squares(self) -> Float64:
        """Least squares on all units, of minimum norm where they are linearly dependent."""
        return dense_fit(self.moments.corr_xx, self.moments.corr_xy)[0]

    def orthogonal(self) -> Float64:
        """The rotation that maximises the covariance with A's units, scaled to their total variance.

        Of unequal widths, B's units are rotated into A's (n_a > n_b) or onto them.
        """
        m = self.moments
        left, _, right = np.linalg.svd(m.cov_xy.T, full_matrices=False)
        rotation = left @ right
        total = float(np.sum((rotation @ m.cov_xx) * rotation))
        scale = np.sqrt(np.trace(m.cov_yy) / total) if total > 0 else 0.0
        deviation_b, deviation_a = (np.sqrt(np.diagonal(c)) for c in (m.cov_xx, m.cov_yy))
        return np.asarray(scale * rotation * deviation_b / deviation_a[:, None])

    def lasso(self, penalties: Sequence[float]) -> dict[float, Float64]:
        """The optimum of the paper's mapping layer by penalty λ; α is λ times the number of live units of A."""
        alphas = np.array(penalties) * len(self.live_a)
        path = lasso_path(self.moments.corr_xx, self.moments.corr_xy, alphas).weights
        return dict(zip(penalties, path, strict=True))

    def sgd(self, penalties: Sequence[float], steps: int, seed: int) -> dict[float, Float64]:
        """The paper's mapping layers after some steps of SGD (:mod:`convergence.alignment.mapping_sgd`), by penalty."""
        m = self.moments
        found = train_mapping(m.corr_xx, m.corr_xy, m.corr_yy, list(penalties), steps, seed=seed)
        return dict(zip(penalties, found.weights, strict=True))

    def explained(self, standard: Float64) -> float:
        """Mean R² of A's units by the weights of a map, for standardised units, on the images of this fit."""
        return float(1.0 - 2.0 * prediction_loss(self.moments.corr_xx, self.moments.corr_xy, standard).mean())

    def explained_by(self, mapping: AffineMap) -> float:
        """:meth:`explained` of a map that may be of other images: A's means are taken as known."""
        deviation_b, deviation_a = (np.sqrt(np.diagonal(c)) for c in (self.moments.cov_xx, self.moments.cov_yy))
        live = mapping.weights[np.ix_(self.live_a, self.live_b)]
        return self.explained(live * deviation_b / deviation_a[:, None])


def _unit_variance(standard: Float64, r_bb: Float64) -> Float64:
    """Rows of weights scaled to sums of variance 1; rows of zeros are not changed."""
    variance = np.sum((standard @ r_bb) * standard, axis=1, keepdims=True)
    return np.asarray(standard / np.sqrt(np.where(variance > 0, variance, 1.0)))
