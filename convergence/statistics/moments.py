"""First and second moments of joined units, accumulated in float64.

For samples x (n_units, n_samples) and a shift s common to all ranks and batches, :class:`Moments` accumulates

    count = n,   sums = Σ (x − s),   products = Σ (x − s)(x − s)ᵀ .

Float32 products about one shift lose digits where a unit's mean drifts away from it. Each run of at most
``PRODUCT_SAMPLES`` samples is therefore centred at its own c and moved to the shift in float64:

    Σ (x − s)(x − s)ᵀ = Σ v vᵀ + r dᵀ + d rᵀ + n d dᵀ,   v = x − c,  r = Σ v,  d = c − s,

an identity for any c. Only Σ v vᵀ is a float32 product (a BLAS rank-k update of a bounded number of samples); all other
terms, and all sums over runs, are float64.

The centre is the unit's mean in the run, or zero where the mean is below the standard deviation. In the latter case
centring would gain less than half a bit and would cost more: the exact zeros of a ReLU would become a constant whose
square is rounded in the same direction thousands of times.

Squares of units of very small or very large scale leave the range of float32. Where the mean square of v is outside
``ORDINARY``, v is divided by a power of two and the product multiplied by it again in float64; both are exact.

Samples are buffered in order until there are enough for an efficient product. Products are computed in bands of rows,
so the matrix may be an HDF5 dataset where it exceeds the memory: only the upper triangle is kept, and each band is
read, updated and written back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from convergence.errors import UserError
from convergence.kernels import lanes
from convergence.kernels.jit import njit

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
PRODUCT_SAMPLES = 4096
"""Samples of one float32 product. More samples increase its rounding error, but hardly its speed."""
BAND = 1024
"""Rows of products computed at a time."""
ORDINARY = (2.0**-100, 2.0**100)
"""Mean squares of a unit in a run whose float32 products neither underflow nor overflow."""


class Moments:
    """Moments of ``n_units`` units.

    Attributes
    ----------
    shift : (n_units,) float64, rounded to float32 precision
    precision : type of the products, "float32" or "float64"
    count : int, number of samples
    sums : (n_units,) float64
    upper : (n_units, n_units) float64 sums of products; only the upper triangle is defined
    products : (n_units, n_units) float64 sums of products as a symmetric matrix in memory
    """

    def __init__(self, shift: npt.ArrayLike, precision: str = "float32", upper: Any = None) -> None:
        """Start without samples, about ``shift`` (n_units,), which should be within the units' ranges.

        ``upper`` accumulates the products: zeros in memory, or an HDF5 dataset; a new array if not given.
        """
        self.shift: Float64 = np.asarray(shift, dtype=np.float32).astype(np.float64)
        self.precision = precision
        n_units = len(self.shift)
        self._count, self._sums = 0, np.zeros(n_units)
        self._upper = np.zeros((n_units, n_units)) if upper is None else upper
        self._gathered = np.empty((n_units, 0), np.float32)
        self._n_gathered = 0

    def update(self, samples: Float32) -> None:
        """Add samples (n_units, n_samples) float32."""
        start, n_samples = 0, samples.shape[1]
        while start < n_samples:
            if not self._n_gathered and n_samples - start >= PRODUCT_SAMPLES:
                self._add(samples, start, PRODUCT_SAMPLES)  # enough for a product: no need to buffer
                start += PRODUCT_SAMPLES
                continue
            if not self._gathered.shape[1]:
                self._gathered = np.empty((len(self.shift), PRODUCT_SAMPLES), np.float32)
            n = min(n_samples - start, PRODUCT_SAMPLES - self._n_gathered)
            self._gathered[:, self._n_gathered : self._n_gathered + n] = samples[:, start : start + n]
            self._n_gathered += n
            start += n
            if self._n_gathered == PRODUCT_SAMPLES:
                self._add_gathered()

    def _add_gathered(self) -> None:
        if self._n_gathered:
            self._add(self._gathered, 0, self._n_gathered)
            self._n_gathered = 0

    def _add(self, samples: Float32, first: int, n: int) -> None:
        n_units = len(self.shift)
        residual, offset, squares = np.empty(n_units), np.empty(n_units), np.empty(n_units)
        centred = np.empty((n_units, n), np.float64 if self.precision == "float64" else np.float32)
        if samples.strides[1] != samples.itemsize:  # the kernel reads samples that are adjacent in memory
            samples = np.ascontiguousarray(samples)
        _centre(samples, first, self.shift, centred, residual, offset, squares)
        moved = residual + n * offset
        scale = exponents(squares) if self.precision == "float32" else np.zeros(n_units, np.int64)
        if scale.any():
            centred = np.ldexp(centred, -scale[:, None])
        syrk = blas.dsyrk if self.precision == "float64" else blas.ssyrk
        for start in range(0, n_units, BAND):
            rows, right = slice(start, start + BAND), slice(start + BAND, n_units)
            # The lower triangle in column-major order is the upper triangle in row-major order.
            product = _unscaled(syrk(1.0, centred[rows].T, trans=1, lower=1).T, scale[rows], scale[rows])
            self._add_block(rows, rows, product, moved, residual, offset, triangle=True)
            if start + BAND < n_units:
                product = _unscaled(centred[rows] @ centred[right].T, scale[rows], scale[right])
                self._add_block(rows, right, product, moved, residual, offset, triangle=False)
        self._sums += moved
        self._count += n

    def _add_block(
        self, rows: slice, columns: slice, product: Any, moved: Any, residual: Any, offset: Any, triangle: bool
    ) -> None:
        terms = (product, moved[rows], offset[rows], residual[columns], offset[columns], triangle)
        if isinstance(self._upper, np.ndarray):
            _accumulate(*terms, self._upper, rows.start, columns.start)
            return
        block = self._upper[rows, columns] if self._count else np.zeros(product.shape)
        _accumulate(*terms, block, 0, 0)
        self._upper[rows, columns] = block

    @property
    def count(self) -> int:
        self._add_gathered()
        return self._count

    @property
    def sums(self) -> Float64:
        self._add_gathered()
        return self._sums

    @property
    def upper(self) -> Any:
        self._add_gathered()
        return self._upper

    @property
    def products(self) -> Float64:
        return symmetric(np.asarray(self.upper))

    def merge(self, other: Moments) -> None:
        """Add the moments of other samples; raises :class:`~convergence.errors.UserError` for another shift."""
        if not np.array_equal(self.shift, other.shift):
            raise UserError(
                "moments about different shifts cannot be added: they come from different runs or units. Use the "
                "statistics of one run, or recompute them."
            )
        self._add_gathered()
        self._count += other.count
        self._sums += other.sums
        for start in range(0, len(self.shift), BAND):
            rows = slice(start, start + BAND)
            self._upper[rows] = self._upper[rows] + other.upper[rows]

    def mean(self) -> Float64:
        """(n_units,) means; requires one sample."""
        self._need(1)
        return self.shift + self.sums / self.count

    def covariance(self) -> Float64:
        """(n_units, n_units) covariances with divisor n (maximum likelihood); requires one sample."""
        self._need(1)
        return covariance(self.count, self.sums, self.products)

    def correlation(self) -> Float64:
        """(n_units, n_units) Pearson correlations; 0 for units without variance."""
        return correlation(self.covariance())

    def _need(self, n_samples: int) -> None:
        if self.count < n_samples:
            raise UserError(f"moments of {self.count} samples have no mean or covariance: add samples first.")


def exponents(mean_squares: Float64) -> npt.NDArray[np.int64]:
    """(n_units,) k so that units divided by 2^k have mean squares of about 1; 0 for ``ORDINARY`` and constant units."""
    with np.errstate(invalid="ignore"):
        unlike = (mean_squares > 0) & ((mean_squares < ORDINARY[0]) | (mean_squares > ORDINARY[1]))
    return np.where(unlike & np.isfinite(mean_squares), np.frexp(mean_squares)[1] // 2, 0).astype(np.int64)


def _unscaled(product: Any, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Any:
    """Products of units that were divided by 2^rows and 2^columns, as those of the units."""
    if not rows.any() and not columns.any():
        return product
    return np.ldexp(product.astype(np.float64), rows[:, None] + columns)


def symmetric(upper: Float64) -> Float64:
    """The symmetric matrix with the upper triangle of ``upper``."""
    kept = np.triu(upper)
    return kept + np.triu(kept, 1).T


def symmetric_rows(upper: Any, start: int, stop: int) -> Float64:
    """Rows of :func:`symmetric` (stop − start, n_units) of an array, or of a dataset larger than the memory."""
    n_units = upper.shape[0]
    rows = np.empty((stop - start, n_units))
    rows[:, stop:] = upper[start:stop, stop:]
    rows[:, start:stop] = symmetric(upper[start:stop, start:stop])
    for left in range(0, start, BAND):
        right = min(left + BAND, start)
        rows[:, left:right] = upper[left:right, start:stop].T
    return rows


def covariance(count: float, sums: Float64, products: Float64) -> Float64:
    """Covariances (n_units, n_units) with divisor n from sums about any shift."""
    means = np.outer(sums, sums)  # in place: matrices of all nets joined are the largest of an analysis
    means /= count**2
    found = products / count
    found -= means
    return found


def correlation(cov: Float64) -> Float64:
    """Pearson correlations from covariances; 0 for units without variance, also on the diagonal."""
    variance = np.diag(cov)
    alive = variance > 0
    scale = np.zeros(len(variance))
    scale[alive] = 1.0 / np.sqrt(variance[alive])
    r = cov * scale[:, None]
    r *= scale
    np.clip(r, -1.0, 1.0, out=r)
    r[alive, alive] = 1.0
    return r


def correlation_plain(samples: npt.NDArray[np.floating]) -> Float64:
    """The definition: float64 correlations of samples (n_units, n_samples) in memory."""
    x = np.asarray(samples, dtype=np.float64)
    x = x - x.mean(axis=1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=1))
    norm[norm == 0] = np.inf
    x /= norm[:, None]
    return x @ x.T


@njit(nogil=True)
def _centre(samples, first, shift, centred, residual, offset, mean_square):  # type: ignore[no-untyped-def]
    """Compute v = x − c, r = Σ v, d = c − s and the mean of v² of every unit, for the samples from ``first`` on."""
    n_samples = centred.shape[1]
    whole = n_samples - n_samples % lanes.LANES
    for unit in range(samples.shape[0]):
        row = samples[unit, first : first + n_samples]
        out = centred[unit]
        base = np.float64(row[0])
        totals, squares_of = lanes.zeros(), lanes.zeros()
        for s in range(0, whole, lanes.LANES):
            values = lanes.minus(lanes.load(row, s), base)  # relative to one value of the unit: no cancellation below
            totals = lanes.plus(totals, values)
            squares_of = lanes.times_plus(values, values, squares_of)
        total, squares = lanes.total(totals), lanes.total(squares_of)
        for s in range(whole, n_samples):
            value = np.float64(row[s]) - base
            total += value
            squares += value * value
        mean = base + total / n_samples
        variance = (squares - total * total / n_samples) / n_samples
        centre = np.float32(0.0) if mean * mean <= variance else np.float32(mean)
        offset[unit] = centre - shift[unit]
        mean_square[unit] = variance + (mean - centre) * (mean - centre)
        for s in range(n_samples):
            out[s] = centred.dtype.type(row[s]) - centred.dtype.type(centre)
        rests = lanes.zeros()
        for s in range(0, whole, lanes.LANES):
            rests = lanes.plus(rests, lanes.load(out, s))
        rest = lanes.total(rests)
        for s in range(whole, n_samples):
            rest += out[s]
        residual[unit] = rest


@njit(nogil=True)
def _accumulate(  # type: ignore[no-untyped-def]
    product, moved, row_offset, residual, offset, triangle, total, first_row, first_column
):
    """Add a block of products to the sums, moved from the units' centres to the shift."""
    for i in range(product.shape[0]):
        r, d = moved[i], row_offset[i]
        row = total[first_row + i]
        values = product[i]
        for j in range(i if triangle else 0, product.shape[1]):
            row[first_column + j] += values[j] + (r * offset[j] + d * residual[j])
