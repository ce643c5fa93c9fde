"""What the results of a pair are made of: methods, each cut into steps that any worker can compute on its own.

A method names its steps from the shape of the pair alone, so that whoever hands them out has read no matrix. A step's
arithmetic depends on nothing but the pair, the config and the parts of earlier steps: which worker computes it, with
which others, before or after a kill, changes no bit. The last step of a method puts its parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from convergence.uncertainty import Estimate, jackknife, jackknife_error

Tree = dict[str, Any]
Numbers = dict[str, Any]
Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairShape:
    """All that steps are planned from: live units of both nets, image groups, and what the file has.

    ``whole``: the comparison joins one layer of every net; ``information`` and ``histograms``: it holds mutual
    information, and histograms of its units.
    """

    n_x: int
    n_y: int
    n_groups: int
    whole: bool
    information: bool
    histograms: bool = True

    @property
    def n(self) -> int:
        """Units of the wider net."""
        return max(self.n_x, self.n_y)


@dataclass(frozen=True)
class Step:
    """A piece of a method.

    Attributes
    ----------
    method, name : what is computed
    first, last : the range of it: targets, replicates or draws
    which : one of several of the same range: a block, a share
    after : ``method/name`` of steps whose parts it reads, or of which it wants to come after
    seconds : expected, on one core; only its size matters
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
        """What ``after`` calls it."""
        return f"{self.method}/{self.name}"

    @property
    def key(self) -> str:
        """As it is named to people and on disk."""
        part = f" {self.which}" if self.which else ""
        part += f" {self.first}–{self.last - 1}" if self.last else ""
        return f"{self.method} {self.name}{part}"


class Parts:
    """What the steps of a pair left, by method and name, in the order of the steps."""

    def __init__(self, steps: Iterable[Step], read: Callable[[Step], Tree]) -> None:
        self._steps: dict[tuple[str, str], list[Step]] = {}
        for step in steps:
            self._steps.setdefault((step.method, step.name), []).append(step)
        self._read = read

    def steps(self, method: str, name: str) -> list[Step]:
        """The steps of a name; none if the method has none."""
        return self._steps.get((method, name), [])

    def of(self, method: str, name: str) -> list[Tree]:
        """What every step of a name left."""
        return [self._read(step) for step in self.steps(method, name)]

    def one(self, method: str, name: str) -> Tree:
        """What the only step of a name left."""
        (step,) = self.steps(method, name)
        return self._read(step)


class Method(Protocol):
    """One part of the results of a pair, made for a pair and a config."""

    name: str

    def compute(self, step: Step, parts: Parts) -> Tree:
        """What a step leaves: arrays and numbers by name."""
        ...

    def tree(self, parts: Parts) -> Tree:
        """The results as they are written, from the parts of all steps; takes no time worth a worker."""
        ...


class Subject(Protocol):
    """What is analysed: two nets, or all nets of a comparison."""

    steps: list[Step]

    def compute(self, step: Step, parts: Parts) -> Tree:
        """What a step leaves."""
        ...

    def tree(self, parts: Parts) -> Tree:
        """All results."""
        ...


def computed(subject: Subject) -> Tree:
    """All results of a subject, here and now: every step one after the other."""
    left: dict[Step, Tree] = {}
    parts = Parts(subject.steps, left.__getitem__)
    for level in levels(subject.steps):
        for step in level:
            left[step] = subject.compute(step, parts)
    return subject.tree(parts)


def levels(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps that come after none, then those that come after these, and so on."""
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
    """Numbers from all image groups, and without each: estimates and errors by name."""

    def __init__(self, values: Numbers, without: Sequence[Numbers]) -> None:
        self.values, self._without = values, without

    @classmethod
    def of(cls, parts: Sequence[Tree]) -> Replicated:
        """From what :func:`replicates` left in several steps, in their order."""
        found = [numbers for part in parts for _, numbers in sorted(part.items(), key=lambda item: int(item[0]))]
        return cls(found[0], found[1:])

    def estimate(self, name: str, smooth: bool = True) -> Estimate:
        """A number with its interval; see :func:`~convergence.uncertainty.jackknife` for what is not smooth."""
        return jackknife(float(self.values[name]), [float(numbers[name]) for numbers in self._without], smooth)

    def error(self, name: str) -> Float64:
        """Standard errors of an array of numbers, or of one."""
        return jackknife_error(np.stack([np.asarray(numbers[name], dtype=np.float64) for numbers in self._without]))

    def of_all(self, name: str) -> list[Any]:
        """The number without each group, as it is."""
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
    """Positions among live units to indices of units; −1 stays."""
    return np.where(positions >= 0, units[positions], -1)


def joined_columns(parts: Sequence[Mapping[str, Any]], name: str) -> npt.NDArray[Any]:
    """An array whose last axis was cut into ranges, whole again."""
    return np.concatenate([np.asarray(part[name]) for part in parts], axis=-1)
