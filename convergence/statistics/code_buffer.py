"""Numbers of bins, gathered to arrays of equally many samples while images are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
CODES_SAMPLES = 65536
"""Samples of one array of bin numbers, unless they would take more than ``CODES_BYTES``."""
CODES_BYTES = 1 << 26
LEAST_SAMPLES = 8192
"""Samples of one array at least, those that are counted at a time."""


class CodeBuffer:
    """Gathers the bin numbers of one image group; an array is overwritten by the next one.

    Parameters
    ----------
    n_units, n_samples : units and all samples of the group
    """

    def __init__(self, n_units: int, n_samples: int) -> None:
        self._buffer = np.empty((n_units, min(n_samples, samples_gathered(n_units))), np.uint8)
        self._n_filled = self._n_arrays = 0

    def add(self, codes: Codes) -> Iterator[tuple[int, Codes]]:
        """Add bin numbers (n_units, n); yield the number and the content of each array that is full."""
        start = 0
        while start < codes.shape[1]:
            n = min(codes.shape[1] - start, self._buffer.shape[1] - self._n_filled)
            self._buffer[:, self._n_filled : self._n_filled + n] = codes[:, start : start + n]
            self._n_filled += n
            start += n
            if self._n_filled == self._buffer.shape[1]:
                yield from self.finish()

    def finish(self) -> Iterator[tuple[int, Codes]]:
        """Yield what is gathered, if anything."""
        if self._n_filled:
            yield self._n_arrays, self._buffer[:, : self._n_filled]
            self._n_arrays += 1
            self._n_filled = 0


def samples_gathered(n_units: int) -> int:
    """Samples of one array of bin numbers of ``n_units`` units."""
    return min(CODES_SAMPLES, max(LEAST_SAMPLES, CODES_BYTES // n_units))
