"""The tasks of an analysis: groups of steps of one subject, a pair of nets or all nets of a comparison.

A fast subject is one task. The steps of others are grouped, level by level, into tasks of about
:data:`~convergence.analysis.cost.TOGETHER` seconds, and a last task combines their parts. The grouping does not
change results.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from convergence.analysis import cost
from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.few_to_one import WEIGHTS_BYTES
from convergence.analysis.net_sums import KEPT_BYTES, NETS_BYTES, net_bytes
from convergence.analysis.nets import nets_steps
from convergence.analysis.pair import pair_steps, shape_of
from convergence.analysis.steps import PairShape, Step, levels
from convergence.config.stages import AnalysisConfig
from convergence.statistics.file import ComparisonSums

BASE_BYTES = 400e6
"""Memory of a worker's libraries."""
PAIR_MATRICES = 40
"""Matrices of the wider net's width² that a step on a pair has in memory at its peak: moments, halves, eigenvectors."""
WEIGHT_ARRAYS = 4
"""Arrays of weights, targets × penalties × predictors, that fitting and scoring a range of targets has in memory."""
JOINT_MATRICES = 8
"""The same of all nets of a comparison joined."""


@dataclass(frozen=True)
class Subject:
    """A comparison and two of its nets; "" and "" for all nets."""

    comparison: str
    x: str = ""
    y: str = ""

    def __str__(self) -> str:
        return f"{self.comparison} {self.x}|{self.y}" if self.x else f"{self.comparison} all nets"


@dataclass(frozen=True)
class Task:
    """Steps that one worker computes in one go.

    Attributes
    ----------
    steps : to compute, in order; those before the last task of a subject leave a part each
    final : whether it combines the parts and writes the result of the subject
    after : positions of tasks that have to be finished before
    """

    subject: Subject
    steps: tuple[Step, ...]
    final: bool
    after: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """Expected, on one core."""
        return sum(step.seconds for step in self.steps)

    @property
    def method(self) -> str:
        """Name under which its time is reported: the method of its longest step."""
        if self.final:
            return "whole pairs" if self.subject.x and self.steps else "folding in" if self.subject.x else "all nets"
        return max(self.steps, key=lambda step: step.seconds).method

    def __str__(self) -> str:
        if self.final:
            return str(self.subject)
        named = self.steps[0].key if len(self.steps) == 1 else f"{self.steps[0].key} … {self.steps[-1].key}"
        return f"{self.subject}: {named}"


@dataclass(frozen=True)
class Plan:
    """All tasks of an analysis in an order of execution, and the memory of the largest one.

    Attributes
    ----------
    tasks : of all comparisons
    memory : bytes of a worker with one thread; :func:`shared_bytes` of it is shared by its threads
    """

    tasks: tuple[Task, ...]
    memory: float

    @property
    def seconds(self) -> float:
        """Expected, on one core."""
        return sum(task.seconds for task in self.tasks)


def pair_memory(shape: PairShape, config: AnalysisConfig, n_nets: int = 2, n_images: int = 0) -> float:
    """Bytes of a worker at the peak of a pair of ``n_nets`` nets of a comparison, with ``n_images`` stored images."""
    n_x, n_y = shape.n_x, shape.n_y
    products = 8.0 * shape.n_groups * n_x * n_y
    of_net = net_bytes(shape.n, shape.n_groups, n_images)
    weights = 8.0 * n_x * n_y * max(config.sparse.alphas, config.sparse.max_units)
    return (
        BASE_BYTES
        + (products if products <= KEPT_BYTES else 0.0)
        + max(2 * of_net, min(n_nets * of_net, NETS_BYTES))
        + (WEIGHT_ARRAYS * min(weights, WEIGHTS_BYTES) if shape.whole and config.sparse.enabled else 0.0)
        + PAIR_MATRICES * 8.0 * shape.n**2
    )


def plan(comparisons: Iterable[tuple[ComparisonSums, ActiveUnits]], config: AnalysisConfig) -> Plan:
    """The tasks of comparisons; reads no matrix."""
    tasks: list[Task] = []
    memory = BASE_BYTES
    for sums, live in comparisons:
        pairs: list[int] = []
        for x, y in itertools.combinations(sums.nets, 2):
            shape = shape_of(sums, live, x, y, config)
            tasks += _tasks(Subject(sums.name, x, y), pair_steps(shape, config), (), len(tasks))
            pairs.append(len(tasks) - 1)
            n_images = 0 if sums.subset_group is None else len(sums.subset_group)
            memory = max(memory, pair_memory(shape, config, len(sums.nets), n_images))
        steps = nets_steps(sums, live, config)
        tasks += _tasks(Subject(sums.name), steps, tuple(pairs), len(tasks))
        if steps:
            memory = max(memory, BASE_BYTES + JOINT_MATRICES * 8.0 * int(live.alive.sum()) ** 2)
    return Plan(tuple(tasks), memory)


def _tasks(subject: Subject, steps: list[Step], pairs: tuple[int, ...], first: int) -> list[Task]:
    """The tasks of a subject, numbered from ``first``; its last one comes after ``pairs`` as well."""
    if sum(step.seconds for step in steps) <= cost.TOGETHER:
        return [Task(subject, tuple(step for level in levels(steps) for step in level), True, pairs)]
    found: list[Task] = []
    where: dict[str, list[int]] = {}
    for level in levels(steps):
        for gathered in _gathered(level):
            before = {k for step in gathered for name in step.after for k in where.get(name, ())}
            for step in gathered:
                where.setdefault(step.group, []).append(first + len(found))
            found.append(Task(subject, gathered, False, tuple(sorted(before))))
    everything = tuple(range(first, first + len(found)))
    return [*found, Task(subject, (), True, (*everything, *pairs))]


def _gathered(steps: list[Step]) -> list[tuple[Step, ...]]:
    """Neighbours that come after the same together, as long as they take less than a task should."""
    found: list[list[Step]] = []
    for step in steps:
        if (
            found
            and found[-1][-1].after == step.after
            and sum(other.seconds for other in found[-1]) + step.seconds <= cost.TOGETHER
        ):
            found[-1].append(step)
        else:
            found.append([step])
    return [tuple(one) for one in found]
