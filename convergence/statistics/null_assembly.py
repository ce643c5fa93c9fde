"""The sums of pseudo-nets over both halves of the image groups, read from partial results in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.io import hdf5
from convergence.statistics.activation_source import JoinedUnits
from convergence.statistics.null_group_sums import NullVectors
from convergence.statistics.null_sums import NullSums

Float64 = npt.NDArray[np.float64]


class NullAssembly:
    """The sums of pseudo-nets of one comparison.

    Parameters
    ----------
    joined : its members, of which at least one has pseudo-nets
    sums_of : opens the partial result of the sums of a group
    """

    def __init__(
        self, joined: JoinedUnits, n_draws: int, n_groups: int, sums_of: Callable[[int], AbstractContextManager[Any]]
    ) -> None:
        self._joined, self._n_draws, self._n_groups, self._sums_of = joined, n_draws, n_groups, sums_of
        has_pseudo = np.array([kind == "pre-activations" for kind in joined.null_kind])
        self._units = np.flatnonzero(np.repeat(has_pseudo, joined.widths))

    def sums(self, products: Any, own: Any) -> NullSums:
        """All sums: arrays in memory, and the two matrices as given."""
        n_units = self._joined.n_units
        count, totals = np.zeros(2, np.int64), {key: np.zeros((2, n_units)) for key in ("real_sums", "real_squares")}
        sums = np.zeros((2, self._n_draws, n_units))
        for group in range(self._n_groups):
            with self._sums_of(group) as file:
                values = hdf5.read_array(file[self._joined.name]["null"], "vectors")
            found = NullVectors.of(values, n_units, self._n_draws)
            count[group % 2] += int(found.n_samples[0])
            for key, total in totals.items():
                total[group % 2] += getattr(found, key)
            sums[group % 2][:, self._units] += found.sums
        exponent, shift = np.zeros((self._n_draws, n_units), np.int64), np.zeros((self._n_draws, n_units))
        exponent[:, self._units], shift[:, self._units] = found.exponent, found.shift  # the same for all groups
        unit_net = np.repeat(np.arange(len(self._joined.nets), dtype=np.int32), self._joined.widths)
        return NullSums(
            unit_net=unit_net, count=count, sums=sums, real_exponent=found.real_exponent.astype(np.int64),
            exponent=exponent, shift=shift, products=products, own=own, **totals,
        )  # fmt: skip

    def products(self, index: hdf5.Index) -> Float64:
        """Rows (n, n_units) of real units times the pseudo-units of half and draw ``index[:2]``."""
        half, draw, rows = index
        assert isinstance(rows, slice)
        out = np.zeros((rows.stop - rows.start, self._joined.n_units))
        n = len(self._units)
        start = int(draw) * n  # type: ignore[arg-type]
        out[:, self._units] = self._total(half, "products", lambda stored: stored[start : start + n, rows]).T
        return out

    def own(self, index: hdf5.Index) -> Float64:
        """Rows (n, widest) of pseudo-units times those of the same member, of half and draw ``index[:2]``."""
        half, draw, rows = index
        assert isinstance(rows, slice)
        out = np.zeros((rows.stop - rows.start, max(self._joined.widths)))
        places = np.flatnonzero((self._units >= rows.start) & (self._units < rows.stop))
        if len(places):
            start = int(draw) * len(self._units)  # type: ignore[arg-type]
            block = slice(start + places[0], start + places[-1] + 1)
            found = self._total(half, "own", lambda stored: stored[block])
            out[self._units[places] - rows.start, : found.shape[1]] = found
        return out

    def _total(self, half: Any, key: str, read: Callable[[hdf5.LargeArray], npt.NDArray[Any]]) -> Float64:
        """Sum of a part of a matrix over the groups of a half."""
        total: Float64 | None = None
        for group in range(int(half), self._n_groups, 2):
            with self._sums_of(group) as file:
                part = read(hdf5.large_array(file[self._joined.name]["null"], key)).astype(np.float64)
            total = part if total is None else total + part
        assert total is not None
        return total
