"""Images of bytes as floats by a table of what each byte becomes: compiled, and without the interpreter's lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float32]


@njit(nogil=True, cache=True)
def look_up(image: npt.NDArray[Any], table: Floats, out: Floats) -> None:
    """Bytes (height, width, channels) as ``out`` (channels, height, width), by a table (channels, 256).

    However the bytes lie: interleaved, plane by plane, or mirrored, when a row is read forwards and then turned round.
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
