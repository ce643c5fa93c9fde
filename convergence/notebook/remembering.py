"""Nets that are read once: a source that remembers activations of a first pass, within bounds, for a second one.

The second pass reads the same batches, so what is remembered are the same bits. What does not fit is computed again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.networks import PRE_ACTIVATIONS
from convergence.registry import load_object
from convergence.statistics.activation_source import Maps
from convergence.statistics.sampling import Indices
from convergence.statistics.torch_source import NetSource

SHARE = 0.25
"""Share of the free memory in which activations are remembered."""
MOST = 4 << 30
"""Bytes of activations that are remembered at most."""


def memory_budget() -> int:
    """Bytes of activations to remember."""
    return int(min(MOST, SHARE * load_object("hpc.dask_executor:free_memory")()))


class RememberingSource(NetSource):
    """A source of nets that remembers the maps of batches on the host.

    Attributes
    ----------
    budget : bytes that are left
    second_pass : whether batches are read for the second time; what was remembered of a batch is then forgotten
    """

    budget = 0
    second_pass = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._kept: dict[bytes, Maps] = {}
        self._last: tuple[bytes, Maps] | None = None

    def maps(self, images: npt.NDArray[Any], indices: Indices, weights: str | None = None) -> Maps:
        key = indices.tobytes()
        if weights is not None:
            return super().maps(images, indices, weights)
        if self.second_pass:
            self._last = None
            return self._kept.pop(key, None) or super().maps(images, indices)
        if self._last is not None and self._last[0] == key:
            return self._last[1]  # the first batch is read three times in a row: twice for shifts, once for its sums
        found = super().maps(images, indices)
        self._last = key, found
        self._remember(key, {at: maps for at, maps in found.items() if not at[1].startswith(PRE_ACTIVATIONS)})
        return found

    def _remember(self, key: bytes, maps: Maps) -> None:
        if key in self._kept or not all(isinstance(values, np.ndarray) for values in maps.values()):
            return
        n_bytes = sum(values.nbytes for values in maps.values())
        if n_bytes <= self.budget:
            self.budget -= n_bytes
            self._kept[key] = maps
