"""Which units enter results and why others do not; means, spread, sparsity and correlations of units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.inference import jackknife_error
from convergence.statistics.file import ComparisonSums
from convergence.statistics.moments import correlation, covariance

Float64 = npt.NDArray[np.float64]
RELATIVE_VARIANCE = 1e-12
"""A variance below this share of the mean square is rounding: the unit is constant."""
DIAGONAL_BLOCK = 256
NOT_FINITE = "non-finite values"
TOO_FEW_GROUPS = "varies in too few image groups"


@dataclass(frozen=True)
class ActiveUnits:
    """Units that enter results, and reasons of the others.

    Attributes
    ----------
    alive : (n_units,) bool
    reason : (n_units,) str, "" for active units
    rare : (n_units,) bool, active units that are constant in some subset of the image groups that error bars use
    floor : (n_units,) largest variance that counts as constant
    """

    alive: npt.NDArray[np.bool_]
    reason: tuple[str, ...]
    rare: npt.NDArray[np.bool_]
    floor: Float64

    def without_rare(self) -> ActiveUnits:
        """The units that vary in every subset of the image groups; maps that are fitted on a half can use no others."""
        reasons = (TOO_FEW_GROUPS if rare else reason for rare, reason in zip(self.rare, self.reason, strict=True))
        return ActiveUnits(self.alive & ~self.rare, tuple(reasons), np.zeros_like(self.rare), self.floor)


def active_units(sums: ComparisonSums) -> ActiveUnits:
    """Units with finite values that vary.

    A unit is rare if it does not vary in one of the subsets of the image groups that are used: all groups without one,
    and both halves of the groups without any run of half of their groups, since error bars leave out blocks. It has
    correlations of 0 in such a subset.
    """
    count, total = sums.group_count.sum(), sums.group_sums.sum(axis=0)
    squares = group_squares(sums)
    mean = sums.shift + total / count
    with np.errstate(invalid="ignore"):
        variance = squares.sum(axis=0) / count - (total / count) ** 2
        floor = RELATIVE_VARIANCE * (mean**2 + variance)
        parts = _without_each(sums.group_count[:, None], sums.group_sums, squares) + _halves_without_runs(
            sums.group_count[:, None], sums.group_sums, squares
        )
        least = np.min([s2 / n - (s1 / n) ** 2 for n, s1, s2 in parts], axis=0)
    nonfinite = np.zeros(len(mean)) if sums.histograms is None else sums.histograms.n_nonfinite
    reasons = []
    for u in range(len(mean)):
        if nonfinite[u] or not np.isfinite(variance[u]):
            reasons.append(NOT_FINITE)
        elif variance[u] <= floor[u]:
            reasons.append("always zero" if mean[u] == 0 else "constant")
        else:
            reasons.append("")
    alive = np.array([not reason for reason in reasons], dtype=bool)
    return ActiveUnits(alive, tuple(reasons), alive & (least <= floor), np.nan_to_num(floor))


def group_squares(sums: ComparisonSums) -> Float64:
    """(n_groups, n_units) sums of squares, the diagonals of the products, read in blocks along them."""
    n_groups, n_units = sums.group_sums.shape
    out = np.empty((n_groups, n_units))
    for group in range(n_groups):
        for start in range(0, n_units, DIAGONAL_BLOCK):
            some = slice(start, min(start + DIAGONAL_BLOCK, n_units))
            out[group, some] = np.diagonal(sums.group_products[group, some, some])
    return out


def _without_each(*arrays: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], ...]]:
    """Sums over all groups but one, for each in turn."""
    totals = [array.sum(axis=0) for array in arrays]
    return [tuple(t - a[g] for t, a in zip(totals, arrays, strict=True)) for g in range(len(arrays[0]))]


def _halves_without_runs(*arrays: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], ...]]:
    """Sums over the even and over the odd groups, whole and without each run of half of theirs (if that leaves any).

    Every block of groups that an error bar leaves out, of a half or of all, takes at most such a run from a half.
    """
    found = []
    for half in (0, 1):
        own = [array[half::2] for array in arrays]
        found.append(tuple(array.sum(axis=0) for array in own))
        n = len(own[0])
        run = -(-n // 2)
        for start in range(n - run + 1) if n > 1 else ():
            left_out = slice(start, start + run)
            found.append(tuple(np.delete(array, left_out, axis=0).sum(axis=0) for array in own))
    return found


def unit_means(sums: ComparisonSums) -> Float64:
    """(n_units,) mean activations."""
    return sums.shift + sums.group_sums.sum(axis=0) / sums.group_count.sum()


def unit_means_without(sums: ComparisonSums) -> Float64:
    """(n_groups, n_units) mean activations without each image group."""
    n = sums.group_count.sum() - sums.group_count[:, None]
    return sums.shift + (sums.group_sums.sum(axis=0) - sums.group_sums) / n


def describe_units(sums: ComparisonSums, live: ActiveUnits) -> dict[str, npt.NDArray[np.generic]]:
    """Columns of the table ``units``; without histograms no share of zeros and no percentiles."""
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
        "active": live.alive,
        "inactive_reason": np.array(live.reason, dtype=object),
        "rare": live.rare,
    }


def pooled_correlation(sums: ComparisonSums, live: ActiveUnits) -> Float64:
    """(n_units, n_units) correlations within and between all nets; 0 for inactive units."""
    products = np.array(sums.group_products[0])
    for group in range(1, len(sums.group_count)):
        products += sums.group_products[group]
    cov = covariance(float(sums.group_count.sum()), sums.group_sums.sum(axis=0), products)
    cov[~live.alive] = 0.0
    cov[:, ~live.alive] = 0.0
    return correlation(cov)
