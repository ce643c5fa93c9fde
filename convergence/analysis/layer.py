"""Everything about the units of one comparison that needs no second net: means, spread, sparsity, correlations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from convergence.analysis.live import LiveUnits, group_squares
from convergence.statistics.file import ComparisonSums
from convergence.statistics.moments import correlation, covariance
from convergence.uncertainty import jackknife_error

Float64 = npt.NDArray[np.float64]


def unit_means(sums: ComparisonSums) -> Float64:
    """(n_units,) mean activations."""
    return sums.shift + sums.group_sums.sum(axis=0) / sums.group_count.sum()


def unit_means_without(sums: ComparisonSums) -> Float64:
    """(n_groups, n_units) mean activations without each image group."""
    n = sums.group_count.sum() - sums.group_count[:, None]
    return sums.shift + (sums.group_sums.sum(axis=0) - sums.group_sums) / n


def describe_units(sums: ComparisonSums, live: LiveUnits) -> dict[str, npt.NDArray[np.generic]]:
    """Per unit: mean with its error, standard deviation, share of zeros, percentiles, and why it is left out.

    No share of zeros and no percentiles where there are no histograms.
    """
    n = float(sums.group_count.sum())
    variance = group_squares(sums).sum(axis=0) / n - (sums.group_sums.sum(axis=0) / n) ** 2
    of_values = {}
    if sums.histograms is not None:
        percentiles = sums.histograms.percentiles((50, 90, 99))
        of_values = {
            "zero_fraction": sums.histograms.zero_fraction(),
            **dict(zip(("median", "percentile_90", "percentile_99"), percentiles.T, strict=True)),
        }
    return {
        "mean": np.nan_to_num(unit_means(sums)),
        "mean_error": np.nan_to_num(jackknife_error(unit_means_without(sums))),
        "standard_deviation": np.sqrt(np.maximum(np.nan_to_num(variance), 0.0)),
        **of_values,
        "alive": live.alive,
        "left_out_because": np.array(live.reason, dtype=object),
    }


def pooled_correlation(sums: ComparisonSums, live: LiveUnits) -> Float64:
    """(n_units, n_units) correlations within and between all nets; 0 for units that carry nothing."""
    products = np.array(sums.group_products[0])
    for group in range(1, len(sums.group_count)):
        products += sums.group_products[group]
    cov = covariance(float(sums.group_count.sum()), sums.group_sums.sum(axis=0), products)
    cov[~live.alive] = 0.0
    cov[:, ~live.alive] = 0.0
    return correlation(cov)
