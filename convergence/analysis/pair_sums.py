"""The second moments of two nets from all image groups or some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.group_pairs import GroupPairs
from convergence.analysis.net_sums import GroupArrays, GroupBlocks, NetSums, Over
from convergence.similarity.layer import LayerMoments
from convergence.similarity.pair import PairMoments
from convergence.statistics.file import ComparisonSums

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class PairSums:
    """Sums of the active units of two nets, x and y, per image group.

    Attributes
    ----------
    x, y : the nets
    xy : (n_groups, n_x, n_y) products, in memory if they are few, else read group by group when they are needed
    shifted_xy : (n_x, n_y) products of x with the next image's y over all groups, None if they were not summed
    shifted_halves : the same over the even groups and over the odd ones
    """

    def __init__(self, sums: ComparisonSums, x: NetSums, y: NetSums) -> None:
        self.x, self.y = x, y
        self.count, self.n_groups = x.count, x.n_groups
        self.xy = GroupBlocks(sums.group_products, x.span, y.span, (x.alive, y.alive)).held(self.n_groups)
        self._xy = GroupArrays(self.xy, self.n_groups)
        self.shifted_xy: Float64 | None = None
        self.shifted_halves: tuple[Float64, Float64] | None = None
        if sums.group_shifted_products is not None:
            blocks = GroupBlocks(sums.group_shifted_products, x.span, y.span, (x.alive, y.alive))
            self.shifted_xy, self.shifted_halves = _shifted(blocks, self.n_groups)

    @classmethod
    def of(
        cls, sums: ComparisonSums, live: ActiveUnits, x: str, y: str, net: Callable[[str], NetSums] | None = None
    ) -> PairSums:
        """Cut two nets out of a comparison; reads what belongs to them and nothing else.

        Products of more than ``KEPT_BYTES`` stay in the file, which has to stay open as long as the pair is used.
        ``net`` gives the sums of a net, where several pairs share them.
        """
        net = partial(NetSums, sums, live) if net is None else net
        return cls(sums, net(x), net(y))

    @property
    def units_x(self) -> Indices:
        """(n_x,) indices of the active units within x."""
        return self.x.units

    @property
    def units_y(self) -> Indices:
        """(n_y,) indices of the active units within y."""
        return self.y.units

    @property
    def n_x(self) -> int:
        """Units of x, inactive ones included."""
        return self.x.width

    @property
    def n_y(self) -> int:
        """Units of y, inactive ones included."""
        return self.y.width

    @cached_property
    def pooled(self) -> PairMoments:
        """From all groups."""
        return self._moments(np.arange(self.n_groups))

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
        return self._moments(self.half(0)), self._moments(self.half(1))

    def half(self, which: int) -> Indices:
        """Groups of the even half (0) or the odd one (1)."""
        return np.arange(self.n_groups)[which::2]

    def half_without(self, g: int) -> PairMoments:
        """From the half of the groups that group ``g`` is in, but without it."""
        half = self.half(g % 2)
        return self._moments(half[half != g])

    def half_without_blocks(self, which: int, n_blocks: int) -> Iterator[PairMoments]:
        """From a half of the groups without each of ``n_blocks`` blocks of it; from all of it, if it has one group."""
        half = self.half(which)
        for block in np.array_split(half, min(max(n_blocks, 2), len(half))):
            yield self._moments(half[~np.isin(half, block)] if len(block) < len(half) else half)

    @property
    def shifted(self) -> PairMoments | None:
        """From all groups, with y of the next image: what the nets have in common without seeing the same thing.

        Images are in a ring within a group, so the units' own means and covariances stay. Stored images are in a ring
        of random order as well, in which the next image is of another family.
        """
        if self.shifted_xy is None:
            return None
        everything = np.arange(self.n_groups)
        x, y = self.x.over(everything), self.y.over(everything)
        has_images = x.layer.images is not None and y.layer.images is not None
        layer_x = LayerMoments(x.layer.cov, images=self.x.images if has_images else None)
        layer_y = LayerMoments(y.layer.cov, images=self.y.of_next_image if has_images else None)
        return PairMoments(x.n, layer_x, self.shifted_xy / x.n - np.outer(x.sums, y.sums) / x.n**2, layer_y)

    def within_classes(self, left_out: int | None = None) -> PairMoments | None:
        """From all groups but one, or from all, what units share within the classes; None: see ``within_reason``."""
        groups = np.arange(self.n_groups)
        return self.within_classes_of(groups if left_out is None else groups[groups != left_out])

    def within_classes_of(self, groups: Indices) -> PairMoments | None:
        """The same from some groups."""
        if self.within_reason:
            return None
        x, y = self.x.within_classes(groups), self.y.within_classes(groups)
        return PairMoments(x.n, x.layer, _between((self._xy.over(groups) - x.sums.T @ y.sums) / x.n, x, y), y.layer)

    @cached_property
    def within_reason(self) -> str:
        """Why nothing is known within classes; "" if it is."""
        if self.x.class_count is None:
            return "the images have no labels, or statistics.class_sums is false"
        if (self.x.class_count.sum(axis=0) < 2).all():
            return "no class has two samples"
        return ""

    def _without(self, left_out: Indices) -> PairMoments:
        return self._moments(np.delete(np.arange(self.n_groups), left_out))

    def _moments(self, groups: Indices) -> PairMoments:
        x, y = self.x.over(groups), self.y.over(groups)
        cov = self._xy.over(groups) / x.n - np.outer(x.sums, y.sums) / x.n**2
        between_groups = None
        if x.layer.between_groups is not None:
            # It holds the group pairs alone: a pair would outlive its last use, with its products.
            between_groups = partial(self._group_pairs.hsic, groups, x.scale, y.scale)
        return PairMoments(x.n, x.layer, _between(cov, x, y), y.layer, between_groups)

    @cached_property
    def _group_pairs(self) -> GroupPairs:
        products, x, y, count = self.xy, self.x.sums, self.y.sums, self.count
        return GroupPairs(lambda g: products[g] - np.outer(x[g], y[g]) / max(count[g], 1), self.n_groups)


def _between(cov: Float64, x: Over, y: Over) -> Float64:
    """Covariances in which a unit that does not vary has covariances of 0."""
    cov[x.constant] = 0.0
    cov[:, y.constant] = 0.0
    return cov


def _shifted(blocks: GroupBlocks, n_groups: int) -> tuple[Float64, tuple[Float64, Float64]]:
    """Sums over all groups, and over the even and the odd ones."""
    total = np.zeros_like(blocks[0])
    halves = np.zeros_like(total), np.zeros_like(total)
    for group in range(n_groups):
        own = blocks[group]
        total += own
        halves[group % 2][:] += own
    return total, halves
