"""Sums of pseudo-nets: a chance level that keeps the marginals of rectified units.

A pseudo-net has the pre-activations z of a net in another basis, and the nonlinearity f of the net: for a random
basis B of the standardised pre-activations,

    u = Bᵀ (z − μ) / σ,    p = f(u σ + μ) ,

so unit v of the pseudo-net has the mean and the variance of the pre-activation of unit v, and the pseudo-net spans the
subspace that the net spans. Sums of products of real units with pseudo-units give every similarity that is left when
units have no basis in common. Groups of images are summed in two halves: half 0 has the groups of even numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class NullSums:
    """Sums of the real units and of the pseudo-units of every draw, on the samples that the null uses.

    Real units are summed about the shift s of the comparison, pseudo-units about their own shift t. Columns of members
    without pseudo-nets are zero.

    Attributes
    ----------
    unit_net : (n_units,) the member of each unit
    count : (2,) samples of each half
    real_sums, real_squares : (2, n_units) Σ (x − s) and Σ (x − s)² of the real units
    real_exponent, exponent : (n_units,) and (n_draws, n_units) k: products are of units divided by 2^k, which keeps
        products of units of very small or large scale in the range of float32; nearly always 0
    shift : (n_draws, n_units) t
    sums : (2, n_draws, n_units) Σ (p − t); column v is the pseudo-unit in the place of unit v
    products : (2, n_draws, n_units, n_units) Σ (x − s)(p − t)ᵀ: rows real units, columns pseudo-units
    own : (2, n_draws, n_units, widest) Σ (p − t)(p − t)ᵀ of one member: column j is the member's unit j
    """

    unit_net: Array
    count: Array
    real_sums: Array
    real_squares: Array
    real_exponent: Array
    exponent: Array
    shift: Array
    sums: Array
    products: Any
    own: Any

    @classmethod
    def of_arrays(cls, unit_net: Array, arrays: Mapping[str, Any]) -> NullSums:
        """The sums from all fields by name, without ``unit_net``."""
        return cls(unit_net=unit_net, **arrays)

    @property
    def n_draws(self) -> int:
        """Number of pseudo-nets of every net."""
        return int(self.sums.shape[1])

    def cross(self, half: int | None, draw: int, rows: slice, columns: slice) -> Float64:
        """Covariances (n_x, n_y) of real units with pseudo-units, with divisor n; all groups for ``half`` None."""
        count, products = self._total(half, lambda h: self.products[h, draw, rows, columns])
        products = _times_powers(products, self.real_exponent[rows], self.exponent[draw, columns])
        x = self._sum(half, self.real_sums)[rows]
        return np.asarray(products / count - np.outer(x, self._sum(half, self.sums)[draw, columns]) / count**2)

    def within(self, half: int | None, draw: int, columns: slice) -> Float64:
        """Covariances (n, n) of pseudo-units of one member, with divisor n; all groups for ``half`` None.

        A BLAS may sum the products of units i and j in another order than those of j and i. Their mean is symmetric.
        """
        start = int(np.searchsorted(self.unit_net, self.unit_net[columns.start]))
        places = slice(columns.start - start, columns.stop - start)
        count, products = self._total(half, lambda h: self.own[h, draw, columns, places])
        products = _times_powers(products, *(self.exponent[draw, columns],) * 2)
        y = self._sum(half, self.sums)[draw, columns]
        return np.asarray((products + products.T) / (2 * count) - np.outer(y, y) / count**2)

    def real_variance(self, half: int | None, rows: slice) -> Float64:
        """Variances (n,) of real units on the samples of the null, with divisor n; all groups for ``half`` None."""
        count = self._sum(half, self.count)
        sums, squares = self._sum(half, self.real_sums)[rows], self._sum(half, self.real_squares)[rows]
        return np.asarray(squares / count - (sums / count) ** 2)

    def _total(self, half: int | None, read: Any) -> tuple[float, Float64]:
        """Samples, and a block of products, of the chosen halves."""
        parts = [np.asarray(read(h), np.float64) for h in ((0, 1) if half is None else (half,))]
        return float(self._sum(half, self.count)), sum(parts[1:], parts[0])

    def _sum(self, half: int | None, of_halves: Array) -> Any:
        return of_halves.sum(axis=0) if half is None else of_halves[half]


def _times_powers(products: Float64, rows: Array, columns: Array) -> Float64:
    """Products of units from those of units that were divided by powers of two."""
    if not rows.any() and not columns.any():
        return products
    return np.asarray(np.ldexp(products, (rows[:, None] + columns).astype(np.int32)))


def null_sums_plain(
    real: npt.NDArray[np.floating],
    pseudo: npt.NDArray[np.floating],
    half_of_sample: Array,
    unit_net: Array,
    real_shift: Array,
    shift: Array,
) -> NullSums:
    """The definition: sums of samples in memory.

    Real units are (n_units, n_samples), pseudo-units (n_draws, n_units, n_samples), zero for members without
    pseudo-nets. The half of a sample is 0 or 1. Shifts are (n_units,) and (n_draws, n_units).
    """
    widths = np.bincount(unit_net)
    n_draws, n_units, _ = pseudo.shape
    x = real.astype(np.float64) - real_shift[:, None]
    p = pseudo.astype(np.float64) - shift[:, :, None]
    chosen = [half_of_sample == h for h in (0, 1)]
    own = np.zeros((2, n_draws, n_units, widths.max()))
    for h, samples in enumerate(chosen):
        for start, width in zip(np.cumsum(widths) - widths, widths, strict=True):
            units = p[:, start : start + width, samples]
            own[h, :, start : start + width, :width] = units @ units.transpose(0, 2, 1)
    return NullSums(
        unit_net=unit_net,
        count=np.array([samples.sum() for samples in chosen], np.int64),
        real_sums=np.array([x[:, samples].sum(axis=1) for samples in chosen]),
        real_squares=np.array([(x[:, samples] ** 2).sum(axis=1) for samples in chosen]),
        real_exponent=np.zeros(n_units, np.int64),
        exponent=np.zeros((n_draws, n_units), np.int64),
        shift=shift,
        sums=np.array([p[:, :, samples].sum(axis=2) for samples in chosen]),
        products=np.array([x[:, samples] @ p[:, :, samples].transpose(0, 2, 1) for samples in chosen]),
        own=own,
    )
