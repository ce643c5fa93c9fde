"""Accuracy and loss of nets per image group, with jackknife errors over the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.inference import Estimate, jackknife

Float64 = npt.NDArray[np.float64]
RANGE = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Scores:
    """Sums over the images of each group, (n_groups,) each; zero for groups that were not scored.

    Attributes
    ----------
    count : images
    correct : images whose class has the largest logit
    loss : cross-entropy in nats, summed
    """

    count: Float64
    correct: Float64
    loss: Float64

    @classmethod
    def zeros(cls, n_groups: int) -> Scores:
        """Sums over no images."""
        return cls(np.zeros(n_groups), np.zeros(n_groups), np.zeros(n_groups))

    @property
    def sums(self) -> tuple[Float64, Float64, Float64]:
        """``count``, ``correct`` and ``loss``."""
        return self.count, self.correct, self.loss

    def __add__(self, other: Scores) -> Scores:
        """Scores on the images of both, which must not overlap."""
        return Scores(self.count + other.count, self.correct + other.correct, self.loss + other.loss)

    def accuracy(self) -> Estimate:
        """Share of the images that are classified correctly."""
        return _ratio(self.correct, self.count).within(RANGE)

    def mean_loss(self) -> Estimate:
        """Mean cross-entropy in nats."""
        return _ratio(self.loss, self.count)

    def accuracy_minus(self, other: Scores) -> Estimate:
        """Accuracy minus another's on the same images, with the error of the difference."""
        return _ratio(self.correct - other.correct, self.count)

    def loss_minus(self, other: Scores) -> Estimate:
        """Mean loss minus another's on the same images, with the error of the difference."""
        return _ratio(self.loss - other.loss, self.count)

    def of_groups(self, groups: npt.NDArray[np.int64]) -> Scores:
        """The scores of some image groups; the others are zero."""
        kept = np.isin(np.arange(len(self.count)), groups)
        return Scores(self.count * kept, self.correct * kept, self.loss * kept)


def _ratio(total: Float64, count: Float64) -> Estimate:
    """A mean over images, jackknifed over the groups that have images."""
    some = count > 0
    total, count = total[some], count[some]
    all_total, all_count = total.sum(), count.sum()
    return jackknife(float(all_total / all_count), (all_total - total) / (all_count - count))


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of several scores on the same images, as over draws of a null or over nets."""
    return Scores(
        np.mean([s.count for s in scores], axis=0),
        np.mean([s.correct for s in scores], axis=0),
        np.mean([s.loss for s in scores], axis=0),
    )


def estimates(scores: Scores) -> tuple[Estimate, Estimate]:
    """Accuracy and mean loss."""
    return scores.accuracy(), scores.mean_loss()


def scored(scores: Scores) -> tuple[Estimate, Estimate, Scores]:
    """Accuracy, mean loss and the sums themselves: columns of most tables."""
    return scores.accuracy(), scores.mean_loss(), scores


def accuracy_with_null(scores: Scores, null: Sequence[Scores]) -> Estimate:
    """Accuracy with mean and standard deviation of draws of a null."""
    return _with_null(scores.accuracy(), [one.accuracy().value for one in null])


def loss_with_null(scores: Scores, null: Sequence[Scores]) -> Estimate:
    """Mean loss with mean and standard deviation of draws of a null."""
    return _with_null(scores.mean_loss(), [one.mean_loss().value for one in null])


def _with_null(estimate: Estimate, levels: Sequence[float]) -> Estimate:
    return estimate.against((float(np.mean(levels)), float(np.std(levels, ddof=1)))) if levels else estimate
