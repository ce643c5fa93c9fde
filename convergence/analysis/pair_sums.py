"""The second moments of two nets from all image groups or some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.analysis.active_units import NOT_FINITE, ActiveUnits
from convergence.similarity.pair import PairMoments, UnbiasedHsic
from convergence.statistics.file import ComparisonSums
from convergence.statistics.hsic import NormSums, unbiased_hsic
from convergence.statistics.moments import covariance

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
KEPT_BYTES = 256_000_000
"""Products of a pair that are held in memory, all groups together."""
LEAST_IMAGES = 3
"""Stored images that have pairs of different similarity."""


def _cut(matrix: Float64, rows: npt.NDArray[np.bool_], columns: npt.NDArray[np.bool_]) -> Float64:
    """Some rows and columns; the matrix itself if that is all of it."""
    return matrix if rows.all() and columns.all() else matrix[np.ix_(rows, columns)]


class GroupBlocks:
    """(n_groups, rows, columns) products of a pair, one group at a time, out of the file's matrices."""

    def __init__(
        self, products: Any, rows: slice, columns: slice, kept: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
    ) -> None:
        self._products, self._rows, self._columns, self._kept = products, rows, columns, kept

    def __getitem__(self, group: int) -> Float64:
        return _cut(np.asarray(self._products[int(group), self._rows, self._columns]), *self._kept)

    def in_memory(self, n_groups: int) -> Float64:
        """All of them at once."""
        out = np.empty((n_groups, int(self._kept[0].sum()), int(self._kept[1].sum())))
        for group in range(n_groups):
            out[group] = self[group]
        return out


@dataclass(frozen=True)
class _Totals:
    """Everything of a pair added over some image groups."""

    n: float
    sums_x: Float64
    sums_y: Float64
    xx: Float64
    xy: Float64
    yy: Float64
    norms: tuple[Float64, ...] | None

    def __sub__(self, other: _Totals) -> _Totals:
        norms = None
        if self.norms is not None and other.norms is not None:
            norms = tuple(a - b for a, b in zip(self.norms, other.norms, strict=True))
        return _Totals(
            self.n - other.n, self.sums_x - other.sums_x, self.sums_y - other.sums_y, self.xx - other.xx,
            self.xy - other.xy, self.yy - other.yy, norms,
        )  # fmt: skip


