"""The second moments of two nets from all image groups or some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.group_pairs import GroupPairs
from convergence.similarity.pair import GroupHsic, PairMoments
from convergence.statistics.file import ComparisonSums
from convergence.statistics.moments import covariance
from convergence.statistics.sampling import ring_order

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
KEPT_BYTES = 256_000_000
"""Products of a pair that are held in memory, all groups together."""
LEAST_IMAGES, LEAST_GROUPS = 4, 3
"""Stored images of a replicate, and image groups, that measures of images and of pairs of groups need."""
LEAST_SHARE = 1e-6
"""A smaller share of a unit's variance within classes is rounding of float32 products."""


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

    def __sub__(self, other: _Totals) -> _Totals:
        return _Totals(
            self.n - other.n, self.sums_x - other.sums_x, self.sums_y - other.sums_y, self.xx - other.xx,
            self.xy - other.xy, self.yy - other.yy,
        )  # fmt: skip


@dataclass(frozen=True)
class ClassSums:
    """Sums of each class and image group: count (n_groups, n_classes), x and y (n_groups, n_classes, n)."""

    count: npt.NDArray[np.int64]
    x: Float64 | GroupBlocks
    y: Float64 | GroupBlocks


@dataclass(frozen=True)
class PairSums:
    """Sums of the active units of two nets, x and y, per image group.

    Attributes
    ----------
    units_x, units_y : indices of the active units within their nets
    n_x, n_y : widths of the nets, inactive units included
    count : (n_groups,); sums_x, sums_y : (n_groups, n)
    xx, xy, yy : (n_groups, n, n) products, in memory if they are few, else read group by group when they are needed
    floor_x, floor_y : (n,) largest variance of a unit that counts as constant
    shifted_xy : (n_x, n_y) products of x with the next image's y over all groups, None if they were not summed
    shifted_halves : the same over the even groups and over the odd ones
    samples_x, samples_y : (N, n) activations of the images of the subset, in group ``sample_group`` (N,); or None
    sample_family : (N,) families of these images; None: every image is a family
    gram_x, gram_y : (N, N) inner products of the flattened maps of these images; None if absent or not finite
    classes : sums of the classes; None without labels
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
    floor_x: Float64
    floor_y: Float64
    shifted_xy: Float64 | None
    shifted_halves: tuple[Float64, Float64] | None
    samples_x: Float64 | None
    samples_y: Float64 | None
    sample_group: Indices | None
    sample_family: Indices | None
    gram_x: Float64 | None
    gram_y: Float64 | None
    classes: ClassSums | None

    @classmethod
    def of(cls, sums: ComparisonSums, live: ActiveUnits, x: str, y: str) -> PairSums:
        """Cut two nets out of a comparison; reads what belongs to them and nothing else.

        Products of more than ``KEPT_BYTES`` stay in the file, which has to stay open as long as the pair is used.
        """
        all_x, all_y = sums.units(x), sums.units(y)
        of_x, of_y = slice(all_x[0], all_x[-1] + 1), slice(all_y[0], all_y[-1] + 1)
        alive_x, alive_y = live.alive[of_x], live.alive[of_y]
        n_groups = len(sums.group_count)
        blocks = [
            GroupBlocks(sums.group_products, rows, columns, kept)
            for rows, columns, kept in (
                (of_x, of_x, (alive_x, alive_x)),
                (of_x, of_y, (alive_x, alive_y)),
                (of_y, of_y, (alive_y, alive_y)),
            )
        ]
        n_x, n_y = int(alive_x.sum()), int(alive_y.sum())
        few = 8 * n_groups * (n_x**2 + n_x * n_y + n_y**2) <= KEPT_BYTES
        products = [block.in_memory(n_groups) if few else block for block in blocks]
        shifted, halves = None, None
        if sums.group_shifted_products is not None:
            shifted, halves = np.zeros((n_x, n_y)), (np.zeros((n_x, n_y)), np.zeros((n_x, n_y)))
            for group in range(n_groups):
                own = sums.group_shifted_products[group, of_x, of_y][np.ix_(alive_x, alive_y)]
                shifted += own
                halves[group % 2][:] += own
        subset, gram = sums.subset_samples, sums.image_gram
        grams = [None if gram is None else np.asarray(gram[sums.nets.index(net)]) for net in (x, y)]
        return cls(
            units_x=np.flatnonzero(alive_x),
            units_y=np.flatnonzero(alive_y),
            n_x=len(all_x),
            n_y=len(all_y),
            count=sums.group_count,
            sums_x=sums.group_sums[:, all_x[alive_x]],
            sums_y=sums.group_sums[:, all_y[alive_y]],
            xx=products[0],
            xy=products[1],
            yy=products[2],
            floor_x=live.floor[of_x][alive_x],
            floor_y=live.floor[of_y][alive_y],
            shifted_xy=shifted,
            shifted_halves=halves,
            samples_x=None if subset is None else subset[:, all_x[alive_x]].astype(np.float64),
            samples_y=None if subset is None else subset[:, all_y[alive_y]].astype(np.float64),
            sample_group=None if subset is None else sums.subset_group,
            sample_family=None if subset is None else sums.subset_family,
            gram_x=None if grams[0] is None or not np.isfinite(grams[0]).all() else grams[0],
            gram_y=None if grams[1] is None or not np.isfinite(grams[1]).all() else grams[1],
            classes=cls._classes(sums, (of_x, of_y), (alive_x, alive_y)),
        )

    @staticmethod
    def _classes(
        sums: ComparisonSums, units: tuple[slice, slice], alive: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
    ) -> ClassSums | None:
        if sums.class_count is None or sums.class_sums is None:
            return None
        n_groups, n_classes = sums.class_count.shape
        every = slice(0, n_classes), np.ones(n_classes, bool)
        few = 8 * n_groups * n_classes * sum(int(some.sum()) for some in alive) <= KEPT_BYTES
        blocks = [
            GroupBlocks(sums.class_sums, every[0], some, (every[1], kept))
            for some, kept in zip(units, alive, strict=True)
        ]
        return ClassSums(sums.class_count, *(block.in_memory(n_groups) if few else block for block in blocks))

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

        Images are in a ring within a group, so the units' own means and covariances stay. Stored images are in a ring
        of random order as well, in which the next image is of another family.
        """
        if self.shifted_xy is None:
            return None
        n, total = self.pooled.n, self._total
        between = self.shifted_xy / n - np.outer(total.sums_x, total.sums_y) / n**2
        following = self._following
        return PairMoments(
            n,
            self.pooled.cov_xx,
            between,
            self.pooled.cov_yy,
            samples_x=self.pooled.samples_x,
            samples_y=None if self.pooled.samples_y is None else self.pooled.samples_y[following],
            gram_xx=self.pooled.gram_xx,
            gram_yy=None if self.pooled.gram_yy is None else self.pooled.gram_yy[np.ix_(following, following)],
        )

    def within_classes(self, left_out: int | None = None) -> PairMoments | None:
        """From all groups but one, or from all, what units share within the classes; None: see ``within_reason``.

        Of each class the mean over its samples is subtracted: Σ (x − s)(x − s)ᵀ − Σ_c s_c s_cᵀ / n_c.
        """
        groups = np.arange(self.n_groups)
        return self.within_classes_of(groups if left_out is None else groups[groups != left_out])

    def within_classes_of(self, groups: Indices) -> PairMoments | None:
        """The same from some groups."""
        if self.within_reason or self.classes is None:
            return None
        n_c = self.classes.count[groups].sum(axis=0)
        total = self._totals(groups)
        found = n_c > 0
        x, y = (self._class_totals(of, groups)[found] / np.sqrt(n_c[found])[:, None] for of in ("x", "y"))
        n = total.n
        floors = []
        for sums, products, floor in (
            (total.sums_x, total.xx, self.floor_x),
            (total.sums_y, total.yy, self.floor_y),
        ):
            variance = np.diagonal(products) / n - (sums / n) ** 2
            floors.append(np.maximum(floor, LEAST_SHARE * variance))
        return _varying(
            (total.xx - x.T @ x) / n, (total.xy - x.T @ y) / n, (total.yy - y.T @ y) / n, floors[0], floors[1], n
        )  # fmt: skip

    @cached_property
    def within_reason(self) -> str:
        """Why nothing is known within classes; "" if it is."""
        if self.classes is None:
            return "the images have no labels, or statistics.class_sums is false"
        if (self.classes.count.sum(axis=0) < 2).all():
            return "no class has two samples"
        return ""

    @cached_property
    def _following(self) -> Indices:
        """(N,) for each stored image the next one."""
        assert self.sample_group is not None
        n = len(self.sample_group)
        ring = ring_order(self.sample_family, n, np.random.default_rng([n]))
        following = np.empty(n, np.int64)
        following[ring] = np.roll(ring, -1)
        return following

    @cached_property
    def _total(self) -> _Totals:
        return self._add(np.arange(self.n_groups))

    def _without(self, left_out: Indices) -> PairMoments:
        return self._of_groups(np.setdiff1d(np.arange(self.n_groups), left_out))

    def _of_groups(self, groups: Indices) -> PairMoments:
        return self._moments(self._totals(groups), groups)

    def _totals(self, groups: Indices) -> _Totals:
        """Sums over some groups: those of all without the others, where these are fewer."""
        others = np.setdiff1d(np.arange(self.n_groups), groups)
        if not len(others):
            return self._total
        return self._total - self._add(others) if len(others) < len(groups) else self._add(groups)

    def _add(self, groups: Indices) -> _Totals:
        """Sums over some groups, in their order."""
        return _Totals(
            float(self.count[groups].sum()), _sum(self.sums_x, groups), _sum(self.sums_y, groups),
            _sum(self.xx, groups), _sum(self.xy, groups), _sum(self.yy, groups),
        )  # fmt: skip

    def _class_totals(self, of: str, groups: Indices) -> Float64:
        """(n_classes, n) sums of the classes over some groups, of "x" or "y"."""
        blocks = getattr(self.classes, of)
        others = np.setdiff1d(np.arange(self.n_groups), groups)
        if len(others) >= len(groups):
            return _sum(blocks, groups)
        whole = self.__dict__.get(f"_class_total_{of}")
        if whole is None:
            whole = self.__dict__[f"_class_total_{of}"] = _sum(blocks, np.arange(self.n_groups))
        return whole - _sum(blocks, others) if len(others) else whole

    def _moments(self, total: _Totals, groups: Indices) -> PairMoments:
        n = total.n
        kept = None if self.sample_group is None else np.isin(self.sample_group, groups)
        few = kept is None or not self._has_images or np.count_nonzero(kept) < LEAST_IMAGES - 1
        return _varying(
            covariance(n, total.sums_x, total.xx),
            total.xy / n - np.outer(total.sums_x, total.sums_y) / n**2,
            covariance(n, total.sums_y, total.yy),
            self.floor_x,
            self.floor_y,
            n,
            hsic=self._hsic(groups, total) if len(groups) > 1 and self.n_groups >= LEAST_GROUPS else None,
            samples_x=None if few else self.samples_x,
            samples_y=None if few else self.samples_y,
            kept=None if kept is None or kept.all() else kept,
            gram_xx=None if few else self.gram_x,
            gram_yy=None if few else self.gram_y,
        )

    @cached_property
    def _has_images(self) -> bool:
        """Whether every replicate without a group has enough stored images."""
        assert self.sample_group is not None
        of_groups = np.bincount(self.sample_group, minlength=self.n_groups)
        return bool(of_groups.sum() - of_groups.max() >= LEAST_IMAGES)

    @cached_property
    def _group_pairs(self) -> dict[str, GroupPairs]:
        count = self.count  # the functions must not hold the pair: it would outlive its last use, with its products

        def centred(products: Float64 | GroupBlocks, a: Float64, b: Float64) -> Callable[[int], Float64]:
            return lambda g: products[g] - np.outer(a[g], b[g]) / max(count[g], 1)

        x, y = self.sums_x, self.sums_y
        parts = {"xx": (self.xx, x, x), "xy": (self.xy, x, y), "yy": (self.yy, y, y)}
        return {part: GroupPairs(centred(*given), self.n_groups) for part, given in parts.items()}

    def _hsic(self, groups: Indices, total: _Totals) -> GroupHsic:
        def scale(sums: Float64, products: Float64, floor: Float64) -> Float64:
            variance = np.diagonal(products) / total.n - (sums / total.n) ** 2
            return np.asarray(1 / np.sqrt(np.where(variance > floor, variance, np.inf)) / np.sqrt(total.n))

        scales = {
            "x": scale(total.sums_x, total.xx, self.floor_x),
            "y": scale(total.sums_y, total.yy, self.floor_y),
        }
        pairs = self._group_pairs
        return GroupHsic(lambda part: pairs[part].hsic(groups, scales[part[0]], scales[part[1]]))


def _sum(array: Float64 | GroupBlocks, groups: Indices) -> Float64:
    """The sum over some groups, in their order."""
    out = np.array(array[groups[0]])
    for g in groups[1:]:
        out += array[g]
    return out


def _varying(
    cov_xx: Float64, cov_xy: Float64, cov_yy: Float64, floor_x: Float64, floor_y: Float64, n: float, **more: Any
) -> PairMoments:
    """Moments in which a unit that does not vary has covariances of 0 and a variance of 1, so correlations of 0."""
    constant_x, constant_y = np.diagonal(cov_xx) <= floor_x, np.diagonal(cov_yy) <= floor_y
    for cov, rows, columns in (
        (cov_xx, constant_x, constant_x), (cov_xy, constant_x, constant_y), (cov_yy, constant_y, constant_y)
    ):  # fmt: skip
        cov[rows] = 0.0
        cov[:, columns] = 0.0
    cov_xx[constant_x, constant_x] = 1.0
    cov_yy[constant_y, constant_y] = 1.0
    return PairMoments(n, cov_xx, cov_xy, cov_yy, **more)
