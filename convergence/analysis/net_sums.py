"""The sums of one net of a comparison, and its second moments over any image groups.

A net is in many pairs. What depends on the net alone (covariances, their eigenvectors, orders of the stored images) is
computed once for all of them, as long as that takes little memory (:data:`KEPT_BYTES`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.group_pairs import GroupPairs
from convergence.linalg import RandomBases
from convergence.similarity.layer import LayerMoments
from convergence.similarity.stored_images import StoredImages
from convergence.statistics.file import ComparisonSums
from convergence.statistics.moments import covariance
from convergence.statistics.sampling import ring_order

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
KEPT_BYTES = 64_000_000
"""Products of all groups of a net, or of two nets, that are held in memory; and moments of a net that are kept."""
NETS_BYTES = 64e6
"""Memory of all nets that are kept for further pairs."""
MOMENT_MATRICES = 4
"""Matrices of moments over some groups: covariances, correlations, eigenvectors and what is divided by them."""
IMAGE_BYTES = 25
"""Bytes a pair of stored images: Gram matrix, kernel, neighbours and two orders."""
QUANTILES = (np.arange(100) + 0.5) / 100
LEAST_IMAGES, LEAST_GROUPS = 4, 3
"""Stored images of a replicate, and image groups, that measures of images and of pairs of groups need."""
LEAST_SHARE = 1e-6
"""A smaller share of a unit's variance within classes is rounding of float32 products."""


class GroupBlocks:
    """(n_groups, rows, columns) products, one group at a time, out of the file's matrices."""

    def __init__(self, products: Any, rows: slice, columns: slice, kept: tuple[Bools, Bools]) -> None:
        self._products, self._rows, self._columns, self._kept = products, rows, columns, kept

    def __getitem__(self, group: int) -> Float64:
        matrix = np.asarray(self._products[int(group), self._rows, self._columns])
        rows, columns = self._kept
        return matrix if rows.all() and columns.all() else matrix[np.ix_(rows, columns)]

    def in_memory(self, n_groups: int) -> Float64:
        """All of them at once."""
        out = np.empty((n_groups, int(self._kept[0].sum()), int(self._kept[1].sum())))
        for group in range(n_groups):
            out[group] = self[group]
        return out

    def held(self, n_groups: int) -> Float64 | GroupBlocks:
        """All products in memory if they are few, else this object, which reads them group by group."""
        n_bytes = 8 * n_groups * int(self._kept[0].sum()) * int(self._kept[1].sum())
        return self.in_memory(n_groups) if n_bytes <= KEPT_BYTES else self


def net_bytes(n_units: int, n_groups: int, n_images: int = 0) -> float:
    """Memory of a net: products, moments, and what is derived from its stored images."""
    square = 8.0 * n_units**2
    products, moments = square * n_groups, square * MOMENT_MATRICES * (3 * n_groups + 3)
    return sum(size for size in (products, moments) if size <= KEPT_BYTES) + IMAGE_BYTES * n_images**2


class GroupArrays:
    """Arrays by image group, with their sum over any groups."""

    def __init__(self, arrays: Float64 | GroupBlocks, n_groups: int) -> None:
        self.arrays, self._all = arrays, np.arange(n_groups)
        self._total: Float64 | None = None

    def over(self, groups: Indices) -> Float64:
        """The sum over some groups: that over all without the others, where these are fewer."""
        others = np.delete(self._all, groups)
        if len(others) >= len(groups):
            return self._add(groups)
        if self._total is None:
            self._total = self._add(self._all)
        return self._total - self._add(others) if len(others) else self._total.copy()

    def _add(self, groups: Indices) -> Float64:
        out = np.array(self.arrays[groups[0]])
        for g in groups[1:]:
            out += self.arrays[g]
        return out


@dataclass(frozen=True, eq=False)
class Over:
    """A net over some image groups.

    Attributes
    ----------
    n : samples
    layer : moments; a unit that does not vary has a variance of 1 and covariances of 0
    sums : (n_units,), or (n_classes, n_units) divided by the square root of the samples of the class
    constant : (n_units,) units that do not vary
    scale : (n_units,) factors that standardise the units over the square root of ``n``; 0 for a constant unit
    """

    n: float
    layer: LayerMoments
    sums: Float64
    constant: Bools
    scale: Float64


