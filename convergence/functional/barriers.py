"""What scores along a line between two nets come to: curves with intervals, and the barrier as an estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convergence.functional.file import Tree
from convergence.functional.scoring import RANGE, Scores
from convergence.uncertainty import Estimate, jackknife

Float64 = npt.NDArray[np.float64]


def barrier(steps: Float64, totals: Float64, count: Float64) -> Estimate:
    """The largest rise of a mean above the straight line between its ends; jackknifed as a whole.

    Parameters
    ----------
    steps : (n_steps,)
        From 0 to 1.
    totals : (n_steps, n_groups)
        Sums over the images of each group.
    count : (n_groups,)
        Images of each group.

    Notes
    -----
    max over t of L(t) − (1 − t) L(0) − t L(1) (Frankle et al. 2020, arXiv 1912.05671). It is never negative: both ends
    are on the line. A maximum over steps is somewhat too large for noise, which the jackknife's bias speaks of.
    """

    def highest(means: Float64) -> Float64:
        line = (1 - steps)[:, None] * means[0] + steps[:, None] * means[-1]
        return np.asarray((means - line).max(axis=0))

    some = count > 0
    totals, count = totals[:, some], count[some]
    whole = totals.sum(axis=1, keepdims=True)
    value = highest(whole / count.sum())[0]
    return jackknife(float(value), highest((whole - totals) / (count.sum() - count))).within((0.0, np.inf))


def curve(steps: Float64, scores: Sequence[Scores]) -> Tree:
    """Accuracy and loss at each step with intervals, the barrier of the loss and that of the error rate."""
    count = scores[0].count
    return {
        "steps": steps,
        "accuracy": columns([score.accuracy() for score in scores]),
        "loss": columns([score.mean_loss() for score in scores]),
        "barrier": barrier(steps, np.array([score.loss for score in scores]), count).as_dict(),
        "accuracy_barrier": barrier(steps, np.array([score.count - score.correct for score in scores]), count)
        .within(RANGE)
        .as_dict(),
    }


def estimates(score: Scores) -> Tree:
    """Accuracy and loss of a net."""
    return {"accuracy": score.accuracy().as_dict(), "loss": score.mean_loss().as_dict()}


def columns(found: Sequence[Estimate]) -> dict[str, Float64]:
    """Values and the ends of their intervals, an array each."""
    return {key: np.array([getattr(e, key) for e in found]) for key in ("value", "low", "high")}
