"""Results of merging as tables. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from convergence.inference import Estimate


@dataclass(frozen=True)
class NetPair:
    """Net ``y`` is brought to net ``x``."""

    x: str
    y: str

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.x} and {self.y}"


@dataclass(frozen=True)
class Alignment(NetPair):
    """Relative distance of the weights of both nets after an alignment."""

    method: str
    distance: float


@dataclass(frozen=True)
class PermutedUnit(NetPair):
    """The unit of ``y`` that an alignment moves to a position of a permutation group."""

    method: str
    group: str
    position: int
    unit: int


@dataclass(frozen=True)
class AveragedPair(NetPair):
    """Barriers on the line between two aligned nets, and the scores of the net in its middle.

    ``kind`` is "plain" or "repaired"; ``fit_loss`` is the loss of the middle on the training images of the fits.
    """

    method: str
    kind: str
    barrier: Estimate
    accuracy_barrier: Estimate
    accuracy: Estimate
    loss: Estimate
    fit_loss: float


@dataclass(frozen=True)
class LinePoint(NetPair):
    """Scores of the net at a step on the line from ``x`` (0) to the aligned ``y`` (1)."""

    method: str
    kind: str
    step: float
    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class RandomPermutation(NetPair):
    """Barriers and middle accuracy with the units of ``y`` in random order: chance."""

    kind: str
    draw: int
    barrier: float
    accuracy_barrier: float
    accuracy: float


@dataclass(frozen=True)
class RandomLinePoint(NetPair):
    """Scores at a step on the line with the units of ``y`` in random order."""

    kind: str
    draw: int
    step: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class ZippedPair(NetPair):
    """Scores of both nets zipped into one."""

    accuracy: Estimate
    loss: Estimate
    fit_loss: float


@dataclass(frozen=True)
class ZipDepth(NetPair):
    """Scores of two nets that share their first ``depth`` permutation groups; the logits are averaged."""

    depth: int
    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class ZippedGroup(NetPair):
    """Share of the merged pairs of units within one net, in the order of the layers."""

    group: str
    within: float


@dataclass(frozen=True)
class NotZipped(NetPair):
    """Why two nets cannot be zipped."""

    reason: str


@dataclass(frozen=True)
class MergedPair(NetPair):
    """The method of the lowest loss on training images, and its accuracy minus the nets' mean and their ensemble."""

    method: str
    folder: str
    fit_loss: float
    minus_ends: Estimate
    minus_ensemble: Estimate


@dataclass(frozen=True)
class MergedScore(NetPair):
    """Scores of the best merged net, net ``x``, net ``y`` and their ensemble."""

    net: str
    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class AllNetsScore:
    """Scores of all nets averaged into one, by alignment; "single" is the mean net, "ensemble" all of them."""

    nets: str
    alignment: str
    kind: str
    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class MergingResults:
    """The tables of ``functional/merge.h5``."""

    alignments: tuple[Alignment, ...] = ()
    permutations: tuple[PermutedUnit, ...] = ()
    averages: tuple[AveragedPair, ...] = ()
    lines: tuple[LinePoint, ...] = ()
    random: tuple[RandomPermutation, ...] = ()
    random_lines: tuple[RandomLinePoint, ...] = ()
    zipped: tuple[ZippedPair, ...] = ()
    zip_depths: tuple[ZipDepth, ...] = ()
    zipped_groups: tuple[ZippedGroup, ...] = ()
    not_zipped: tuple[NotZipped, ...] = ()
    merged: tuple[MergedPair, ...] = ()
    merged_scores: tuple[MergedScore, ...] = ()
    all_nets: tuple[AllNetsScore, ...] = ()

    @property
    def pairs(self) -> list[str]:
        """Names of the pairs, in the order of the config."""
        return list(dict.fromkeys(row.name for row in self.alignments))
