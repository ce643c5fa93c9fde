"""Which images and which map positions are samples: image groups, drawn positions, common grids, means over positions.

The image group is the unit of work, of resuming, of error bars and of the order of arithmetic. Whole families of
images (frames of a film, crops of a photograph) are dealt to groups at random, by seed, so groups are independent of
each other. Consecutive or strided images would not be random samples: folders are sorted by class and other data sets
cycle through the classes, so the spread between groups would measure classes instead of the sampling error of images.

Within a group images are in a ring of random order, in which neighbours are of different families.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from convergence.errors import ConfigError
from convergence.kernels.jit import njit

if TYPE_CHECKING:
    from convergence.config.stages import StatisticsConfig

Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
RING = 1
"""Added to the seeds of the order within groups, so that it is independent of the division into groups."""
TRIES = 100
"""Random places that an image is tried at before neighbours are separated by construction."""


@dataclass(frozen=True, eq=False)
class ImageGroups:
    """The division of images into groups, and of each group into batches.

    Parameters
    ----------
    n_available : number of images in the split
    n_groups : number of groups
    seed : seed of the random division
    max_images : largest number of images to use; None for all
    families : (n_available,) the family of each image; None: every image is a family

    Raises
    ------
    ConfigError
        if a group would get fewer than two images, or fewer than two families.
    """

    n_available: int
    n_groups: int
    seed: int = 0
    max_images: int | None = None
    families: Indices | None = None

    def __post_init__(self) -> None:
        if self.n_images < 2 * self.n_groups:
            raise ConfigError(
                f"statistics.groups = {self.n_groups} needs at least {2 * self.n_groups} images, and there are "
                f"{self.n_images}: choose at most {max(self.n_images // 2, 1)} groups."
            )
        if self.families is not None and self.n_families < 2 * self.n_groups:
            raise ConfigError(
                f"statistics.groups = {self.n_groups} needs at least {2 * self.n_groups} families of images, and the "
                f"{self.n_images:,} images are of {self.n_families}: images of a family are not independent and stay "
                f"in one group. Choose at most {max(self.n_families // 2, 1)} groups, or use images of more families."
            )

    @classmethod
    def of(cls, config: StatisticsConfig, n_available: int, families: Indices | None) -> ImageGroups:
        """The groups of a split of ``n_available`` images with the settings of a config."""
        return cls(n_available, config.groups, config.seed, config.max_images, families)

    @property
    def n_images(self) -> int:
        """Number of images that are used."""
        return min(self.n_available, self.max_images or self.n_available)

    @property
    def n_families(self) -> int:
        """Number of families of the images that are used."""
        return self.n_images if self.families is None else len(np.unique(self.families[self._drawn]))

    def __len__(self) -> int:
        return self.n_groups

    @cached_property
    def family_of_image(self) -> Indices:
        """(n_available,) family of every image."""
        return np.arange(self.n_available) if self.families is None else np.asarray(self.families, np.int64)

    @cached_property
    def _drawn(self) -> Indices:
        """(n_images,) indices of the used images in random order."""
        order = np.random.default_rng([self.seed, self.n_available]).permutation(self.n_available)
        return order[: self.n_images].astype(np.int64)

    @cached_property
    def group_of_image(self) -> npt.NDArray[np.int32]:
        """(n_available,) group of every image, −1 for unused images; images of a family are in one group."""
        group = np.full(self.n_available, -1, np.int32)
        group[self._drawn] = self._dealt()
        return group

    def _dealt(self) -> Indices:
        """(n_images,) groups of the drawn images.

        Image k of the drawn ones is in group k mod n_groups if every image is a family. Else the families, largest
        first and in random order of first occurrence where they are equal, go to the group with the fewest images.
        """
        if self.families is None:
            return np.arange(self.n_images) % self.n_groups
        _, first, family, size = np.unique(
            self.families[self._drawn], return_index=True, return_inverse=True, return_counts=True
        )
        if (size == 1).all():
            return np.arange(self.n_images) % self.n_groups
        of_family = np.empty(len(size), np.int64)
        smallest = [(0, group) for group in range(self.n_groups)]
        for k in np.lexsort((first, -size)):
            n, group = heapq.heappop(smallest)
            of_family[k] = group
            heapq.heappush(smallest, (n + int(size[k]), group))
        return np.asarray(of_family[family])

    def subset(self, wanted: int) -> Indices:
        """Ascending indices of ``wanted`` images (all, if there are fewer); equally many of each group, ± 1.

        Groups that have fewer images than the others are exhausted first.
        """
        group = self.group_of_image[self._drawn]
        place = np.empty(self.n_images, np.int64)  # of an image among those of its group
        for g in range(self.n_groups):
            place[group == g] = np.arange(np.count_nonzero(group == g))
        return np.sort(self._drawn[np.lexsort((group, place))][:wanted])

    def images(self, group: int) -> Indices:
        """A group's images in the order of its ring."""
        images = np.flatnonzero(self.group_of_image == group).astype(np.int64)
        generator = np.random.default_rng([self.seed, self.n_available, RING, group])
        families = None if self.families is None else self.family_of_image[images]
        return images[ring_order(families, len(images), generator)]

    def batches(self, group: int, batch_size: int) -> Iterator[Indices]:
        """The group's images in batches; batch boundaries depend on the position in the group alone."""
        images = self.images(group)
        for start in range(0, len(images), batch_size):
            yield images[start : start + batch_size]

    def previous(self, group: int, batch_size: int) -> Iterator[Indices]:
        """For each of the batches the images before those of the batch in the ring."""
        before = np.roll(self.images(group), 1)
        for start in range(0, len(before), batch_size):
            yield before[start : start + batch_size]

    def blocks(self, n_blocks: int) -> list[list[int]]:
        """The groups in at most ``n_blocks`` consecutive blocks of nearly equal size."""
        parts = np.array_split(np.arange(self.n_groups), min(n_blocks, self.n_groups))
        return [[int(group) for group in part] for part in parts]


