"""Image groups: the atom of work, of checkpoints, of error bars and of arithmetic.

Images are dealt to the groups at random, by seed, as evenly as can be; within a group they keep their order. Neither
a run of neighbours nor a stride would do: folders are sorted by class, other sets go round the classes, and a group of
one class would make the spread between groups that of classes, not the sampling error of images. For the same reason
a part of the images is drawn from all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from convergence.errors import ConfigError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageGroups:
    """The division of images into groups, and of each group into compute batches.

    Parameters
    ----------
    n_available : images there are
    n_groups : groups to make
    seed : of the draw
    max_images : how many images to use; None for all

    Raises
    ------
    ConfigError
        if there are fewer than two images a group, so that no group could say anything of its own.
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
        """Images that are used."""
        return min(self.n_available, self.max_images or self.n_available)

    def __len__(self) -> int:
        return self.n_groups

    @cached_property
    def _drawn(self) -> Indices:
        """(n_images,) indices of the images that are used, as they are drawn; they are dealt to the groups in turn."""
        order = np.random.default_rng([self.seed, self.n_available]).permutation(self.n_available)
        return order[: self.n_images].astype(np.int64)

    @cached_property
    def group_of_image(self) -> npt.NDArray[np.int32]:
        """(n_available,) the group of every image, −1 for those not used; sizes of groups differ by at most one."""
        group = np.full(self.n_available, -1, np.int32)
        group[self._drawn] = np.arange(self.n_images) % self.n_groups
        return group

    def subset(self, wanted: int) -> Indices:
        """Indices of so many of the images (all, if there are fewer), ascending; the same number of each group, ± 1."""
        return np.sort(self._drawn[:wanted])

    def images(self, group: int) -> Indices:
        """Indices of a group's images, ascending."""
        return np.flatnonzero(self.group_of_image == group).astype(np.int64)

    def batches(self, group: int, batch_size: int) -> Iterator[Indices]:
        """The group's images in batches, cut by position in the group: whoever computes it cuts the same batches."""
        images = self.images(group)
        for start in range(0, len(images), batch_size):
            yield images[start : start + batch_size]

    def blocks(self, n_blocks: int) -> list[list[int]]:
        """The groups in ``n_blocks`` (or fewer) blocks of nearly equal number, in order."""
        pieces = np.array_split(np.arange(self.n_groups), min(n_blocks, self.n_groups))
        return [[int(g) for g in piece] for piece in pieces]


def sample_positions(images: Indices, n_positions: int, wanted: int | str, seed: int) -> Indices | None:
    """Positions of a map that count as samples: (n_images, wanted) ascending indices, or None for all of them.

    An image's positions depend on the seed and its index alone, so that every rank and both passes draw the same.
    """
    if wanted == "all" or int(wanted) >= n_positions:
        return None
    drawn = np.empty((len(images), int(wanted)), dtype=np.int64)
    for row, image in enumerate(images):
        generator = np.random.default_rng([seed, int(image)])
        drawn[row] = np.sort(generator.choice(n_positions, size=int(wanted), replace=False))
    return drawn
