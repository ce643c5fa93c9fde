"""Results of compression as tables. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from convergence.functional.scores import Scores
from convergence.inference import Estimate


@dataclass(frozen=True)
class WholeNet:
    """A net before pruning: held-out scores, cost, and the training images that its moments come from."""

    net: str
    accuracy: Estimate
    loss: Estimate
    scores: Scores
    units: int
    parameters: int
    multiply_adds: int
    n_learning: int


@dataclass(frozen=True)
class PrunableGroup:
    """A permutation group whose units can be pruned, in the order of the layers; ``dead`` units carry no signal."""

    net: str
    group: str
    units: int
    dead: int
    consumers: str


@dataclass(frozen=True)
class SkippedGroup:
    """Why the units of a permutation group cannot be pruned."""

    net: str
    group: str
    reason: str


@dataclass(frozen=True)
class EliminatedUnit:
    """A step of the greedy order: the unit, and the expected relative change of what is read that it adds."""

    net: str
    group: str
    step: int
    unit: int
    loss: float


@dataclass(frozen=True)
class PrunedNet:
    """Held-out scores and cost of a pruned net; ``layer`` is empty where all layers were pruned at once.

    Random methods are means over draws; the null of ``accuracy`` is random pruning with the same folding.
    """

    net: str
    layer: str
    share: float
    method: str
    accuracy: Estimate
    loss: Estimate
    scores: Scores
    units: int
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class PrunedDraw:
    """Accuracy of one random choice of units."""

    net: str
    layer: str
    share: float
    method: str
    draw: int
    accuracy: float


@dataclass(frozen=True)
class PrunedDifference:
    """Accuracy of a method minus another's on the same images, at the saved share of all layers."""

    net: str
    share: float
    method: str
    against: str
    accuracy_minus: Estimate


@dataclass(frozen=True)
class CompressionResults:
    """The tables of ``functional/compress.h5``."""

    nets: tuple[WholeNet, ...] = ()
    groups: tuple[PrunableGroup, ...] = ()
    skipped: tuple[SkippedGroup, ...] = ()
    eliminations: tuple[EliminatedUnit, ...] = ()
    pruned: tuple[PrunedNet, ...] = ()
    draws: tuple[PrunedDraw, ...] = ()
    differences: tuple[PrunedDifference, ...] = ()
