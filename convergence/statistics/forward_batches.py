"""Batches of images for the nets: which images share a forward pass, which of them are the pilot, what is kept.

Groups with fewer images than a batch share one: a run of consecutive groups whose images fit a batch is one item of
work. Its maps are divided by groups before anything is summed, so the arithmetic of a group is the same. A larger group
is a run alone, and shares no batch. Batches depend on the settings and the images alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from convergence.data.images import read_batches
from convergence.statistics.activation_source import ActivationSource, Maps
from convergence.statistics.sampling import ImageGroups, Indices

KEPT_BYTES = 1 << 30
"""Bytes of the pilot's maps that a process keeps in memory."""


@dataclass(frozen=True, eq=False)
class ForwardBatches:
    """The batches of all image groups.

    Parameters
    ----------
    groups : the image groups
    batch_size : images of a batch
    n_pilot : images of the pilot at least; all images if there are not more
    """

    groups: ImageGroups
    batch_size: int
    n_pilot: int

    @cached_property
    def runs(self) -> list[range]:
        """Runs of consecutive groups whose images share a batch; groups with more images are alone."""
        sizes = np.bincount(self.groups.group_of_image[self.groups.group_of_image >= 0], minlength=len(self.groups))
        found: list[range] = []
        n_images = 0
        for group, size in enumerate(sizes.tolist()):
            if found and n_images + size <= self.batch_size:
                found[-1] = range(found[-1].start, group + 1)
                n_images += size
            else:
                found.append(range(group, group + 1))
                n_images = size
        return found

    @cached_property
    def run_of_group(self) -> list[int]:
        """The run of each group."""
        return [number for number, run in enumerate(self.runs) for _ in run]

    def batches(self, run: int) -> list[Indices]:
        """The images of a run in batches: group by group, each in the order of its ring."""
        images = np.concatenate([self.groups.images(group) for group in self.runs[run]])
        return [images[k : k + self.batch_size] for k in range(0, len(images), self.batch_size)]

    @property
    def pilot_is_whole(self) -> bool:
        """Whether the pilot has all images."""
        return self.n_pilot >= self.groups.n_images

    @cached_property
    def pilot(self) -> dict[int, list[Indices]]:
        """The batches of the pilot by run: the first batches of each, in proportion to its batches.

        The order of a ring is random, so these are random images, equally many of each group but for whole batches.
        """
        batches = [self.batches(run) for run in range(len(self.runs))]
        share = min(1.0, self.n_pilot / self.groups.n_images)
        before = np.cumsum([0, *map(len, batches)])
        upto = [math.ceil(share * n) for n in before.tolist()]
        wanted = [after - done for done, after in itertools.pairwise(upto)]
        return {run: of_run[:n] for run, (of_run, n) in enumerate(zip(batches, wanted, strict=True)) if n}

    @cached_property
    def n_pilot_images(self) -> int:
        """Images of the pilot."""
        return sum(len(batch) for batches in self.pilot.values() for batch in batches)


class KeptMaps:
    """Maps of the pilot's batches that a process keeps until their sums are taken.

    The same batch of images gives the same bits again, so keeping its maps changes no result.

    Parameters
    ----------
    source : where maps come from
    n_bytes : bytes to keep
    loader_workers : threads that read images
    """

    def __init__(self, source: ActivationSource, n_bytes: int, loader_workers: int) -> None:
        self._source, self._free, self._workers = source, n_bytes, loader_workers
        self._kept: dict[bytes, Maps] = {}

    def read(self, batches: list[Indices], keep: bool = False) -> Iterator[tuple[Indices, Maps]]:
        """Yield the indices and maps of batches; what is kept of them is forgotten, or kept if it fits."""
        missing = [batch for batch in batches if batch.tobytes() not in self._kept]
        computed = read_batches(self._source.images, missing, self._workers if len(missing) > 1 else 0)
        for batch in batches:
            maps = self._kept.pop(batch.tobytes(), None)
            if maps is None:
                _, images = next(computed)
                maps = self._source.maps(images, batch)
            else:
                self._free += map_bytes(maps)
            if keep and map_bytes(maps) <= self._free:
                self._free -= map_bytes(maps)
                self._kept[batch.tobytes()] = maps
            yield batch, maps


def map_bytes(maps: Maps) -> int:
    """Bytes of the maps of a batch, arrays or tensors."""
    return sum(4 * math.prod(values.shape) for values in maps.values())


def by_group(
    run: range, sizes: Callable[[int], int], batches: Iterator[tuple[Indices, Maps]]
) -> Iterator[tuple[int, Iterator[tuple[Indices, Maps]]]]:
    """Yield each group of a run with its batches; ``sizes`` gives the number of images of a group."""
    if len(run) == 1:
        yield run.start, batches
        return
    for indices, maps in batches:
        start = 0
        for group in run:
            rows = slice(start, start + sizes(group))
            start = rows.stop
            part: dict[tuple[str, str], Any] = {key: values[rows] for key, values in maps.items()}
            yield group, iter([(indices[rows], part)])