def ring_order(families: Indices | None, n: int, generator: np.random.Generator) -> Indices:
    """A random order (n,) of images in a ring, in which neighbours are of different families.

    Neighbours of one family remain where a family has more than half of the images. ``families`` is (n,), or None if
    every image is a family.
    """
    order = generator.permutation(n)
    if families is None or n < 2:
        return order
    _, family, sizes = np.unique(families, return_inverse=True, return_counts=True)
    if (sizes == 1).all():
        return order
    if 2 * sizes.max() <= n and _separated(order, family, generator):
        return order
    # Families one after the other, the largest first, on every second place: no two neighbours are of a family.
    order = order[np.lexsort((family[order], -sizes[family[order]]))]
    places = np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)])
    ring = np.empty(n, np.int64)
    ring[places] = order
    return ring


def _separated(order: Indices, family: Indices, generator: np.random.Generator) -> bool:
    """Exchange images with others at random, in place, until no neighbours are of a family; False after many tries."""
    n = len(order)

    def fits(place: int) -> bool:
        own = family[order[place]]
        return bool(own != family[order[place - 1]] and own != family[order[(place + 1) % n]])

    in_order = family[order]
    for place in np.flatnonzero(in_order == np.roll(in_order, 1)).tolist():
        for other in generator.integers(n, size=TRIES).tolist():
            if fits(place):
                break
            order[[place, other]] = order[[other, place]]
            if not (fits(place) and fits(other)):
                order[[place, other]] = order[[other, place]]
        if not fits(place):
            return False
    return True


def sample_positions(
    images: Indices, n_positions: int, wanted: int | str, seed: int, valid: Bools | None = None
) -> Indices | None:
    """Draw the map positions that are samples: (n_images, wanted) ascending indices, or None for all positions.

    The positions of an image depend on the seed, the image's index and its valid positions alone, so every rank and
    both passes draw the same ones, and those of the image before in a ring are known. ``valid`` (n_images, n_positions)
    has the same number of valid positions for all images if all are wanted, and at least ``wanted`` ones otherwise
    (:func:`convergence.statistics.masks.masked_units`). Where all positions are valid the draw is the same as without.
    """
    if valid is not None:
        return _sample_valid(images, wanted, seed, valid)
    if wanted == "all" or int(wanted) >= n_positions:
        return None
    drawn = np.empty((len(images), int(wanted)), dtype=np.int64)
    for row, image in enumerate(images):
        generator = np.random.default_rng([seed, int(image)])
        drawn[row] = np.sort(generator.choice(n_positions, size=int(wanted), replace=False))
    return drawn


def _sample_valid(images: Indices, wanted: int | str, seed: int, valid: Bools) -> Indices:
    n = int(valid[:1].sum()) if wanted == "all" else int(wanted)
    drawn = np.empty((len(images), n), dtype=np.int64)
    for row, image in enumerate(images):
        places = np.flatnonzero(valid[row])
        if wanted != "all" and len(places) > n:
            generator = np.random.default_rng([seed, int(image)])
            places = places[np.sort(generator.choice(len(places), size=n, replace=False))]
        drawn[row] = places
    return drawn


def grid_positions(shape: tuple[int, ...], grid: tuple[int, ...]) -> Indices | None:
    """Positions of a flattened map of ``shape`` at the points of a coarser ``grid``; None if both are the same.

    A grid point takes the position whose cell contains the point's centre.
    """
    if shape == grid:
        return None
    along = [((2 * np.arange(n) + 1) * side) // (2 * n) for side, n in zip(shape, grid, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), shape).ravel().astype(np.int64)


def mean_over_positions(maps: Float32) -> Float32:
    """Means (n_images, n_units, 1) of maps (n_images, n_units, n_positions), accumulated in float64.

    Positions are added in order, so the mean of an image does not depend on the other images of the batch.
    """
    out = np.empty((*maps.shape[:2], 1), np.float32)
    _mean(maps, out)
    return out


def mean_over_positions_plain(maps: Float32) -> Float32:
    """The definition of :func:`mean_over_positions`."""
    return maps.astype(np.float64).mean(axis=2, keepdims=True).astype(np.float32)


def mean_over_valid(maps: Float32, valid: Bools) -> Float32:
    """Means (n_images, n_units, 1) over the valid positions (n_images, n_positions) of maps.

    They are those of :func:`mean_over_positions` for the valid positions alone; no other value is read.
    """
    out = np.empty((*maps.shape[:2], 1), np.float32)
    _mean_valid(maps, valid, out)
    return out


def mean_over_valid_plain(maps: Float32, valid: Bools) -> Float32:
    """The definition of :func:`mean_over_valid`."""
    rows = zip(maps, valid, strict=True)
    return np.stack([mean_over_positions_plain(image[None][:, :, chosen])[0] for image, chosen in rows])


@njit(nogil=True)
def _mean_valid(maps, valid, out):  # type: ignore[no-untyped-def]
    for image in range(maps.shape[0]):
        n = valid[image].sum()
        for unit in range(maps.shape[1]):
            total = 0.0
            for position in range(maps.shape[2]):
                if valid[image, position]:
                    total += maps[image, unit, position]
            out[image, unit, 0] = total / n


@njit(nogil=True)
def _mean(maps, out):  # type: ignore[no-untyped-def]
    for image in range(maps.shape[0]):
        for unit in range(maps.shape[1]):
            total = 0.0
            for position in range(maps.shape[2]):
                total += maps[image, unit, position]
            out[image, unit, 0] = total / maps.shape[2]
