"""The input of every measure: moments of the units of two layers, and stored activations if available."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convergence.errors import UserError
from convergence.linalg import Matrix
from convergence.similarity.layer import LayerMoments
from convergence.similarity.stored_images import StoredImages


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Covariances of the live units of two layers over the same samples.

    Parameters
    ----------
    n : float
        Number of samples.
    x, y : LayerMoments
        The layers, of n_x and n_y units; row k of their stored samples is the same image.
    cov_xy : (n_x, n_y) float64
        Covariances between the layers, in units of activation squared.
    between_groups : callable, optional
        Computes the HSIC of x and y from pairs of different image groups, when it is asked for.

    Raises
    ------
    UserError
        if shapes do not fit or a value is not finite.
    """

    n: float
    x: LayerMoments
    cov_xy: Matrix
    y: LayerMoments
    between_groups: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        if self.cov_xy.shape != (len(self.x), len(self.y)):
            raise UserError(
                f"covariances of shapes {self.x.cov.shape}, {self.cov_xy.shape} and {self.y.cov.shape} do not fit "
                "one pair of layers; valid are (n_x, n_x), (n_x, n_y) and (n_y, n_y)."
            )
        if not np.isfinite(self.cov_xy).all():
            raise UserError("a covariance is NaN or infinite; exclude units with non-finite activations first.")

    @classmethod
    def of(
        cls,
        n: float,
        cov_xx: Matrix,
        cov_xy: Matrix,
        cov_yy: Matrix,
        standardised: bool = False,
        hsic: Callable[[str], float] | None = None,
        samples: tuple[Matrix | None, Matrix | None] = (None, None),
        grams: tuple[Matrix | None, Matrix | None] = (None, None),
        kept: NDArray[np.bool_] | None = None,
    ) -> PairMoments:
        """From three covariance matrices; ``hsic`` computes that of "xx", "xy" or "yy"."""

        def of_part(part: str) -> Callable[[], float] | None:
            return None if hsic is None else lambda: hsic(part)

        x, y = (
            LayerMoments(
                cov, standardised, None if own is gram is None else StoredImages(own, gram, standardised), kept,
                of_part(part),
            )
            for cov, own, gram, part in ((cov_xx, samples[0], grams[0], "xx"), (cov_yy, samples[1], grams[1], "yy"))
        )  # fmt: skip
        return cls(n, x, cov_xy, y, of_part("xy"))

    @property
    def cov_xx(self) -> Matrix:
        """Covariances (n_x, n_x) within x."""
        return self.x.cov

    @property
    def cov_yy(self) -> Matrix:
        """Covariances (n_y, n_y) within y."""
        return self.y.cov

    @property
    def corr_xx(self) -> Matrix:
        """Correlations (n_x, n_x) within x, in [-1, 1], with a diagonal of exactly 1."""
        return self.x.corr

    @property
    def corr_yy(self) -> Matrix:
        """Correlations (n_y, n_y) within y, in [-1, 1], with a diagonal of exactly 1."""
        return self.y.corr

    @cached_property
    def corr_xy(self) -> Matrix:
        """Correlations (n_x, n_y) between x and y, in [-1, 1]."""
        return np.clip(self.cov_xy / np.outer(self.x.deviation, self.y.deviation), -1.0, 1.0)

    @property
    def std_xx(self) -> Matrix:
        """Covariances (n_x, n_x) of the standardised units of x, in the other basis after :meth:`in_basis`."""
        return self.x.std

    @property
    def std_yy(self) -> Matrix:
        """Covariances (n_y, n_y) of the standardised units of y, in the other basis after :meth:`in_basis`."""
        return self.y.std

    @property
    def standardised(self) -> bool:
        """Whether the covariances are those of standardised units or of another basis of them."""
        return self.x.standardised

    @property
    def std_xy(self) -> Matrix:
        """Covariances (n_x, n_y) between standardised units, in the other basis after :meth:`in_basis`."""
        return self.cov_xy if self.standardised else self.corr_xy

    @property
    def kept(self) -> NDArray[np.bool_] | None:
        """Mask (N,) of the stored images that count; None for all."""
        return self.x.kept

    @property
    def directions_x(self) -> tuple[Matrix, Matrix]:
        """Variances (rank,), descending, and directions (n_x, rank) of the standardised units of x."""
        return self.x.directions

    @property
    def directions_y(self) -> tuple[Matrix, Matrix]:
        """Variances (rank,), descending, and directions (n_y, rank) of the standardised units of y."""
        return self.y.directions

    @cached_property
    def projections(self) -> Matrix:
        """(rank_x, n_y) covariances of the principal components of x, of variance 1, with standardised units of y."""
        return self.x.whitening.T @ self.std_xy

    @cached_property
    def components(self) -> Matrix:
        """(rank_x, rank_y) covariances of the principal components of x and y, each of variance 1."""
        return self.projections @ self.y.whitening

    @cached_property
    def canonical(self) -> tuple[Matrix, Matrix, Matrix]:
        """Left vectors, singular values and right vectors (as rows) of :attr:`components`: the canonical variables."""
        return np.linalg.svd(self.components, full_matrices=False)

    @cached_property
    def nuclear_norm(self) -> float:
        """Sum of the singular values of the covariances between standardised units."""
        return float(np.linalg.svd(self.std_xy, compute_uv=False).sum())

    @cached_property
    def hsic(self) -> float | None:
        """HSIC of x and y from pairs of different image groups; None if it is not known."""
        return None if self.between_groups is None else self.between_groups()

    def swapped(self) -> PairMoments:
        """Return the pair with x and y exchanged; it shares what is known of this one."""
        other = self.__dict__.get("_swapped")
        if other is None:
            other = PairMoments(self.n, self.y, np.ascontiguousarray(self.cov_xy.T), self.x, self.between_groups)
            self.__dict__["_swapped"] = other
        for name, turned in _TURNED.items():
            if name in self.__dict__ and name not in other.__dict__:
                other.__dict__[name] = turned(self.__dict__[name])
        return other

    def in_basis(self, q: Matrix, standardise: bool = True) -> PairMoments:
        """Return the pair with the standardised units of y in another basis, the columns of a matrix (n_y, n_y).

        A basis keeps the span of the units and changes the single units; it is orthogonal, or a draw of
        :class:`~convergence.linalg.RandomBases`. ``std_*`` are then R_xx, R_xy q and q' R_yy q. The variances of the
        new units may differ, so ``corr_*`` divides by them again; otherwise units with large variance would dominate
        the chance level. With ``standardise=False`` the raw units are taken to the basis.
        """
        if not standardise:
            images = self.y.images
            if images is not None:
                images = StoredImages(None if images.samples is None else images.samples @ q, images.gram)
            y = LayerMoments(q.T @ self.y.cov @ q, self.y.standardised, images, self.y.kept)
            return PairMoments(self.n, replace(self.x, between_groups=None), self.cov_xy @ q, y)
        return PairMoments(self.n, self.x.in_standard_units, self.std_xy @ q, self.y.in_basis(q), self.between_groups)

    def of_x_alone(self) -> PairMoments:
        """Return the pair of layer x and itself."""
        return PairMoments(self.n, self.x, self.x.cov, self.x, self.x.between_groups)


_TURNED: dict[str, Callable[..., object]] = {
    "corr_xy": lambda corr: np.ascontiguousarray(corr.T),
    "components": np.transpose,
    "canonical": lambda found: (found[2].T, found[1], found[0].T),
    "nuclear_norm": float,
    "hsic": lambda hsic: hsic,
}
"""How what is known of a pair follows for the swapped pair."""
