"""Squared norms of each member's activations, their sums, and the unbiased HSIC computed from the sums.

The squared norm q = ‖x − s‖² over the units of one member has one value per sample. docs/files.md states the formula.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def squared_norms(samples: Float32, widths: tuple[int, ...], shift: Float64) -> Float32:
    """Q = ‖x − s‖² of every member, (n_members, n_samples), for samples (n_units, n_samples)."""
    out = np.empty((len(widths), samples.shape[1]), np.float32)
    start = 0
    for member, width in enumerate(widths):
        out[member] = _squared_norms(samples[start : start + width], shift[start : start + width])
        start += width
    return out


@njit(nogil=True)
def _squared_norms(samples, shift):  # type: ignore[no-untyped-def]
    """(n_samples,) float64, accumulated unit by unit."""
    out = np.zeros(samples.shape[1])
    for unit in range(samples.shape[0]):
        for s in range(samples.shape[1]):
            value = samples[unit, s] - shift[unit]
            out[s] += value * value
    return out


@dataclass(frozen=True)
class NormSums:
    """Sums of squared norms about a shift t, by image group.

    Attributes
    ----------
    shift : (n_members,) t
    sums : (n_groups, n_members) Σ (q − t)
    products : (n_groups, n_members, n_members) Σ (q − t)(q − t)ᵀ
    cross : (n_groups, n_members, n_units) Σ (q − t)(x − s)ᵀ
    """

    shift: Float64
    sums: Float64
    products: Float64
    cross: Float64

    def of(self, x: int, y: int, units_x: Indices, units_y: Indices) -> tuple[NormSums, NormSums]:
        """The sums of members ``x`` and ``y``, once with cross sums for x's units and once for y's units."""
        nets = [x, y]
        parts = (self.shift[nets], self.sums[:, nets], self.products[:, nets][:, :, nets])
        first, second = (NormSums(*parts, self.cross[:, nets][:, :, units]) for units in (units_x, units_y))
        return first, second


def unbiased_hsic(
    n: float,
    sums: tuple[Float64, Float64],
    products: Float64,
    norms: tuple[float, float],
    both: float,
    norm_units: tuple[Float64, Float64],
) -> float:
    """Unbiased HSIC with linear kernels from sums (Song et al. 2007, arXiv 0805.2368, equation 5).

    Parameters
    ----------
    n
        Number of samples, at least 4.
    sums
        Σ (x − s) (n_x,) and Σ (y − s) (n_y,).
    products : (n_x, n_y)
        Σ (x − s)(y − s)ᵀ.
    norms, both
        Σ q_x and Σ q_y; Σ q_x q_y.
    norm_units
        Σ q_x y (n_y,) and Σ q_y x (n_x,).
    """
    s_x, s_y = sums
    trace = np.sum(products**2) - both
    totals = (s_x @ s_x - norms[0]) * (s_y @ s_y - norms[1])
    mixed = s_x @ products @ s_y - norm_units[0] @ s_y - norm_units[1] @ s_x + both
    return float((trace + totals / ((n - 1) * (n - 2)) - 2 * mixed / (n - 2)) / (n * (n - 3)))
