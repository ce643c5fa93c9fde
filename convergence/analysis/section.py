"""A part of a pair's results: numbers of the pair's moments, made again without each image group for their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from convergence.similarity.pair import PairMoments
from convergence.uncertainty import Estimate, jackknife, jackknife_error

Tree = dict[str, Any]
Numbers = dict[str, Any]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Replicated:
    """Numbers from all image groups, and without each: estimates and errors by name."""

    def __init__(self, values: Numbers, without: Sequence[Numbers]) -> None:
        self.values, self._without = values, without

    def estimate(self, name: str, smooth: bool = True) -> Estimate:
        """A number with its interval; see :func:`~convergence.uncertainty.jackknife` for what is not smooth."""
        return jackknife(float(self.values[name]), [float(numbers[name]) for numbers in self._without], smooth)

    def error(self, name: str) -> Float64:
        """Standard errors of an array of numbers, or of one."""
        return jackknife_error(np.stack([np.asarray(numbers[name], dtype=np.float64) for numbers in self._without]))

    def of_all(self, name: str) -> list[Any]:
        """The number without each group, as it is."""
        return [numbers[name] for numbers in self._without]


class Section(Protocol):
    """One part of the results of a pair: ``numbers`` is asked for every replicate, ``tree`` once."""

    name: str

    def numbers(self, moments: PairMoments) -> Numbers:
        """What gets an error bar, from the moments of all groups or of all but one."""
        ...

    def tree(self, found: Replicated) -> Tree:
        """The results as they are written."""
        ...


def full(length: int, rows: npt.NDArray[Any], values: npt.NDArray[Any], empty: float = -1) -> npt.NDArray[Any]:
    """``values`` at ``rows`` of an array of ``length``, ``empty`` elsewhere."""
    out = np.full(length, empty, dtype=values.dtype)
    out[rows] = values
    return out


def to_units(positions: npt.NDArray[Any], units: Indices) -> Indices:
    """Positions among live units to indices of units; −1 stays."""
    return np.where(positions >= 0, units[positions], -1)
