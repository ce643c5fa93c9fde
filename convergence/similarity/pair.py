"""The input of every measure: moments of the units of two layers, and stored activations if available."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convergence.errors import UserError
from convergence.linalg import Matrix, principal_directions


class GroupHsic:
    """HSIC with linear kernels from pairs of different image groups, of (x, x), (x, y) and (y, y).

    ``of`` computes that of "xx", "xy" or "yy" when it is asked for; ``parts`` are the names of the three.
    """

    def __init__(self, of: Callable[[str], float], parts: tuple[str, str, str] = ("xx", "xy", "yy")) -> None:
        self._of, self._parts = of, parts

    @cached_property
    def xx(self) -> float:
        """HSIC of x with itself."""
        return self._of(self._parts[0])

    @cached_property
    def xy(self) -> float:
        """HSIC of x and y."""
        return self._of(self._parts[1])

    @cached_property
    def yy(self) -> float:
        """HSIC of y with itself."""
        return self._of(self._parts[2])

    def swapped(self) -> GroupHsic:
        """Return that of the pair with x and y exchanged."""
        xx, xy, yy = self._parts
        return GroupHsic(self._of, (yy, xy, xx))

    def of_x_alone(self) -> GroupHsic:
        """Return that of the pair of x and itself."""
        return GroupHsic(self._of, (self._parts[0],) * 3)


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
        Whether the covariances are those of standardised units or of their rotation (:meth:`rotated`).
    hsic : GroupHsic, optional
        Computed from the products of each image group.
    samples_x, samples_y : (n_stored, n_x), (n_stored, n_y), optional
        Stored activations of a subset of images; row k of both is the same image.
    kept : (n_stored,) bool, optional
        Mask of the stored images that count, for replicates that leave out images. Measures that compare an image with
        others still compare it with all stored images, because their value depends on the number of images.
    gram_xx, gram_yy : (n_stored, n_stored), optional
        Inner products of the flattened maps of the stored images, of raw units.

    Raises
    ------
    UserError
        if shapes do not fit, a value is not finite, or a unit has no variance.
    """

    n: float
    cov_xx: Matrix
    cov_xy: Matrix
    cov_yy: Matrix
    standardised: bool = False
    hsic: GroupHsic | None = None
    samples_x: Matrix | None = None
    samples_y: Matrix | None = None
    kept: NDArray[np.bool_] | None = None
    gram_xx: Matrix | None = None
    gram_yy: Matrix | None = None

    def __post_init__(self) -> None:
        n_x, n_y = len(self.cov_xx), len(self.cov_yy)
        if (self.cov_xx.shape, self.cov_xy.shape, self.cov_yy.shape) != ((n_x, n_x), (n_x, n_y), (n_y, n_y)):
            raise UserError(
                f"covariances of shapes {self.cov_xx.shape}, {self.cov_xy.shape} and {self.cov_yy.shape} do not fit "
                "one pair of layers; valid are (n_x, n_x), (n_x, n_y) and (n_y, n_y)."
            )
        if n_x == 0 or n_y == 0:
            raise UserError("a layer of the pair has no live unit; exclude this pair.")
        if not all(np.isfinite(values).all() for values in (self.cov_xx, self.cov_xy, self.cov_yy)):
            raise UserError("a covariance is NaN or infinite; exclude units with non-finite activations first.")
        if np.diagonal(self.cov_xx).min() <= 0 or np.diagonal(self.cov_yy).min() <= 0:
            raise UserError("a unit has zero variance and therefore no correlation; exclude such units first.")

    @cached_property
    def corr_xx(self) -> Matrix:
        """Correlations (n_x, n_x) within x, in [-1, 1], with a diagonal of exactly 1."""
        return _within(self.cov_xx)

    @cached_property
    def corr_xy(self) -> Matrix:
        """Correlations (n_x, n_y) between x and y, in [-1, 1]."""
        scale = np.outer(np.sqrt(np.diagonal(self.cov_xx)), np.sqrt(np.diagonal(self.cov_yy)))
        return np.clip(self.cov_xy / scale, -1.0, 1.0)

    @cached_property
    def corr_yy(self) -> Matrix:
        """Correlations (n_y, n_y) within y, in [-1, 1], with a diagonal of exactly 1."""
        return _within(self.cov_yy)

    @property
    def std_xx(self) -> Matrix:
        """Covariances (n_x, n_x) of the standardised units of x, in the rotated basis after :meth:`rotated`."""
        return self.cov_xx if self.standardised else self.corr_xx

    @property
    def std_xy(self) -> Matrix:
        """Covariances (n_x, n_y) between standardised units, in the rotated basis after :meth:`rotated`."""
        return self.cov_xy if self.standardised else self.corr_xy

    @property
    def std_yy(self) -> Matrix:
        """Covariances (n_y, n_y) of the standardised units of y, in the rotated basis after :meth:`rotated`."""
        return self.cov_yy if self.standardised else self.corr_yy

    @cached_property
    def directions_x(self) -> tuple[Matrix, Matrix]:
        """Variances (rank,), descending, and directions (n_x, rank) of the standardised units of x.

        See :func:`~convergence.linalg.principal_directions`.
        """
        return principal_directions(self.std_xx)

    @cached_property
    def directions_y(self) -> tuple[Matrix, Matrix]:
        """Variances (rank,), descending, and directions (n_y, rank) of the standardised units of y."""
        return principal_directions(self.std_yy)

    def swapped(self) -> PairMoments:
        """Return the pair with x and y exchanged."""
        hsic = None if self.hsic is None else self.hsic.swapped()
        other = PairMoments(
            self.n, self.cov_yy, np.ascontiguousarray(self.cov_xy.T), self.cov_xx, self.standardised, hsic,
            self.samples_y, self.samples_x, self.kept, self.gram_yy, self.gram_xx,
        )  # fmt: skip
        for mine, its in (("directions_x", "directions_y"), ("directions_y", "directions_x")):
            if mine in self.__dict__:  # reuse cached results
                other.__dict__[its] = self.__dict__[mine]
        return other

    def rotated(self, q: Matrix, standardise: bool = True) -> PairMoments:
        """Return the pair after a rotation of the standardised units of y by an orthogonal matrix (n_y, n_y).

        The rotation keeps the span of the units and changes the single units. ``std_*`` are then R_xx, R_xy q and
        q' R_yy q. The variances of rotated units differ, so ``corr_*`` divides by them again; otherwise units with
        large variance would dominate the chance level. With ``standardise=False`` the raw units are rotated.
        """
        if not standardise:
            samples = None if self.samples_y is None else self.samples_y @ q
            return replace(self, cov_xy=self.cov_xy @ q, cov_yy=q.T @ self.cov_yy @ q, samples_y=samples, hsic=None)
        scores_x, scores_y = self.scores()
        rotated = PairMoments(
            self.n, self.std_xx, self.std_xy @ q, q.T @ self.std_yy @ q, True, self.hsic,
            scores_x, None if scores_y is None else scores_y @ q,
        )  # fmt: skip
        if "directions_x" in self.__dict__:
            rotated.__dict__["directions_x"] = self.directions_x
        return rotated

    def scores(self) -> tuple[Matrix | None, Matrix | None]:
        """Return the stored samples with standardised units, in the rotated basis after :meth:`rotated`."""
        if self.standardised:
            return self.samples_x, self.samples_y
        x, y = (None if s is None else standard_scores(s) for s in (self.samples_x, self.samples_y))
        return x, y

    def of_x_alone(self) -> PairMoments:
        """Return the pair of layer x and itself."""
        return PairMoments(
            self.n, self.cov_xx, self.cov_xx, self.cov_xx, self.standardised,
            None if self.hsic is None else self.hsic.of_x_alone(),
            self.samples_x, self.samples_x, self.kept, self.gram_xx, self.gram_xx,
        )  # fmt: skip


def standard_scores(samples: Matrix) -> Matrix:
    """Standardise samples (n, units) to mean 0 and standard deviation 1 per unit; constant units become 0."""
    centred = np.asarray(samples, dtype=np.float64) - samples.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 0, deviation, 1.0)


def _within(covariance: Matrix) -> Matrix:
    deviation = np.sqrt(np.diagonal(covariance))
    correlation = np.clip(covariance / np.outer(deviation, deviation), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation
