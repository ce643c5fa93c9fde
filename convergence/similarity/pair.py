"""What every measure of two layers starts from, the covariances of their units, and what describes a
measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convergence.errors import UserError

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Covariances of the live units of two layers over the same samples.

    Parameters
    ----------
    n : float
        Number of samples.
    cov_xx, cov_xy, cov_yy : (n_x, n_x), (n_x, n_y), (n_y, n_y) float64
        Covariances, in units of activation squared.
    standardised : bool
        The covariances are already those of standardised units, or of a rotation of them (:meth:`rotated`).

    Raises
    ------
    UserError
        when shapes do not fit, a value is not finite or a unit has no variance.
    """

    n: float
    cov_xx: Matrix
    cov_xy: Matrix
    cov_yy: Matrix
    standardised: bool = False

    def __post_init__(self) -> None:
        n_x, n_y = len(self.cov_xx), len(self.cov_yy)
        if (self.cov_xx.shape, self.cov_xy.shape, self.cov_yy.shape) != ((n_x, n_x), (n_x, n_y), (n_y, n_y)):
            raise UserError(
                f"covariances of shapes {self.cov_xx.shape}, {self.cov_xy.shape} and {self.cov_yy.shape} do "
                "not belong to one pair of layers; give (n_x, n_x), (n_x, n_y) and (n_y, n_y)."
            )
        if n_x == 0 or n_y == 0:
            raise UserError("a layer of the pair has no live unit; leave this pair out.")
        if not all(np.isfinite(values).all() for values in (self.cov_xx, self.cov_xy, self.cov_yy)):
            raise UserError("a covariance is NaN or infinite; leave units with non-finite activations out first.")
        if np.diagonal(self.cov_xx).min() <= 0 or np.diagonal(self.cov_yy).min() <= 0:
            raise UserError("a unit has zero variance and so no correlation; leave such units out first.")

    @cached_property
    def corr_xx(self) -> Matrix:
        """(n_x, n_x) correlations within x, in [-1, 1], with an exact unit diagonal."""
        return _within(self.cov_xx)

    @cached_property
    def corr_xy(self) -> Matrix:
        """(n_x, n_y) correlations between x and y, in [-1, 1]."""
        scale = np.sqrt(np.outer(np.diagonal(self.cov_xx), np.diagonal(self.cov_yy)))
        return np.clip(self.cov_xy / scale, -1.0, 1.0)

    @cached_property
    def corr_yy(self) -> Matrix:
        """(n_y, n_y) correlations within y, in [-1, 1], with an exact unit diagonal."""
        return _within(self.cov_yy)

    @property
    def std_xx(self) -> Matrix:
        """(n_x, n_x) covariances of x's standardised units, in the basis that a rotation left them in."""
        return self.cov_xx if self.standardised else self.corr_xx

    @property
    def std_xy(self) -> Matrix:
        """(n_x, n_y) covariances between standardised units, in the basis that a rotation left them in."""
        return self.cov_xy if self.standardised else self.corr_xy

    @property
    def std_yy(self) -> Matrix:
        """(n_y, n_y) covariances of y's standardised units, in the basis that a rotation left them in."""
        return self.cov_yy if self.standardised else self.corr_yy

    def swapped(self) -> PairMoments:
        """The same pair with x and y exchanged."""
        return PairMoments(self.n, self.cov_yy, np.ascontiguousarray(self.cov_xy.T), self.cov_xx, self.standardised)

    def rotated(self, q: Matrix) -> PairMoments:
        """The pair after y's standardised units are rotated by an orthogonal (n_y, n_y) matrix.

        The span of the units, and all that depends on it alone, stays; single units do not. ``std_*`` are
        then R_xx, R_xy q and q' R_yy q. The rotated units have variances of their own, so ``corr_*`` divides
        by them once more: without that, chance would be set by units that merely vary more.
        """
        return PairMoments(self.n, self.std_xx, self.std_xy @ q, q.T @ self.std_yy @ q, standardised=True)


def _within(covariance: Matrix) -> Matrix:
    deviation = np.sqrt(np.diagonal(covariance))
    correlation = np.clip(covariance / np.outer(deviation, deviation), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


@dataclass(frozen=True)
class Measure:
    """A function of a pair, with what figures, error bars, nulls and property tests need to know about it.

    ``bounds`` hold for every pair. ``rotation_invariant``: an orthogonal transformation of one layer's
    standardised units changes nothing. ``scale_invariant``: a positive factor on any unit changes nothing.
    """

    function: Callable[[PairMoments], float]
    title: str
    source: str
    symmetric: bool
    bounds: tuple[float, float]
    rotation_invariant: bool
    scale_invariant: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.function.__doc__)
        object.__setattr__(self, "__name__", self.function.__name__)
        object.__setattr__(self, "__wrapped__", self.function)

    def __call__(self, pair: PairMoments) -> float:
        """The measure's value, a plain float within ``bounds``."""
        low, high = self.bounds
        return min(max(float(self.function(pair)), low), high)  # rounding may lead an ulp beyond


def measure(
    *,
    title: str,
    source: str,
    symmetric: bool,
    bounds: tuple[float, float],
    rotation_invariant: bool,
    scale_invariant: bool = True,
) -> Callable[[Callable[[PairMoments], float]], Measure]:
    """Decorator that makes a function of a pair into a :class:`Measure`."""

    def describe(function: Callable[[PairMoments], float]) -> Measure:
        return Measure(function, title, source, symmetric, bounds, rotation_invariant, scale_invariant)

    return describe
