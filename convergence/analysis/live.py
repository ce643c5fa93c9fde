"""Which units carry anything, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.statistics.file import ComparisonSums

Float64 = npt.NDArray[np.float64]
RELATIVE_VARIANCE = 1e-12
"""A variance below this share of the mean square is rounding: the unit is constant."""
DIAGONAL_BLOCK = 256
NOT_FINITE = "non-finite values"


@dataclass(frozen=True)
class LiveUnits:
    """Units that enter results, and why the others do not.

    Attributes
    ----------
    alive : (n_units,) bool
    reason : (n_units,) str, "" for live units
    """

    alive: npt.NDArray[np.bool_]
    reason: tuple[str, ...]


def live_units(sums: ComparisonSums) -> LiveUnits:
    """Units with finite values that vary, also without any one image group, and in either half of the groups.

    In a half they have to vary without any run of half of its groups, too: as error bars leave blocks of groups out. A
    unit that does not would have no correlation in a replicate; it is left out of everything.
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
        elif least[u] <= floor[u]:
            reasons.append("varies in too few image groups")
        else:
            reasons.append("")
    return LiveUnits(np.array([not reason for reason in reasons], dtype=bool), tuple(reasons))


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

    Whatever block of groups an error bar leaves out, of a half or of all, takes no more from a half than such a run.
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
