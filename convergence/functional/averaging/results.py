"""Results of averaging as tables, and their means over repeats. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.functional.scores import RANGE, Scores, mean_scores
from convergence.inference import Estimate, mean_estimate

WHOLE = "whole"
INITS = ("same", "different")
ALIGNMENTS = ("none", "weight", "activation", "random")


@dataclass(frozen=True)
class AveragingStudy:
    """What all trainings have in common."""

    net: str
    network: str
    workers: int
    epochs: int
    run_epochs: int
    batch_size: int
    optimizer: str
    optimizer_state: str
    batch_statistics: str
    steps: int
    train_images: int
    split: str
    repeats: int
    cannot_permute: str


@dataclass(frozen=True)
class TrainingKey:
    """A training: its initial weights, the steps between averages ("whole": one at the end), alignment, repeat."""

    init: str
    interval: str
    align: str
    repeat: int


@dataclass(frozen=True)
class AveragedTraining(TrainingKey):
    """Steps and averages of a training, and the bytes that a worker sends, in all and for the alignment."""

    steps: int
    rounds: int
    bytes: float
    bytes_alignment: float


@dataclass(frozen=True)
class MovedUnits(TrainingKey):
    """Share of the units that change places before an average, mean over workers."""

    round: int
    share: float


@dataclass(frozen=True)
class ScoredAverage(TrainingKey):
    """Held-out scores of an average; at the first and the last one those of the workers before it, too.

    The null is the average of the same workers with their units in random order; ``gain`` is the accuracy of the
    average minus that of the workers.
    """

    round: int
    bytes: float
    accuracy: Estimate
    loss: Estimate
    scores: Scores
    workers_accuracy: Estimate | None = None
    workers_loss: Estimate | None = None
    workers_scores: Scores | None = None
    gain: Estimate | None = None
    gain_loss: Estimate | None = None


@dataclass(frozen=True)
class WorkerAccuracy(TrainingKey):
    """Held-out accuracy of one worker before an average."""

    round: int
    worker: int
    accuracy: float


@dataclass(frozen=True)
class ReferenceNet:
    """Held-out scores of "synchronous" training, "one_worker" alone, and the "ensemble" of workers that never meet."""

    repeat: int
    name: str
    accuracy: Estimate
    loss: Estimate
    scores: Scores
    rounds: int = 0
    bytes: float = 0.0


@dataclass(frozen=True)
class AveragingResults:
    """The tables of ``functional/average.h5``."""

    study: tuple[AveragingStudy, ...] = ()
    trainings: tuple[AveragedTraining, ...] = ()
    moved: tuple[MovedUnits, ...] = ()
    averages: tuple[ScoredAverage, ...] = ()
    workers: tuple[WorkerAccuracy, ...] = ()
    references: tuple[ReferenceNet, ...] = ()

    def mean_trainings(self) -> list[MeanTraining]:
        """Trainings averaged over repeats, by initial weights, alignment and steps between averages."""
        keys = dict.fromkeys((t.init, t.align, t.interval) for t in self.trainings)
        found = [self._mean_training(*key) for key in keys]
        return sorted(found, key=lambda t: (INITS.index(t.init), ALIGNMENTS.index(t.align), t.every))

    def mean_references(self) -> dict[str, MeanScore]:
        """Scores of the references averaged over repeats, by name."""
        names = dict.fromkeys(row.name for row in self.references)
        return {name: MeanScore.of([row for row in self.references if row.name == name]) for name in names}

    @property
    def synchronous_bytes(self) -> float:
        """Bytes that a worker sends where gradients are averaged at each step."""
        return next(row.bytes for row in self.references if row.name == "synchronous")

    def _mean_training(self, init: str, align: str, interval: str) -> MeanTraining:
        key = (init, interval, align)
        runs = sorted((t for t in self.trainings if (t.init, t.interval, t.align) == key), key=lambda t: t.repeat)
        moved = [[m.share for m in self.moved if _same(m, run)] for run in runs]
        points = [sorted((p for p in self.averages if _same(p, run)), key=lambda p: p.round) for run in runs]
        first, last = [own[0] for own in points], [own[-1] for own in points]
        before = [ReferenceNet(p.repeat, "", *_workers(p)) for p in first]
        return MeanTraining(
            init=init,
            align=align,
            every=runs[0].steps if interval == WHOLE else int(interval),
            whole=interval == WHOLE,
            rounds=runs[0].rounds,
            sent=runs[0].bytes,
            moved=(
                float(np.mean([m[0] for m in moved])),
                float(np.mean([np.array(m[1:]).mean() if len(m) > 1 else 0.0 for m in moved])),
            ),
            final=MeanScore.of(last),
            first=MeanScore.of(first),
            before=MeanScore.of(before),
            gain=mean_estimate([p.gain for p in first if p.gain is not None]),
        )


@dataclass(frozen=True)
class MeanScore:
    """Scores averaged over repeats.

    Attributes
    ----------
    accuracy, loss : means over repeats; intervals are over images
    lowest, highest : accuracies of single repeats, which differ in seeds and image order
    scores : mean sums of the repeats, for paired differences
    """

    accuracy: Estimate
    loss: Estimate
    lowest: float
    highest: float
    scores: Scores

    @classmethod
    def of(cls, repeats: Sequence[ScoredAverage | ReferenceNet]) -> MeanScore:
        """From one row per repeat."""
        accuracies = [row.accuracy for row in repeats]
        return cls(
            mean_estimate(accuracies).within(RANGE),
            mean_estimate([row.loss for row in repeats]),
            min(e.value for e in accuracies),
            max(e.value for e in accuracies),
            mean_scores([row.scores for row in repeats]),
        )

    def minus(self, other: MeanScore) -> Estimate:
        """Accuracy minus another's on the same images."""
        return self.scores.accuracy_minus(other.scores)


@dataclass(frozen=True)
class MeanTraining:
    """A training averaged over repeats.

    Attributes
    ----------
    init, align : as in the settings
    every : steps between two averages; the whole training for ``whole``
    whole : whether there was one average, at the end
    rounds, sent : averages, and bytes that a worker sent
    moved : share of units that changed places before the first average, and the mean over later ones
    final : the last average
    first, before : the first average, and the workers just before it
    gain : accuracy of the first average minus that of the workers before it
    """

    init: str
    align: str
    every: int
    whole: bool
    rounds: int
    sent: float
    moved: tuple[float, float]
    final: MeanScore
    first: MeanScore
    before: MeanScore
    gain: Estimate


def _same(row: TrainingKey, other: TrainingKey) -> bool:
    keys = [(r.init, r.interval, r.align, r.repeat) for r in (row, other)]
    return keys[0] == keys[1]


def _workers(point: ScoredAverage) -> tuple[Estimate, Estimate, Scores]:
    found = point.workers_accuracy, point.workers_loss, point.workers_scores
    assert found[0] is not None and found[1] is not None and found[2] is not None  # noqa: PT018
    return found[0], found[1], found[2]
