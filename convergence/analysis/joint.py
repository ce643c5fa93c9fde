"""Correlations of all live units of some nets, joined, from all image groups, some, or all but one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from convergence.analysis.active_units import ActiveUnits
from convergence.statistics.file import ComparisonSums
from convergence.statistics.moments import correlation, covariance

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class JointCorrelations:
    """The joined live units of nets in the order given.

    Attributes
    ----------
    units : (n,) indices along the comparison's axis
    net_of_unit : (n,) index into the nets given
    """

    def __init__(self, sums: ComparisonSums, live: ActiveUnits, nets: Sequence[str]) -> None:
        self._sums = sums
        of_nets = [sums.units(net)[live.alive[sums.units(net)]] for net in nets]
        self.units = np.concatenate(of_nets)
        self.net_of_unit = np.repeat(np.arange(len(nets)), [len(units) for units in of_nets])
        self._products: Float64 | None = None

    @property
    def n_groups(self) -> int:
        """Image groups."""
        return len(self._sums.group_count)

    def pooled(self) -> Float64:
        """(n, n) over all groups."""
        return self._correlation(np.arange(self.n_groups), self._total())

    def without(self) -> Iterator[Float64]:
        """(n, n) over all groups but one, for each in turn."""
        for g in range(self.n_groups):
            yield self.without_group(g)

    def without_group(self, g: int) -> Float64:
        """(n, n) over all groups but ``g``."""
        kept = np.delete(np.arange(self.n_groups), g)
        return self._correlation(kept, np.subtract(self._total(), self._of_group(g)))

    def half(self, which: int) -> Float64:
        """(n, n) over the even groups (0) or the odd ones (1)."""
        groups = np.arange(self.n_groups)[which::2]
        products = self._of_group(groups[0])
        for g in groups[1:]:
            products += self._of_group(g)
        return self._correlation(groups, products)

    def _total(self) -> Float64:
        if self._products is None:
            self._products = self._of_group(0)
            for g in range(1, self.n_groups):
                self._products += self._of_group(g)
        return self._products

    def _of_group(self, g: int) -> Float64:
        """(n, n) products of a group, read in the span of the units that are wanted."""
        first, last = int(self.units.min()), int(self.units.max()) + 1
        own = self.units - first
        return np.asarray(self._sums.group_products[g, first:last, first:last])[np.ix_(own, own)]

    def _correlation(self, groups: Indices, products: Float64) -> Float64:
        n = float(self._sums.group_count[groups].sum())
        found = correlation(covariance(n, self._sums.group_sums[groups][:, self.units].sum(axis=0), products))
        found = (found + found.T) / 2
        np.fill_diagonal(found, 1.0)
        return found
