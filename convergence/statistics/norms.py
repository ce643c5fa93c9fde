"""Sums of the squared norms of each net's activations, and the unbiased HSIC that they make possible.

q = ‖x − s‖² over the units of one net, one value a sample; see docs/files.md for how it is summed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class NormSums:
    """Sums of norms, about a shift t, over the samples of some image groups.

    Attributes
    ----------
    shift : (n_nets,) t
    sums : (n_groups, n_nets) Σ (q − t)
    products : (n_groups, n_nets, n_nets) Σ (q − t)(q − t)ᵀ
    cross : (n_groups, n_nets, n_units) Σ (q − t)(x − s)ᵀ
    """

    shift: Float64
    sums: Float64
    products: Float64
    cross: Float64

    def of(self, x: int, y: int, units_x: Indices, units_y: Indices) -> tuple[NormSums, NormSums]:
        """Of two nets with the units of either: cross sums with x's units, and with y's."""
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
    """HSIC with linear kernels and without bias (Song et al. 2007, arXiv 0805.2368, equation 5), from sums.

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
