"""Means over the positions of maps."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


def mean_over_positions(maps: Float32) -> Float32:
    """Means (n_images, n_units, 1) of maps (n_images, n_units, n_positions): added in float64, position by position.

    The order of arithmetic is that of the positions, so that a mean does not depend on which images come with it.
    """
    out = np.empty((*maps.shape[:2], 1), np.float32)
    _mean(maps, out)
    return out


def mean_over_positions_plain(maps: Float32) -> Float32:
    """The definition."""
    return maps.astype(np.float64).mean(axis=2, keepdims=True).astype(np.float32)


@nb.njit(cache=True, nogil=True)
def _mean(maps, out):  # type: ignore[no-untyped-def]
    for image in range(maps.shape[0]):
        for unit in range(maps.shape[1]):
            total = 0.0
            for position in range(maps.shape[2]):
                total += maps[image, unit, position]
            out[image, unit, 0] = total / maps.shape[2]
