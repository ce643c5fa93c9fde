"""The training images of a net and their order: a subset drawn by one seed, an order of every epoch by another.

The order is one of all training images, from which images outside the subset are left out. Nets of one order seed
therefore see the images that they have in common in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from convergence.data.images import Indices


@dataclass(frozen=True, eq=False)
class ImageOrder:
    """Which training images a net sees, and in which order.

    Attributes
    ----------
    n_available : number of training images of the data set
    seed : of the order and of the augmentation
    subset : (n,) ascending indices of the images that the net sees; None for all
    """

    n_available: int
    seed: int
    subset: Indices | None = None

    @classmethod
    def of(cls, labels: Indices, seed: int, share: float = 1.0, subset_seed: int | None = None) -> ImageOrder:
        """The order of a seed over all images (``share`` 1), or over the subset of ``subset_seed``."""
        subset = None if share >= 1.0 else draw_subset(labels, share, seed if subset_seed is None else subset_seed)
        return cls(len(labels), seed, subset)

    def __len__(self) -> int:
        return self.n_available if self.subset is None else len(self.subset)

    def epoch(self, epoch: int) -> Indices:
        """Indices (n,) of the images in the order of an epoch."""
        order: Indices = np.random.default_rng([self.seed, epoch]).permutation(self.n_available)
        if self.subset is None:
            return order
        chosen = np.zeros(self.n_available, dtype=bool)
        chosen[self.subset] = True
        return order[chosen[order]]

    def batches(self, epoch: int, batch_size: int) -> Iterator[Indices]:
        """Image indices of every step of an epoch."""
        order = self.epoch(epoch)
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    def augment_seed(self, epoch: int) -> int:
        """Seed of the augmentation of an epoch."""
        return int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])


def subset_size(n_images: int, share: float) -> int:
    """Number of images in a share of ``n_images``: rounded, at least one."""
    return min(max(round(share * n_images), 1), n_images)


def draw_subset(labels: Indices, share: float, seed: int) -> Indices:
    """Draw a share of the images by seed, the same share of every class within one image.

    Every class gets its share rounded down; the classes with the largest remainders get one image more, so that the
    subset has :func:`subset_size` images.

    Returns
    -------
    Ascending indices (n,).
    """
    generator = np.random.default_rng([seed, len(labels)])
    classes, counts = np.unique(labels, return_counts=True)
    wanted = share * counts
    sizes = np.floor(wanted).astype(np.int64)
    drawn = generator.permutation(len(classes))  # breaks ties between remainders
    largest = drawn[np.argsort(-(wanted - sizes)[drawn], kind="stable")]
    sizes[largest[: subset_size(len(labels), share) - int(sizes.sum())]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:size]
        for label, size in zip(classes, sizes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
