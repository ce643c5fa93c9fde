"""Which images and which map positions are samples: image groups, drawn positions, common grids, means over positions.

The image group is the unit of work, of resuming, of error bars and of the order of arithmetic. Images are dealt to
groups at random, by seed, as evenly as possible, and keep their order within a group. Consecutive or strided images
would not be random samples: folders are sorted by class and other data sets cycle through the classes, so the spread
between groups would measure classes instead of the sampling error of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from convergence.errors import ConfigError
from convergence.kernels.jit import njit

Indices = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageGroups:
    """The division of images into groups, and of each group into batches.

    Parameters
    ----------
    n_available : number of images in the split
    n_groups : number of groups
    seed : seed of the random division
    max_images : largest number of images to use; None for all

    Raises
    ------
    ConfigError
        if a group would get fewer than two images.
    """

    n_available: int
    n_groups: int
    seed: int = 0
    max_images: int | None = None

    def __post_init__(self) -> None:
        if self.n_images < 2 * self.n_groups:
            raise ConfigError(
                f"statistics.groups = {self.n_groups} needs at least {2 * self.n_groups} images, and there are "
                f"{self.n_images}: choose at most {max(self.n_images // 2, 1)} groups."
            )

    @property
    def n_images(self) -> int:
        """Number of images that are used."""
        return min(self.n_available, self.max_images or self.n_available)

    def __len__(self) -> int:
        return self.n_groups

    @cached_property
    def _drawn(self) -> Indices:
        """(n_images,) indices of the used images in random order; image k of them is in group k mod n_groups."""
        order = np.random.default_rng([self.seed, self.n_available]).permutation(self.n_available)
        return order[: self.n_images].astype(np.int64)

    @cached_property
    def group_of_image(self) -> npt.NDArray[np.int32]:
        """(n_available,) group of every image, −1 for unused images; group sizes differ by at most one."""
        group = np.full(self.n_available, -1, np.int32)
        group[self._drawn] = np.arange(self.n_images) % self.n_groups
        return group

    def subset(self, wanted: int) -> Indices:
        """Ascending indices of ``wanted`` images (all, if there are fewer); equally many of each group, ± 1."""
        return np.sort(self._drawn[:wanted])

    def images(self, group: int) -> Indices:
        """Ascending indices of a group's images."""
        return np.flatnonzero(self.group_of_image == group).astype(np.int64)

    def batches(self, group: int, batch_size: int) -> Iterator[Indices]:
        """The group's images in batches; batch boundaries depend on the position in the group alone."""
        images = self.images(group)
        for start in range(0, len(images), batch_size):
            yield images[start : start + batch_size]

    def blocks(self, n_blocks: int) -> list[list[int]]:
        """The groups in at most ``n_blocks`` consecutive blocks of nearly equal size."""
        parts = np.array_split(np.arange(self.n_groups), min(n_blocks, self.n_groups))
        return [[int(group) for group in part] for part in parts]


def sample_positions(images: Indices, n_positions: int, wanted: int | str, seed: int) -> Indices | None:
    """Draw the map positions that are samples: (n_images, wanted) ascending indices, or None for all positions.

    The positions of an image depend on the seed and the image's index alone, so every rank and both passes draw the
    same ones.
    """
    if wanted == "all" or int(wanted) >= n_positions:
        return None
    drawn = np.empty((len(images), int(wanted)), dtype=np.int64)
    for row, image in enumerate(images):
        generator = np.random.default_rng([seed, int(image)])
        drawn[row] = np.sort(generator.choice(n_positions, size=int(wanted), replace=False))
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


@njit(nogil=True)
def _mean(maps, out):  # type: ignore[no-untyped-def]
    for image in range(maps.shape[0]):
        for unit in range(maps.shape[1]):
            total = 0.0
            for position in range(maps.shape[2]):
                total += maps[image, unit, position]
            out[image, unit, 0] = total / maps.shape[2]
