"""Which units carry anything, and the second moments of two nets from all image groups or some."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.similarity.pair import PairMoments
from convergence.statistics.file import Sums
from convergence.statistics.moments import covariance

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
RELATIVE_VARIANCE = 1e-12
"""A variance below this share of the mean square is rounding: the unit is constant."""


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


def live_units(sums: Sums) -> LiveUnits:
    """Units with finite values that vary, also without any one image group and in either half of the groups.

    A unit that does not would have no correlation in a jackknife replicate or a half; it is left out of everything.
    """
    count, total = sums.group_count.sum(), sums.group_sums.sum(axis=0)
    squares = np.einsum("gii->gi", sums.group_products)
    mean = sums.shift + total / count
    with np.errstate(invalid="ignore"):
        variance = squares.sum(axis=0) / count - (total / count) ** 2
        floor = RELATIVE_VARIANCE * (mean**2 + variance)
        parts = _without_each(sums.group_count[:, None], sums.group_sums, squares) + _halves(
            sums.group_count[:, None], sums.group_sums, squares
        )
        least = np.min([s2 / n - (s1 / n) ** 2 for n, s1, s2 in parts], axis=0)
    reasons = []
    for u in range(len(mean)):
        if sums.histograms.n_nonfinite[u] or not np.isfinite(variance[u]):
            reasons.append("non-finite values")
        elif variance[u] <= floor[u]:
            reasons.append("always zero" if mean[u] == 0 else "constant")
        elif least[u] <= floor[u]:
            reasons.append("varies in too few image groups")
        else:
            reasons.append("")
    return LiveUnits(np.array([not reason for reason in reasons], dtype=bool), tuple(reasons))


def _without_each(*arrays: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], ...]]:
    """Sums over all groups but one, for each in turn."""
    totals = [array.sum(axis=0) for array in arrays]
    return [tuple(t - a[g] for t, a in zip(totals, arrays, strict=True)) for g in range(len(arrays[0]))]


def _halves(*arrays: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], ...]]:
    """Sums over the even and over the odd groups."""
    return [tuple(array[half::2].sum(axis=0) for array in arrays) for half in (0, 1)]


@dataclass(frozen=True)
class PairSums:
    """Sums of the live units of two nets, x then y, per image group.

    Attributes
    ----------
    units_x, units_y : indices of the live units within their nets
    n_x, n_y : widths of the nets, dead units included
    count : (n_groups,); sums : (n_groups, n); products : (n_groups, n, n)
    shifted_xy : (n_x, n_y) products of x with the next image's y over all groups, None if they were not summed
    """

    units_x: Indices
    units_y: Indices
    n_x: int
    n_y: int
    count: npt.NDArray[np.int64]
    sums: Float64
    products: Float64
    shifted_xy: Float64 | None

    @classmethod
    def of(cls, sums: Sums, live: LiveUnits, x: str, y: str) -> PairSums:
        """Cut two nets out of a comparison."""
        all_x, all_y = sums.units(x), sums.units(y)
        kept_x, kept_y = all_x[live.alive[all_x]], all_y[live.alive[all_y]]
        joined = np.concatenate([kept_x, kept_y])
        return cls(
            units_x=kept_x - all_x[0],
            units_y=kept_y - all_y[0],
            n_x=len(all_x),
            n_y=len(all_y),
            count=sums.group_count,
            sums=sums.group_sums[:, joined],
            products=sums.group_products[:, joined[:, None], joined[None, :]],
            shifted_xy=None if sums.shifted_products is None else sums.shifted_products[np.ix_(kept_x, kept_y)],
        )

    @property
    def n_groups(self) -> int:
        """Image groups."""
        return len(self.count)

    @cached_property
    def pooled(self) -> PairMoments:
        """From all groups."""
        return self.of_groups(np.arange(self.n_groups))

    @cached_property
    def without(self) -> tuple[PairMoments, ...]:
        """From all groups but one, for each in turn."""
        everyone = np.arange(self.n_groups)
        return tuple(self.of_groups(np.delete(everyone, g)) for g in everyone)

    def without_blocks(self, n_blocks: int) -> list[PairMoments]:
        """From all groups but one block of them, for each in turn; blocks as those of mutual information."""
        everyone = np.arange(self.n_groups)
        return [self.of_groups(np.setdiff1d(everyone, block)) for block in np.array_split(everyone, n_blocks)]

    @cached_property
    def halves(self) -> tuple[PairMoments, PairMoments]:
        """From the even groups and from the odd ones: two disjoint sets of images."""
        everyone = np.arange(self.n_groups)
        return self.of_groups(everyone[::2]), self.of_groups(everyone[1::2])

    @property
    def shifted(self) -> PairMoments | None:
        """From all groups, with y of the next image: what the nets have in common without seeing the same thing.

        Images go round within a group, so the units' own means and covariances stay.
        """
        if self.shifted_xy is None:
            return None
        n, k = self.pooled.n, len(self.units_x)
        total = self.sums.sum(axis=0)
        between = self.shifted_xy / n - np.outer(total[:k], total[k:]) / n**2
        return PairMoments(n, self.pooled.cov_xx, between, self.pooled.cov_yy)

    def of_groups(self, groups: Indices) -> PairMoments:
        """From some groups, added in their order."""
        n = float(self.count[groups].sum())
        cov = covariance(n, self.sums[groups].sum(axis=0), self.products[groups].sum(axis=0))
        k = len(self.units_x)
        return PairMoments(n=n, cov_xx=cov[:k, :k], cov_xy=cov[:k, k:], cov_yy=cov[k:, k:])
