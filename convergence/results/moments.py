"""Correlations of two nets straight from the sums, one image group's matrix in memory at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.analysis.live import LiveUnits, group_squares
from convergence.statistics.file import ComparisonSums

Float64 = npt.NDArray[np.float64]


def pair_correlation(sums: ComparisonSums, live: LiveUnits, x: str, y: str) -> Float64:
    """(n_x, n_y) correlations of all units of two nets; 0 for units that carry nothing.

    The same numbers as :attr:`convergence.similarity.pair.PairMoments.corr_xy`, without the matrices within the nets.
    """
    units_x, units_y = sums.units(x), sums.units(y)
    of_x, of_y = slice(units_x[0], units_x[-1] + 1), slice(units_y[0], units_y[-1] + 1)
    alive = np.ix_(np.flatnonzero(live.alive[of_x]), np.flatnonzero(live.alive[of_y]))
    products: Any = 0.0
    for group in range(len(sums.group_count)):
        products = products + np.asarray(sums.group_products[group, of_x, of_y])[alive]
    n, total = float(sums.group_count.sum()), sums.group_sums.sum(axis=0)
    variance = group_squares(sums).sum(axis=0) / n - total * total / n**2
    live_x, live_y = units_x[live.alive[of_x]], units_y[live.alive[of_y]]
    covariance = products / n - np.outer(total[live_x], total[live_y]) / n**2
    out = np.zeros((len(units_x), len(units_y)))
    scale = np.outer(np.sqrt(variance[live_x]), np.sqrt(variance[live_y]))
    out[alive] = np.clip(covariance / scale, -1.0, 1.0)
    if x == y:
        np.fill_diagonal(out, live.alive[of_x].astype(np.float64))
    return out
