"""The K images that excite each unit most, updated batch by batch.

A unit's value for an image is the maximum over all positions of its map, sampled or not. Ties between positions go to
the first position, ties between images to the lowest index. Non-finite values are ignored. The result does not depend
on the order or the division of the images, so results of image groups can be merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
NONE = -1
"""Image index that fills the list of a unit with fewer than K images."""


@dataclass
class TopImages:
    """The K images with the largest values of every unit, in descending order.

    Attributes
    ----------
    value : (n_units, K) float32; NaN without an image
    image : (n_units, K) int64 image indices; −1 without an image
    position : (n_units, K) int64 indices in the flattened map; −1 without an image
    """

    value: Float32
    image: Indices
    position: Indices

    @classmethod
    def zeros(cls, n_units: int, n_kept: int) -> TopImages:
        """Lists without images; 20 K bytes per unit."""
        shape = (n_units, n_kept)
        return cls(np.full(shape, np.nan, np.float32), np.full(shape, NONE), np.full(shape, NONE))

    def update(self, maps: Any, images: Indices) -> None:
        """Add maps (n_images, n_units, n_positions) float32 of new images: an array, or a tensor on any device."""
        if not isinstance(maps, np.ndarray):
            self._update_from_device(maps, images)
            return
        _update(np.ascontiguousarray(maps), np.asarray(images, np.int64), self.value, self.image, self.position)

    def _update_from_device(self, maps: Any, images: Indices) -> None:
        import torch

        finite = torch.where(torch.isfinite(maps), maps.float(), -torch.inf)
        value, position = finite.max(dim=2)  # ties: the first position
        _insert(
            np.ascontiguousarray(value.cpu().numpy()), np.ascontiguousarray(position.cpu().numpy()),
            np.asarray(images, np.int64), self.value, self.image, self.position,
        )  # fmt: skip

    def merge(self, other: TopImages) -> None:
        """Add the lists of the same units over other images."""
        _merge(other.value, other.image, other.position, self.value, self.image, self.position)

    def units(self, start: int, stop: int) -> TopImages:
        """The lists of the units ``start`` … ``stop − 1``."""
        return TopImages(self.value[start:stop], self.image[start:stop], self.position[start:stop])

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The attributes as a dictionary of arrays."""
        return {"value": self.value, "image": self.image, "position": self.position}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> TopImages:
        """The inverse of :meth:`to_arrays`."""
        return cls(arrays["value"], arrays["image"], arrays["position"])

    @classmethod
    def side_by_side(cls, parts: list[TopImages]) -> TopImages:
        """The units of several layers, concatenated in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def top_images_plain(maps: Float32, images: Indices, n_kept: int) -> TopImages:
    """The definition, for maps (n_images, n_units, n_positions) of all images."""
    n_units = maps.shape[1]
    out = TopImages.zeros(n_units, n_kept)
    for unit in range(n_units):
        found = []
        for row, image in enumerate(images):
            values = maps[row, unit]
            if np.isfinite(values).any():
                best = np.where(np.isfinite(values), values, -np.inf)
                found.append((-best.max(), int(image), int(best.argmax())))
        for k, (negative, image, position) in enumerate(sorted(found)[:n_kept]):
            out.value[unit, k], out.image[unit, k], out.position[unit, k] = -negative, image, position
    return out


@njit(nogil=True, boundscheck=False)
def _place(value, image, position, values, images, positions):  # type: ignore[no-untyped-def]
    """Insert an image into a unit's sorted list if it is among the K best."""
    n = len(values)
    last = n - 1
    if images[last] != NONE and not (value > values[last] or (value == values[last] and image < images[last])):
        return
    k = last
    while k > 0:
        before = k - 1
        if images[before] != NONE and not (
            value > values[before] or (value == values[before] and image < images[before])
        ):
            break
        values[k], images[k], positions[k] = values[before], images[before], positions[before]
        k = before
    values[k], images[k], positions[k] = value, image, position


@njit(nogil=True, boundscheck=False)
def _insert(value, position, images, values, kept, positions):  # type: ignore[no-untyped-def]
    """Insert maxima (n_images, n_units) and their positions; −inf marks a map without finite values."""
    for row in range(value.shape[0]):
        for unit in range(value.shape[1]):
            if value[row, unit] > -np.inf:
                _place(value[row, unit], images[row], position[row, unit], values[unit], kept[unit], positions[unit])


@njit(nogil=True, boundscheck=False)
def _merge(value, image, position, values, images, positions):  # type: ignore[no-untyped-def]
    """Insert all entries of one set of lists into another."""
    for unit in range(value.shape[0]):
        for k in range(value.shape[1]):
            if image[unit, k] != NONE:
                _place(
                    value[unit, k], image[unit, k], position[unit, k], values[unit], images[unit], positions[unit]
                )  # fmt: skip


@njit(nogil=True, boundscheck=False)
def _update(maps, images, values, kept, positions):  # type: ignore[no-untyped-def]
    """Compare each map's maximum with the smallest kept value; search its position only if it enters the list.

    The maximum is computed over bit patterns, which vectorises because integer maxima do not depend on order. Patterns
    of positive floats are ordered like their values, those of negative floats after flipping the magnitude bits. A
    pattern above that of infinity is a NaN: the map is then searched value by value.
    """
    n_positions = maps.shape[2]
    patterns = maps.view(np.int32)
    last = values.shape[1] - 1
    for row in range(maps.shape[0]):
        for unit in range(maps.shape[1]):
            line = patterns[row, unit]
            most = np.int32(-(2**31))
            for p in range(n_positions):
                most = max(most, line[p] ^ ((line[p] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
            if most < np.int32(0x7F800000) and kept[unit, last] != NONE:
                value = np.int32(most ^ ((most >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
                worst = values[unit, last]
                if value < worst or (value == worst and images[row] > kept[unit, last]):
                    continue
            best, place = np.float32(-np.inf), -1
            for p in range(n_positions):
                value = maps[row, unit, p]
                if value > best and value < np.inf:
                    best, place = value, p
            if place >= 0:
                _place(best, images[row], place, values[unit], kept[unit], positions[unit])
