"""Convert images of bytes to floats by a look-up table; compiled, without the interpreter's lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.kernels.jit import njit

Floats = npt.NDArray[np.float32]


@njit(nogil=True)
def look_up(image: npt.NDArray[Any], table: Floats, out: Floats) -> None:
    """Convert bytes (height, width, channels) to ``out`` (channels, height, width) by a table (channels, 256).

    Works for any memory layout: interleaved, planar or mirrored. Mirrored rows are read forwards and then reversed.
    """
    height, width, n_channels = image.shape
    mirrored = image.strides[1] < 0
    forwards = image[:, ::-1] if mirrored else image
    line = np.empty(width, np.float32)
    backwards = line[::-1]
    for row in range(height):
        for channel in range(n_channels):
            if mirrored:
                for column in range(width):
                    line[column] = table[channel, forwards[row, column, channel]]
                for column in range(width):
                    out[channel, row, column] = backwards[column]
            else:
                for column in range(width):
                    out[channel, row, column] = table[channel, forwards[row, column, channel]]