@dataclass(frozen=True)
class PairSums:
    """Sums of the finite units of two nets, x and y, per image group; moments are those of the active units.

    Attributes
    ----------
    units_x, units_y : indices of the active units within their nets
    n_x, n_y : widths of the nets, inactive units included
    count : (n_groups,); sums_x, sums_y : (n_groups, n)
    xx, xy, yy : (n_groups, n, n) products, in memory if they are few, else read group by group when they are needed
    live_x, live_y : (n,) which of these units are live
    shifted_xy : (n_x, n_y) products of x with the next image's y over all groups, None if they were not summed
    norms : of both nets with the units of either, None if there are none or a unit is not finite
    samples_x, samples_y : (N, n) activations of the images of the subset, in group ``sample_group`` (N,); or None
    """

    units_x: Indices
    units_y: Indices
    n_x: int
    n_y: int
    count: npt.NDArray[np.int64]
    sums_x: Float64
    sums_y: Float64
    xx: Float64 | GroupBlocks
    xy: Float64 | GroupBlocks
    yy: Float64 | GroupBlocks
    live_x: npt.NDArray[np.bool_]
    live_y: npt.NDArray[np.bool_]
    shifted_xy: Float64 | None
    norms: tuple[NormSums, NormSums] | None
    samples_x: Float64 | None
    samples_y: Float64 | None
    sample_group: Indices | None

    @classmethod
    def of(cls, sums: ComparisonSums, live: ActiveUnits, x: str, y: str) -> PairSums:
        """Cut two nets out of a comparison; reads what belongs to them and nothing else.

        Products of more than ``KEPT_BYTES`` stay in the file, which has to stay open as long as the pair is used.
        """
        all_x, all_y = sums.units(x), sums.units(y)
        of_x, of_y = slice(all_x[0], all_x[-1] + 1), slice(all_y[0], all_y[-1] + 1)
        alive_x, alive_y = live.alive[of_x], live.alive[of_y]
        finite = np.array([reason != NOT_FINITE for reason in live.reason])
        finite_x, finite_y = finite[of_x], finite[of_y]
        norms = None
        if sums.norms is not None and finite_x.all() and finite_y.all():
            norms = sums.norms.of(sums.nets.index(x), sums.nets.index(y), all_x, all_y)
        n_groups = len(sums.group_count)
        blocks = [
            GroupBlocks(sums.group_products, rows, columns, kept)
            for rows, columns, kept in (
                (of_x, of_x, (finite_x, finite_x)),
                (of_x, of_y, (finite_x, finite_y)),
                (of_y, of_y, (finite_y, finite_y)),
            )
        ]
        n_x, n_y = int(finite_x.sum()), int(finite_y.sum())
        few = 8 * n_groups * (n_x**2 + n_x * n_y + n_y**2) <= KEPT_BYTES
        products = [block.in_memory(n_groups) if few else block for block in blocks]
        shifted = None
        if sums.group_shifted_products is not None:
            shifted = np.zeros((int(alive_x.sum()), int(alive_y.sum())))
            for group in range(len(sums.group_count)):
                shifted += sums.group_shifted_products[group, of_x, of_y][np.ix_(alive_x, alive_y)]
        subset = sums.subset_samples
        return cls(
            units_x=np.flatnonzero(alive_x),
            units_y=np.flatnonzero(alive_y),
            n_x=len(all_x),
            n_y=len(all_y),
            count=sums.group_count,
            sums_x=sums.group_sums[:, all_x[finite_x]],
            sums_y=sums.group_sums[:, all_y[finite_y]],
            live_x=alive_x[finite_x],
            live_y=alive_y[finite_y],
            xx=products[0],
            xy=products[1],
            yy=products[2],
            shifted_xy=shifted,
            norms=norms,
            samples_x=None if subset is None else subset[:, all_x[alive_x]].astype(np.float64),
            samples_y=None if subset is None else subset[:, all_y[alive_y]].astype(np.float64),
            sample_group=None if subset is None else sums.subset_group,
        )

    @property
    def n_groups(self) -> int:
        """Image groups."""
        return len(self.count)

    @cached_property
    def pooled(self) -> PairMoments:
        """From all groups."""
        return self._moments(self._total, np.arange(self.n_groups))

    def without(self) -> Iterator[PairMoments]:
        """From all groups but one, for each in turn; made when asked for, so that one is in memory at a time."""
        for g in range(self.n_groups):
            yield self.replicate(g)

    def replicate(self, left_out: int | None) -> PairMoments:
        """From all groups but one, or from all."""
        return self.pooled if left_out is None else self._without(np.array([left_out]))

    def without_blocks(self, n_blocks: int) -> Iterator[PairMoments]:
        """From all groups but one block of them, for each in turn; blocks as those of mutual information."""
        for b in range(n_blocks):
            yield self.without_block(b, n_blocks)

    def without_block(self, b: int, n_blocks: int) -> PairMoments:
        """From all groups but block ``b`` of them."""
        return self._without(np.array_split(np.arange(self.n_groups), n_blocks)[b])

    @cached_property
    def halves(self) -> tuple[PairMoments, PairMoments]:
        """From the even groups and from the odd ones: two disjoint sets of images."""
        return self._of_groups(self.half(0)), self._of_groups(self.half(1))

    def half(self, which: int) -> Indices:
        """Groups of the even half (0) or the odd one (1)."""
        return np.arange(self.n_groups)[which::2]

    def half_without(self, g: int) -> PairMoments:
        """From the half of the groups that group ``g`` is in, but without it."""
        half = self.half(g % 2)
        return self._of_groups(half[half != g])

    def half_without_blocks(self, which: int, n_blocks: int) -> Iterator[PairMoments]:
        """From a half of the groups without each of ``n_blocks`` blocks of it; from all of it, if it has one group."""
        half = self.half(which)
        for block in np.array_split(half, min(max(n_blocks, 2), len(half))):
            yield self._of_groups(np.setdiff1d(half, block) if len(block) < len(half) else half)

    @property
    def shifted(self) -> PairMoments | None:
        """From all groups, with y of the next image: what the nets have in common without seeing the same thing.

        Images go round within a group, so the units' own means and covariances stay. Kept images go round, too.
        """
        if self.shifted_xy is None:
            return None
        n, total = self.pooled.n, self._total
        between = self.shifted_xy / n - np.outer(total.sums_x[self.live_x], total.sums_y[self.live_y]) / n**2
        samples_y = None if self.samples_y is None else np.roll(self.samples_y, -1, axis=0)
        return PairMoments(
            n, self.pooled.cov_xx, between, self.pooled.cov_yy, samples_x=self.samples_x, samples_y=samples_y
        )

    @cached_property
    def _total(self) -> _Totals:
        return self._add(np.arange(self.n_groups))

    def _without(self, left_out: Indices) -> PairMoments:
        kept = np.setdiff1d(np.arange(self.n_groups), left_out)
        return self._moments(self._total - self._add(left_out), kept)

    def _of_groups(self, groups: Indices) -> PairMoments:
        return self._moments(self._add(groups), groups)

    def _add(self, groups: Indices) -> _Totals:
        """Sums over some groups, in their order."""

        def total(array: Float64 | GroupBlocks) -> Float64:
            out = np.array(array[groups[0]])
            for g in groups[1:]:
                out += array[g]
            return out

        norms = None
        if self.norms is not None:
            first, second = self.norms
            norms = (total(first.sums), total(first.products), total(first.cross), total(second.cross))
        return _Totals(
            float(self.count[groups].sum()), total(self.sums_x), total(self.sums_y), total(self.xx), total(self.xy),
            total(self.yy), norms,
        )  # fmt: skip

    def _moments(self, total: _Totals, groups: Indices) -> PairMoments:
        n = total.n
        kept = None if self.sample_group is None else np.isin(self.sample_group, groups)
        few = kept is not None and np.count_nonzero(kept) < LEAST_IMAGES
        return PairMoments(
            n,
            _cut(covariance(n, total.sums_x, total.xx), self.live_x, self.live_x),
            _cut(total.xy / n - np.outer(total.sums_x, total.sums_y) / n**2, self.live_x, self.live_y),
            _cut(covariance(n, total.sums_y, total.yy), self.live_y, self.live_y),
            hsic=self._hsic(total),
            samples_x=None if few else self.samples_x,
            samples_y=None if few else self.samples_y,
            kept=None if kept is None or kept.all() else kept,
        )

    def _hsic(self, total: _Totals) -> UnbiasedHsic | None:
        if self.norms is None or total.norms is None or total.n < 4:
            return None
        n, shift = total.n, self.norms[0].shift
        about, products, with_x, with_y = total.norms
        norms = about + n * shift
        both = products + np.outer(shift, about) + np.outer(about, shift) + n * np.outer(shift, shift)
        # Rows: of x's norms and of y's; with the units of x, and with those of y.
        units_x = with_x + np.outer(shift, total.sums_x)
        units_y = with_y + np.outer(shift, total.sums_y)
        x, y = total.sums_x, total.sums_y
        return UnbiasedHsic(
            unbiased_hsic(n, (x, x), total.xx, (norms[0], norms[0]), both[0, 0], (units_x[0], units_x[0])),
            unbiased_hsic(n, (x, y), total.xy, (norms[0], norms[1]), both[0, 1], (units_y[0], units_x[1])),
            unbiased_hsic(n, (y, y), total.yy, (norms[1], norms[1]), both[1, 1], (units_y[1], units_y[1])),
        )
