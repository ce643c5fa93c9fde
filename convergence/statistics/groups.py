"""Image groups: the atom of work, of checkpoints, of error bars and of arithmetic.

Group ``g`` of ``G`` holds the images ``g, g + G, g + 2G, …``. A stride rather than a run of neighbours, because
image folders are sorted by class: a group of neighbours would be a few classes, and the spread between groups
would no longer be the sampling error of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.errors import ConfigError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageGroups:
    """The division of ``n_images`` images into ``n_groups`` groups, and of each group into compute batches.

    Raises
    ------
    ConfigError
        if there are fewer than two images a group, so that no group could say anything of its own.
    """

    n_images: int
    n_groups: int

    def __post_init__(self) -> None:
        if self.n_images < 2 * self.n_groups:
            raise ConfigError(
                f"statistics.groups = {self.n_groups} needs at least {2 * self.n_groups} images, and there are "
                f"{self.n_images}: choose at most {max(self.n_images // 2, 1)} groups."
            )

    def __len__(self) -> int:
        return self.n_groups

    def images(self, group: int) -> Indices:
        """Indices of a group's images, ascending."""
        return np.arange(group, self.n_images, self.n_groups, dtype=np.int64)

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
