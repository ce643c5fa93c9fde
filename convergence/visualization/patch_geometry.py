"""The receptive field of a position in an image, and the smallest part of the image that determines its value.

The front part of a net can be run on parts of images. A position keeps its exact value if the part begins a whole
number of strides from the border of the image, contains the receptive field as far as the image does, and ends with the
image where the field extends beyond it. Parts have few sizes, so that many of them make a batch; for the first layers
they are hundreds of times smaller than the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.visualization.receptive import Pair, ReceptiveField

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PatchGeometry:
    """Receptive fields of the positions of a layer.

    Attributes
    ----------
    field : receptive field
    map_shape : (height, width) of the layer's map; (n, 1) for tokens, (1, 1) for layers without positions
    image : (height, width)
    """

    field: ReceptiveField
    map_shape: Pair
    image: Pair

    @property
    def kind(self) -> str:
        """``"whole"`` if the receptive field of every position is the whole image, else ``"conv"``."""
        return "whole" if self.field.sees_all(self.map_shape, self.image) else "conv"

    @property
    def size(self) -> Pair:
        """(height, width) of the receptive field in pixels."""
        return self.image if self.kind == "whole" else self.field.size

    def boxes(self, positions: Indices) -> Indices:
        """Receptive fields of positions (n, 2): (n, 4) of y0, x0, y1, x1, not clipped to the image."""
        if self.kind == "whole":
            return np.broadcast_to(np.array([0, 0, *self.image]), (len(positions), 4)).astype(np.int64)
        start = positions * self.field.stride - np.array(self.field.padding)
        return np.concatenate([start, start + self.field.size], axis=1)

    def parts(self, positions: Indices) -> tuple[Indices, Indices]:
        """Boxes (n, 4) of the parts that determine the values at positions (n, 2), and the positions in these parts."""
        boxes, within = np.empty((len(positions), 4), np.int64), positions.copy()
        for axis in range(2):
            first, last, inner = self._parts_along(axis, positions[:, axis])
            boxes[:, axis], boxes[:, axis + 2], within[:, axis] = first, last, inner
        return boxes, within

    def central(self) -> Indices:
        """(2,) the central position of the map, whose receptive field extends least beyond the image."""
        return np.array([n // 2 for n in self.map_shape])

    def batches(self, positions: Indices, n_most: int) -> Iterator[tuple[Indices, Indices, Indices]]:
        """Yield (rows, boxes, positions in the parts) of at most ``n_most`` positions with parts of one size."""
        boxes, within = self.parts(positions)
        sizes = boxes[:, 2:] - boxes[:, :2]
        for size in np.unique(sizes, axis=0):
            rows = np.flatnonzero((sizes == size).all(axis=1))
            for start in range(0, len(rows), n_most):
                some = rows[start : start + n_most]
                yield some, boxes[some], within[some]

    def _parts_along(self, axis: int, position: Indices) -> tuple[Indices, Indices, Indices]:
        side = self.image[axis]
        nothing = np.zeros_like(position)
        if self.field.whole:
            return nothing, nothing + side, position
        n, step, padding = self.field.size[axis], self.field.stride[axis], self.field.padding[axis]
        start = position * step - padding
        offset = -padding % step
        part = n + offset
        if part >= side:
            return nothing, nothing + side, position
        last_part = (side - part) // step * step
        inside = start - offset
        first = np.where(start < 0, 0, np.where(start + n > side, last_part, inside))
        last = np.where(start < 0, part, np.where(start + n > side, side, inside + part))
        return first, last, position - first // step
