"""First and second moments of joined units: a handful of float64 arrays that start at zero and add.

For samples x (n_units, n_samples) and a shift s that is the same for everyone, :class:`Moments` keeps

    count = n,   sums = Σ (x − s),   products = Σ (x − s)(x − s)ᵀ .

Float32 products about one shift lose digits where a unit drifts away from it. Each piece of a batch is therefore
taken about a centre c of its own and moved to the shift in float64:

    Σ (x − s)(x − s)ᵀ = Σ v vᵀ + r dᵀ + d rᵀ + n d dᵀ,   v = x − c,  r = Σ v,  d = c − s,

an identity whatever c is. Only Σ v vᵀ is a float32 product (a BLAS rank-k update of a bounded number of samples);
everything else, and every sum over pieces, is float64.

The centre is the unit's mean in the piece, or zero where the mean is below the standard deviation. There, centring
would win less than half a bit, and it would cost more: the zeros of a ReLU would all become one and the same number,
whose square is rounded the same way thousands of times over. As zeros they are exact.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from convergence.errors import UserError

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
PRODUCT_SAMPLES = 4096
"""Samples of one float32 product: its rounding error grows with their number, its speed hardly does beyond this."""


class Moments:
    """Sums over samples of ``n_units`` units.

    Attributes
    ----------
    shift : (n_units,) float64, values of float32 precision
    count : int, number of samples
    sums : (n_units,) float64
    products : (n_units, n_units) float64, symmetric
    """

    def __init__(self, shift: Float64, count: int, sums: Float64, products: Float64) -> None:
        self.shift, self.count, self.sums = shift, count, sums
        self._upper = products  # only the upper triangle is kept up to date

    @classmethod
    def zeros(cls, shift: npt.ArrayLike) -> Moments:
        """No samples yet. ``shift`` (n_units,) should lie within the units' range; it is rounded to float32."""
        rounded = np.asarray(shift, dtype=np.float32).astype(np.float64)
        return cls(rounded, 0, np.zeros(len(rounded)), np.zeros((len(rounded), len(rounded))))

    @property
    def products(self) -> Float64:
        """A symmetric copy of the sums of products, (n_units, n_units)."""
        upper = np.triu(self._upper)
        return upper + np.triu(upper, 1).T

    def update(self, samples: Float32, precision: str = "float32") -> None:
        """Add samples (n_units, n_samples) float32. ``precision`` is the type of the products: float32 or float64."""
        syrk, kind = (blas.dsyrk, np.float64) if precision == "float64" else (blas.ssyrk, np.float32)
        n_units = len(samples)
        residual, offset = np.empty(n_units), np.empty(n_units)
        for start in range(0, samples.shape[1], PRODUCT_SAMPLES):
            piece = samples[:, start : start + PRODUCT_SAMPLES]
            centred = np.empty(piece.shape, kind)
            _centre(piece, self.shift, centred, residual, offset)
            product = syrk(1.0, centred.T, trans=1, lower=1)  # column by column: row by row it is the upper triangle
            _accumulate(product.T, residual, offset, piece.shape[1], self._upper)
            self.sums += residual + piece.shape[1] * offset
            self.count += piece.shape[1]

    def merge(self, other: Moments) -> None:
        """Add another's sums; both must be about the same shift (:class:`~convergence.errors.UserError` if not)."""
        if not np.array_equal(self.shift, other.shift):
            raise UserError(
                "moments about different shifts cannot be added: they come from different runs or units. Take the "
                "statistics of one run, or compute them anew."
            )
        self.count += other.count
        self.sums += other.sums
        self._upper += other._upper

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


@nb.njit(cache=True, nogil=True)
def _centre(samples, shift, centred, residual, offset):  # type: ignore[no-untyped-def]
    """Fill v = x − c, r = Σ v and d = c − s of every unit."""
    n_units, n_samples = samples.shape
    for unit in range(n_units):
        total, squares = 0.0, 0.0
        first = np.float64(samples[unit, 0])
        for s in range(n_samples):
            value = np.float64(samples[unit, s]) - first  # about a value of the unit: no cancellation below
            total += value
            squares += value * value
        mean = first + total / n_samples
        variance = (squares - total * total / n_samples) / n_samples
        centre = np.float32(0.0) if mean * mean <= variance else np.float32(mean)
        offset[unit] = centre - shift[unit]
        rest = 0.0
        for s in range(n_samples):
            centred[unit, s] = np.float64(samples[unit, s]) - np.float64(centre)
            rest += centred[unit, s]
        residual[unit] = rest


@nb.njit(cache=True, nogil=True)
def _accumulate(product, residual, offset, n_samples, total):  # type: ignore[no-untyped-def]
    """Add a product's upper triangle, moved from the units' centres to the shift, to the sums."""
    for i in range(len(total)):
        r, d = residual[i] + n_samples * offset[i], offset[i]
        for j in range(i, len(total)):
            total[i, j] += product[i, j] + (r * offset[j] + d * residual[j])
