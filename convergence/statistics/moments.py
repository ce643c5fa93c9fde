"""First and second moments of joined units: a handful of float64 arrays that start at zero and add.

For samples x (n_units, n_samples) and a shift s that is the same for everyone, :class:`Moments` keeps

    count = n,   sums = Σ (x − s),   products = Σ (x − s)(x − s)ᵀ .

Float32 products about one shift lose digits where a unit drifts away from it. Each batch is therefore centred on its
own mean m (rounded to float32, so the subtraction is all but exact) and moved to the shift in float64:

    Σ (x − s)(x − s)ᵀ = Σ v vᵀ + r dᵀ + d rᵀ + n d dᵀ,   v = x − m,  r = Σ v,  d = m − s,

an identity whatever m is. Only Σ v vᵀ is a float32 product (a BLAS rank-k update of a bounded number of samples);
everything else, and every sum over batches, is float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from convergence.errors import UserError

Float64 = npt.NDArray[np.float64]
PRODUCT_SAMPLES = 4096
"""Samples of one float32 product: its rounding error grows with their number, its speed hardly does beyond this."""


@dataclass
class Moments:
    """Sums over samples of ``n_units`` units.

    Attributes
    ----------
    shift : (n_units,) float64, values of float32 precision
    count : int, number of samples
    sums : (n_units,) float64
    products : (n_units, n_units) float64, symmetric
    """

    shift: Float64
    count: int
    sums: Float64
    products: Float64

    @classmethod
    def zeros(cls, shift: npt.ArrayLike) -> Moments:
        """No samples yet. ``shift`` (n_units,) should lie within the units' range; it is rounded to float32."""
        rounded = np.asarray(shift, dtype=np.float32).astype(np.float64)
        return cls(rounded, 0, np.zeros(len(rounded)), np.zeros((len(rounded), len(rounded))))

    def update(self, samples: npt.NDArray[np.float32], precision: str = "float32") -> None:
        """Add samples (n_units, n_samples) float32. ``precision`` is the type of the products: float32 or float64."""
        for start in range(0, samples.shape[1], PRODUCT_SAMPLES):
            self._add(samples[:, start : start + PRODUCT_SAMPLES], precision)

    def _add(self, samples: npt.NDArray[np.float32], precision: str) -> None:
        n_samples = samples.shape[1]
        centre = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
        if precision == "float64":
            centred = samples.astype(np.float64) - centre[:, None]
            product = blas.dsyrk(1.0, centred.T, trans=1, lower=1)
        else:
            centred = samples - centre[:, None]
            product = blas.ssyrk(1.0, centred.T, trans=1, lower=1).astype(np.float64)
        lower = np.tril(product)
        product = lower + np.tril(product, -1).T
        residual = centred.sum(axis=1, dtype=np.float64)
        offset = centre.astype(np.float64) - self.shift
        cross = np.outer(residual + 0.5 * n_samples * offset, offset)
        self.products += product + (cross + cross.T)
        self.sums += residual + n_samples * offset
        self.count += n_samples

    def merge(self, other: Moments) -> None:
        """Add another's sums; both must be about the same shift (:class:`~convergence.errors.UserError` if not)."""
        if not np.array_equal(self.shift, other.shift):
            raise UserError(
                "moments about different shifts cannot be added: they come from different runs or units. Take the "
                "statistics of one run, or compute them anew."
            )
        self.count += other.count
        self.sums += other.sums
        self.products += other.products

    def mean(self) -> Float64:
        """(n_units,) means; needs one sample."""
        self._need(1)
        return self.shift + self.sums / self.count

    def covariance(self) -> Float64:
        """(n_units, n_units) covariances with divisor n (maximum likelihood); needs one sample."""
        self._need(1)
        return covariance(self.count, self.sums, self.products)

    def correlation(self) -> Float64:
        """(n_units, n_units) Pearson correlations; rows of units without variance are 0, never NaN."""
        return correlation(self.covariance())

    def _need(self, n_samples: int) -> None:
        if self.count < n_samples:
            raise UserError(f"moments of {self.count} samples have no mean or covariance: add samples first.")


def covariance(count: float, sums: Float64, products: Float64) -> Float64:
    """Covariances (n_units, n_units) with divisor n, from sums about any shift."""
    return products / count - np.outer(sums, sums) / count**2


def correlation(cov: Float64) -> Float64:
    """Pearson correlations from covariances; units without variance get 0 (also on the diagonal)."""
    variance = np.diag(cov)
    alive = variance > 0
    scale = np.zeros(len(variance))
    scale[alive] = 1.0 / np.sqrt(variance[alive])
    r = cov * scale[:, None] * scale[None, :]
    np.clip(r, -1.0, 1.0, out=r)
    r[alive, alive] = 1.0
    return r


def correlation_plain(samples: npt.NDArray[np.floating]) -> Float64:
    """The definition, on everything in memory: samples (n_units, n_samples) to correlations in float64."""
    x = np.asarray(samples, dtype=np.float64)
    x = x - x.mean(axis=1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=1))
    norm[norm == 0] = np.inf
    x /= norm[:, None]
    return x @ x.T
