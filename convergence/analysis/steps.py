"""Methods of the analysis, cut into steps that any worker can compute independently.

A method derives its steps from the shape of the pair alone; planning reads no matrix. The arithmetic of a step depends
only on the pair, the config and the parts of earlier steps, so that results do not depend on workers, order or kills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from convergence.inference import Estimate, jackknife, jackknife_error

Tree = dict[str, Any]
Numbers = dict[str, Any]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairShape:
    """Input of the planning: active units of both nets, image groups, and contents of the file.

    ``whole``: the comparison joins one layer of every net; ``information`` and ``histograms``: it holds mutual
    information, and histograms of its units; ``null_draws``: draws of the null with y, and with x in another basis;
    ``rotates_sums``: some of them rotate the sums, and more can be drawn; ``labels``: the file holds sums of classes.
    """

    n_x: int
    n_y: int
    n_groups: int
    whole: bool
    information: bool
    histograms: bool = True
    null_draws: tuple[int, int] = (0, 0)
    rotates_sums: bool = False
    labels: bool = False

    @property
    def n(self) -> int:
        """Units of the wider net."""
        return max(self.n_x, self.n_y)


@dataclass(frozen=True)
class Step:
    """A part of a method that one worker computes in one go.

    Attributes
    ----------
    method, name : of the computation
    first, last : range of targets, replicates or draws
    which : index among several steps of the same range
    after : ``method/name`` of steps that have to be finished before
    seconds : expected time on one core
    """

    method: str
    name: str
    first: int = 0
    last: int = 0
    which: int = 0
    after: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def group(self) -> str:
        """The name in ``after`` of other steps."""
        return f"{self.method}/{self.name}"

    @property
    def key(self) -> str:
        """The name in messages and on disk."""
        part = f" {self.which}" if self.which else ""
        part += f" {self.first}–{self.last - 1}" if self.last else ""
        return f"{self.method} {self.name}{part}"


class Parts:
    """Results of the finished steps of a pair, by method and name, in the order of the steps."""

    def __init__(self, steps: Iterable[Step], read: Callable[[Step], Tree]) -> None:
        self._steps: dict[tuple[str, str], list[Step]] = {}
        for step in steps:
            self._steps.setdefault((step.method, step.name), []).append(step)
        self._read = read

    def steps(self, method: str, name: str) -> list[Step]:
        """The steps of a name; none if the method has none."""
        return self._steps.get((method, name), [])

    def of(self, method: str, name: str) -> list[Tree]:
        """Results of every step of a name."""
        return [self._read(step) for step in self.steps(method, name)]

    def one(self, method: str, name: str) -> Tree:
        """Result of the only step of a name."""
        (step,) = self.steps(method, name)
        return self._read(step)


class Method(Protocol):
    """One part of the results of a pair."""

    name: str

    def compute(self, step: Step, parts: Parts) -> Tree:
        """Result of a step: arrays and numbers by name."""
        ...

    def tree(self, parts: Parts) -> Tree:
        """Results of the method from the results of its steps; fast."""
        ...


class Computation(Protocol):
    """Two nets, or all nets of a comparison, with the steps of their analysis."""

    steps: list[Step]

    def compute(self, step: Step, parts: Parts) -> Tree:
        """Result of a step."""
        ...

    def tree(self, parts: Parts) -> Tree:
        """All results."""
        ...


def computed(subject: Computation) -> Tree:
    """All results, computed step by step in this process."""
    left: dict[Step, Tree] = {}
    parts = Parts(subject.steps, left.__getitem__)
    for level in levels(subject.steps):
        for step in level:
            left[step] = subject.compute(step, parts)
    return subject.tree(parts)


def levels(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps without predecessors, then their successors, level by level."""
    found: list[list[Step]] = []
    left = list(steps)
    while left:
        waiting = {step.group for step in left}
        ready = [step for step in left if not waiting.intersection(step.after)]
        if not ready:
            raise ValueError(f"steps wait for each other: {', '.join(sorted(waiting))}")
        left = [step for step in left if waiting.intersection(step.after)]
        found.append(ready)
    return found


class Replicated:
    """Numbers from all image groups and without each group: estimates and errors by name."""

    def __init__(self, values: Numbers, without: Sequence[Numbers]) -> None:
        self.values, self._without = values, without

    @classmethod
    def of(cls, parts: Sequence[Tree]) -> Replicated:
        """From the results of :func:`replicates` in several steps, in their order."""
        found = [numbers for part in parts for _, numbers in sorted(part.items(), key=lambda item: int(item[0]))]
        return cls(found[0], found[1:])

    def estimate(self, name: str, smooth: bool = True) -> Estimate:
        """A number with its interval; see :func:`~convergence.inference.jackknife` for ``smooth``."""
        return jackknife(float(self.values[name]), [float(numbers[name]) for numbers in self._without], smooth)

    def error(self, name: str) -> Float64:
        """Standard errors of an array of numbers, or of one."""
        return jackknife_error(np.stack([np.asarray(numbers[name], dtype=np.float64) for numbers in self._without]))

    def of_all(self, name: str) -> list[Any]:
        """The number without each group."""
        return [numbers[name] for numbers in self._without]


def ranges(n: int, seconds_each: float, goal: float) -> list[tuple[int, int]]:
    """0 … n cut into equal ranges of about ``goal`` seconds, at least one of each."""
    n_ranges = min(max(n, 1), max(1, round(n * seconds_each / goal)))
    edges = [n * k // n_ranges for k in range(n_ranges + 1)]
    return list(pairwise(edges))


def replicates(step: Step, numbers: Callable[[int | None], Numbers]) -> Tree:
    """Numbers of the replicates ``first`` … ``last`` − 1 of a step: 0 is of all groups, k of all but group k − 1."""
    return {str(k): numbers(None if k == 0 else k - 1) for k in range(step.first, step.last)}


def full(length: int, rows: npt.NDArray[Any], values: npt.NDArray[Any], empty: float = -1) -> npt.NDArray[Any]:
    """``values`` at ``rows`` of an array of ``length``, ``empty`` elsewhere."""
    out = np.full(length, empty, dtype=values.dtype)
    out[rows] = values
    return out


def to_units(positions: npt.NDArray[Any], units: Indices) -> Indices:
    """Convert positions among active units to unit indices; −1 stays."""
    return np.where(positions >= 0, units[positions], -1)


def joined_columns(parts: Sequence[Mapping[str, Any]], name: str) -> npt.NDArray[Any]:
    """Join an array that was cut into ranges of its last axis."""
    return np.concatenate([np.asarray(part[name]) for part in parts], axis=-1)
