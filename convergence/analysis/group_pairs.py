"""HSIC of two layers from pairs of different image groups, which have no image in common.

For C_g = Σ (x − x̄_g)(y − ȳ_g)ᵀ over the samples of group g, with units divided by their standard deviations,

    HSIC = Σ_{g≠h} ⟨C_g, C_h⟩ = ‖Σ_g C_g‖² − Σ_g ‖C_g‖² .

Both terms follow from the matrices Σ C_g and Σ C_g ∘ C_g of raw units, so a replicate without a group only subtracts
the terms of that group, whatever its standard deviations are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class GroupPairs:
    """Products of units x and y, centred in each of ``n_groups`` groups; ``centred(g)`` gives C_g (n_x, n_y)."""

    def __init__(self, centred: Callable[[int], Float64], n_groups: int) -> None:
        self._centred, self._n_groups = centred, n_groups
        self._total: tuple[Float64, Float64] | None = None

    def hsic(self, groups: Indices, scale_x: Float64, scale_y: Float64) -> float:
        """HSIC over some groups of units that are multiplied by ``scale_x`` (n_x,) and ``scale_y`` (n_y,)."""
        products, squares = self._sums(groups)
        whole = (products * scale_x[:, None] * scale_y) ** 2
        return float(whole.sum() - scale_x**2 @ squares @ scale_y**2)

    def _sums(self, groups: Indices) -> tuple[Float64, Float64]:
        """Σ C_g and Σ C_g ∘ C_g over some groups."""
        others = np.delete(np.arange(self._n_groups), groups)
        if len(others) > len(groups):
            return self._add(groups)
        if self._total is None:
            self._total = self._add(np.arange(self._n_groups))
        if not len(others):
            return self._total
        products, squares = self._add(others)
        return self._total[0] - products, self._total[1] - squares

    def _add(self, groups: Indices) -> tuple[Float64, Float64]:
        products = np.array(self._centred(int(groups[0])))
        squares = products**2
        for g in groups[1:]:
            centred = self._centred(int(g))
            products += centred
            squares += centred**2
        return products, squares


def hsic_plain(x: list[Float64], y: list[Float64]) -> float:
    """The definition, from the standardised samples (n_units, n) of each group."""
    products = [(a - a.mean(1, keepdims=True)) @ (b - b.mean(1, keepdims=True)).T for a, b in zip(x, y, strict=True)]
    return float(sum((a * b).sum() for g, a in enumerate(products) for h, b in enumerate(products) if g != h))
