"""Units, and labels that name the unit of each entry of a tensor.

Units are integers. Operations tie units that have to be permuted together, and one of them represents all. Labels of a
tensor are integers of its shape, with stride 0 along axes that they do not depend on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Labels = npt.NDArray[np.int64]


class TiedUnits:
    """Sets of units that are tied to each other.

    Attributes
    ----------
    producer : the module that computes each unit ("" for the channels of the images)
    """

    def __init__(self) -> None:
        self.producer: list[str] = []
        self._parent: list[int] = []

    def new(self, n: int, producer: str) -> Labels:
        """Make ``n`` units of a module."""
        start = len(self._parent)
        self._parent += range(start, start + n)
        self.producer += [producer] * n
        return np.arange(start, start + n)

    def tie(self, x: Labels, y: Labels) -> None:
        """Tie each unit of x to the unit of y in the same place."""
        for a, b in np.unique(np.stack([np.ravel(x), np.ravel(y)], axis=1), axis=0):
            first, second = sorted((self.find(int(a)), self.find(int(b))))
            self._parent[second] = first

    def find(self, unit: int) -> int:
        """The representative of all units tied to a unit."""
        while self._parent[unit] != unit:
            self._parent[unit] = self._parent[self._parent[unit]]
            unit = self._parent[unit]
        return unit

    def found(self, labels: Labels) -> Labels:
        """:meth:`find` of each."""
        return np.array([self.find(int(unit)) for unit in labels], dtype=np.int64)


def spread_labels(units: Labels, value: torch.Tensor, axis: int) -> torch.Tensor:
    """Labels of a tensor with units along one axis; the other axes have stride 0."""
    shape = [1] * value.ndim
    shape[axis] = len(units)
    return torch.from_numpy(units).view(shape).expand(value.shape)


def compact_labels(labels: Any) -> Any:
    """The same labels with stride 0 along axes that they do not depend on."""
    if isinstance(labels, list | tuple):
        return [compact_labels(one) for one in labels]
    for axis in range(labels.ndim):
        first = labels.narrow(axis, 0, 1)
        if labels.stride(axis) and bool((labels == first).all()):
            labels = first.expand_as(labels)
    return labels


def thin_labels(labels: torch.Tensor) -> Labels:
    """Labels without the axes of stride 0."""
    return np.asarray(labels[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.stride())].numpy())


def units_along(labels: torch.Tensor, axis: int) -> Labels | None:
    """(n,) labels along an axis, or None if they depend on other axes."""
    axis %= labels.ndim
    thin = labels[
        tuple(slice(0, 1) if stride == 0 and k != axis else slice(None) for k, stride in enumerate(labels.stride()))
    ]
    moved = thin.movedim(axis, 0).reshape(labels.shape[axis], -1)
    if bool((moved != moved[:, :1]).any()):
        return None
    return np.asarray(moved[:, 0].numpy())


def units_of_heads(labels: torch.Tensor | None) -> Labels | None:
    """(n_heads, n_units) labels of (n, heads, tokens, units), or of one head (n, tokens, units).

    None if they depend on other axes.
    """
    if labels is None or labels.ndim not in (3, 4):
        return None
    every = labels if labels.ndim == 4 else labels[:, None]
    first = every[:1, :, :1]
    if bool((every != first).any()):
        return None
    return np.asarray(first[0, :, 0].numpy())
