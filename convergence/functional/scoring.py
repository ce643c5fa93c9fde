"""How well nets answer, per image group, so that every accuracy and loss has an error bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.uncertainty import Estimate, jackknife

Float64 = npt.NDArray[np.float64]
RANGE = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Scores:
    """Sums over the images of each group, all (n_groups,); zeros for groups that were not read.

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
        """Of no images yet."""
        return cls(np.zeros(n_groups), np.zeros(n_groups), np.zeros(n_groups))

    def __add__(self, other: Scores) -> Scores:
        """Of the images of both, which must not overlap: halves that were scored apart."""
        return Scores(self.count + other.count, self.correct + other.correct, self.loss + other.loss)

    def accuracy(self) -> Estimate:
        """Share of images that are classified correctly."""
        return _ratio(self.correct, self.count).within(RANGE)

    def mean_loss(self) -> Estimate:
        """Mean cross-entropy in nats."""
        return _ratio(self.loss, self.count)

    def accuracy_minus(self, other: Scores) -> Estimate:
        """How much more accurate than another on the same images; the error is that of the difference."""
        return _ratio(self.correct - other.correct, self.count)

    def loss_minus(self, other: Scores) -> Estimate:
        """How much more loss than another on the same images; the error is that of the difference."""
        return _ratio(self.loss - other.loss, self.count)

    def as_dict(self) -> dict[str, Float64]:
        """The sums by name; ``Scores(**…)`` makes them again."""
        return {"count": self.count, "correct": self.correct, "loss": self.loss}


def _ratio(total: Float64, count: Float64) -> Estimate:
    """A mean over images, jackknifed over the groups that have any."""
    some = count > 0
    total, count = total[some], count[some]
    all_total, all_count = total.sum(), count.sum()
    return jackknife(float(all_total / all_count), (all_total - total) / (all_count - count))


def mean_scores(scores: list[Scores]) -> Scores:
    """The mean of several scores on the same images: over draws of a null, or over pairs of nets."""
    return Scores(
        np.mean([s.count for s in scores], axis=0),
        np.mean([s.correct for s in scores], axis=0),
        np.mean([s.loss for s in scores], axis=0),
    )
