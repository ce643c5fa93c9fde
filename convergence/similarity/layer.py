"""Second moments of one layer, and what measures derive from them, once for all pairs of the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convergence.errors import UserError
from convergence.linalg import Matrix, principal_directions
from convergence.similarity.stored_images import StoredImages


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Covariances of the live units of a layer.

    Parameters
    ----------
    cov : (n, n) float64
        Covariances, in units of activation squared.
    standardised : bool
        Whether the covariances are those of standardised units or of another basis of them.
    images : StoredImages, optional
        Stored activations of a subset of the images.
    kept : (N,) bool, optional
        Mask of the stored images that count, for replicates that leave out images; None for all. Measures that compare
        an image with others still compare it with all stored images, because their value depends on the number of
        images.
    between_groups : callable, optional
        Computes the HSIC of the layer with itself from pairs of different image groups, when it is asked for.

    Raises
    ------
    UserError
        if the layer has no unit, a value is not finite, or a unit has no variance.
    """

    cov: Matrix
    standardised: bool = False
    images: StoredImages | None = None
    kept: NDArray[np.bool_] | None = None
    between_groups: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        if self.cov.ndim != 2 or self.cov.shape[0] != self.cov.shape[1]:
            raise UserError(f"covariances of shape {self.cov.shape} are not those of one layer; valid is (n, n).")
        if not len(self.cov):
            raise UserError("a layer of the pair has no live unit; exclude this pair.")
        if not np.isfinite(self.cov).all():
            raise UserError("a covariance is NaN or infinite; exclude units with non-finite activations first.")
        if np.diagonal(self.cov).min() <= 0:
            raise UserError("a unit has zero variance and therefore no correlation; exclude such units first.")

    def __len__(self) -> int:
        return len(self.cov)

    @cached_property
    def deviation(self) -> Matrix:
        """(n,) standard deviations."""
        return np.sqrt(np.diagonal(self.cov))

    @cached_property
    def corr(self) -> Matrix:
        """Correlations (n, n), in [-1, 1], with a diagonal of exactly 1."""
        correlation = np.clip(self.cov / np.outer(self.deviation, self.deviation), -1.0, 1.0)
        np.fill_diagonal(correlation, 1.0)
        return correlation

    @property
    def std(self) -> Matrix:
        """Covariances (n, n) of the standardised units, in the other basis after :meth:`in_basis`."""
        return self.cov if self.standardised else self.corr

    @cached_property
    def directions(self) -> tuple[Matrix, Matrix]:
        """Variances (rank,), descending, and directions (n, rank) of the standardised units.

        See :func:`~convergence.linalg.principal_directions`.
        """
        return principal_directions(self.std)

    @cached_property
    def whitening(self) -> Matrix:
        """(n, rank) weights of principal components of variance 1, by descending variance."""
        values, vectors = self.directions
        return vectors / np.sqrt(values)

    @cached_property
    def total(self) -> float:
        """Variance of all standardised units."""
        return float(np.trace(self.std))

    @cached_property
    def hsic(self) -> float:
        """HSIC of the layer with itself from pairs of different image groups."""
        assert self.between_groups is not None
        return self.between_groups()

    @property
    def samples(self) -> Matrix | None:
        """(N, n) stored activations."""
        return None if self.images is None else self.images.samples

    @property
    def gram(self) -> Matrix | None:
        """(N, N) inner products of the stored images' flattened maps."""
        return None if self.images is None else self.images.gram

    def in_basis(self, q: Matrix) -> LayerMoments:
        """The layer with its standardised units in another basis, the columns of a matrix (n, n)."""
        images = None if self.images is None else self.images.in_basis(q)
        return LayerMoments(q.T @ self.std @ q, True, images, self.kept, self.between_groups)

    @cached_property
    def in_standard_units(self) -> LayerMoments:
        """The layer with standardised units; shares what is known of them."""
        if self.standardised:
            return self
        images = None if self.images is None else self.images.in_basis(None)
        other = LayerMoments(self.std, True, images, self.kept, self.between_groups)
        if "directions" in self.__dict__:
            other.__dict__["directions"] = self.directions
        return other