class NetSums:
    """Sums of the active units of a net per image group.

    Attributes
    ----------
    units : (n,) indices of the active units within the net; ``width``: units of the net, inactive ones included
    count : (n_groups,) samples; ``sums``: (n_groups, n)
    products : (n_groups, n, n), in memory if they are few, else read group by group
    floor : (n,) largest variance of a unit that counts as constant
    images : the stored images; None if there are none
    sample_group : (N,) group of each stored image; ``sample_family``: (N,) family, None: every image is a family
    class_count : (n_groups, n_classes) samples; None without labels
    """

    def __init__(self, sums: ComparisonSums, live: ActiveUnits, net: str) -> None:
        every = sums.units(net)
        self.span = slice(int(every[0]), int(every[-1]) + 1)
        self.alive = live.alive[self.span]
        self.units, self.width = np.flatnonzero(self.alive), len(every)
        self.count, self.n_groups = sums.group_count, len(sums.group_count)
        self.sums = sums.group_sums[:, every[self.alive]]
        self.floor = live.floor[self.span][self.alive]
        both = (self.alive, self.alive)
        self.products = GroupBlocks(sums.group_products, self.span, self.span, both).held(self.n_groups)
        self._products = GroupArrays(self.products, self.n_groups)
        subset, gram = sums.subset_samples, sums.image_gram
        self.sample_group = None if subset is None else sums.subset_group
        self.sample_family = None if subset is None else sums.subset_family
        own_gram = None if gram is None else np.asarray(gram[sums.nets.index(net)])
        if own_gram is not None and not np.isfinite(own_gram).all():
            own_gram = None
        samples = None if subset is None else subset[:, every[self.alive]].astype(np.float64)
        self.images = None if samples is None and own_gram is None else StoredImages(samples, own_gram)
        self.class_count = None if sums.class_sums is None else sums.class_count
        if sums.class_sums is not None and sums.class_count is not None:
            n_classes = sums.class_count.shape[1]
            blocks = GroupBlocks(
                sums.class_sums, slice(0, n_classes), self.span, (np.ones(n_classes, bool), self.alive)
            )
            self._class_sums = GroupArrays(blocks.held(self.n_groups), self.n_groups)
        self._histograms, self._first = sums.histograms, int(every[0])
        self._kept: dict[tuple[str, bytes], Over] = {}
        self._keeps = 8.0 * MOMENT_MATRICES * (3 * self.n_groups + 3) * len(self.units) ** 2 <= KEPT_BYTES

    def __len__(self) -> int:
        return len(self.units)

    @property
    def n_bytes(self) -> float:
        """Expected memory."""
        return net_bytes(len(self.units), self.n_groups, 0 if self.sample_group is None else len(self.sample_group))

    def over(self, groups: Indices) -> Over:
        """Moments over some groups."""
        return self._remembered("all", groups, self._over)

    def within_classes(self, groups: Indices) -> Over:
        """Moments within the classes over some groups: of each class the mean over its samples is subtracted.

        Σ (x − s)(x − s)ᵀ − Σ_c s_c s_cᵀ / n_c; a unit varies if more than rounding of its variance is within classes.
        """
        return self._remembered("within", groups, self._within_classes)

    @cached_property
    def bases(self) -> RandomBases:
        """Random bases of the units by their correlations over all groups."""
        return RandomBases(self.over(np.arange(self.n_groups)).layer.corr)

    @cached_property
    def bases_within_classes(self) -> RandomBases:
        """The same by correlations within the classes."""
        return RandomBases(self.within_classes(np.arange(self.n_groups)).layer.corr)

    @cached_property
    def of_next_image(self) -> StoredImages | None:
        """The stored images, each in the place of the image before it in a ring.

        The ring is of random order, the same for all nets, and the next image is of another family.
        """
        if self.images is None or self.sample_group is None:
            return None
        n = len(self.sample_group)
        ring = ring_order(self.sample_family, n, np.random.default_rng([n]))
        following = np.empty(n, np.int64)
        following[ring] = np.roll(ring, -1)
        return self.images.permuted(following)

    @cached_property
    def shapes(self) -> Float64:
        """(n, 100) quantiles of the units' values, divided by their standard deviation as the quantiles have it."""
        assert self._histograms is not None
        quantiles = self._histograms.percentiles(tuple(100 * QUANTILES), self._first + self.units)
        deviation = quantiles.std(axis=1, keepdims=True)
        return np.asarray(quantiles / np.where(deviation > 0, deviation, 1.0))

    @cached_property
    def zero_shares(self) -> Float64:
        """(n,) share of zeros among the values of each unit."""
        assert self._histograms is not None
        return self._histograms.zero_fraction()[self._first + self.units]

    def _remembered(self, kind: str, groups: Indices, compute: Callable[[Indices], Over]) -> Over:
        key = kind, groups.tobytes()
        found = self._kept.get(key)
        if found is None:
            found = compute(groups)
            if self._keeps:
                self._kept[key] = found
        return found

    def _over(self, groups: Indices) -> Over:
        n, sums, products = self._totals(groups)
        constant, scale = self._constant(n, sums, products, self.floor)
        kept, images = self._stored(groups)
        between = None
        if len(groups) > 1 and self.n_groups >= LEAST_GROUPS:
            between = partial(self._group_pairs.hsic, groups, scale, scale)  # holds the group pairs alone
        layer = LayerMoments(
            _without_constant(covariance(n, sums, products), constant),
            images=images, kept=kept, between_groups=between,
        )  # fmt: skip
        return Over(n, layer, sums, constant, scale)

    def _within_classes(self, groups: Indices) -> Over:
        assert self.class_count is not None
        n_c = self.class_count[groups].sum(axis=0)
        found = n_c > 0
        n, sums, products = self._totals(groups)
        of_classes = self._class_sums.over(groups)[found] / np.sqrt(n_c[found])[:, None]
        floor = np.maximum(self.floor, LEAST_SHARE * (np.diagonal(products) / n - (sums / n) ** 2))
        cov = (products - of_classes.T @ of_classes) / n
        constant = np.asarray(np.diagonal(cov) <= floor)
        return Over(n, LayerMoments(_without_constant(cov, constant)), of_classes, constant, np.zeros(0))

    def _totals(self, groups: Indices) -> tuple[float, Float64, Float64]:
        return float(self.count[groups].sum()), self._sums.over(groups), self._products.over(groups)

    @cached_property
    def _sums(self) -> GroupArrays:
        return GroupArrays(self.sums, self.n_groups)

    @staticmethod
    def _constant(n: float, sums: Float64, products: Float64, floor: Float64) -> tuple[Bools, Float64]:
        """Units that do not vary, and the factors of :class:`Over`."""
        variance = np.diagonal(products) / n - (sums / n) ** 2
        constant = np.asarray(variance <= floor)
        return constant, np.asarray(1 / np.sqrt(np.where(constant, np.inf, variance)) / np.sqrt(n))

    @cached_property
    def _group_pairs(self) -> GroupPairs:
        products, sums, count = self.products, self.sums, self.count
        return GroupPairs(lambda g: products[g] - np.outer(sums[g], sums[g]) / max(count[g], 1), self.n_groups)

    def _stored(self, groups: Indices) -> tuple[Bools | None, StoredImages | None]:
        """Which of the stored images are in the groups, None for all; and the images, if they are enough."""
        if self.sample_group is None:
            return None, None
        kept = np.isin(self.sample_group, groups)
        few = not self._has_images or np.count_nonzero(kept) < LEAST_IMAGES - 1
        return None if kept.all() else kept, None if few else self.images

    @cached_property
    def _has_images(self) -> bool:
        """Whether every replicate without a group has enough stored images."""
        assert self.sample_group is not None
        of_groups = np.bincount(self.sample_group, minlength=self.n_groups)
        return bool(of_groups.sum() - of_groups.max() >= LEAST_IMAGES)


def _without_constant(cov: Float64, constant: Bools) -> Float64:
    """Covariances in which a unit that does not vary has covariances of 0 and a variance of 1."""
    if constant.any():
        cov[constant] = 0.0
        cov[:, constant] = 0.0
        cov[constant, constant] = 1.0
    return cov
