"""Scores on the line between two nets, and the height of the barrier, with jackknife errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.functional.scores import RANGE, Scores
from convergence.inference import Estimate, jackknife

Float64 = npt.NDArray[np.float64]


class Line(NamedTuple):
    """Accuracy and loss at each step between two nets, and the barriers of the loss and of the error rate."""

    steps: tuple[float, ...]
    accuracy: tuple[Estimate, ...]
    loss: tuple[Estimate, ...]
    barrier: Estimate
    accuracy_barrier: Estimate


def barrier(steps: Float64, totals: Float64, count: Float64) -> Estimate:
    """The largest rise of a mean above the straight line between its ends, jackknifed over image groups.

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
    max over t of L(t) − (1 − t) L(0) − t L(1) (Frankle et al. 2020, arXiv 1912.05671), which is never negative. Noise
    biases a maximum over steps upwards; the jackknife estimates that bias.
    """

    def highest(means: Float64) -> Float64:
        line = (1 - steps)[:, None] * means[0] + steps[:, None] * means[-1]
        return np.asarray((means - line).max(axis=0))

    some = count > 0
    totals, count = totals[:, some], count[some]
    whole = totals.sum(axis=1, keepdims=True)
    value = highest(whole / count.sum())[0]
    return jackknife(float(value), highest((whole - totals) / (count.sum() - count))).within((0.0, np.inf))


def line(steps: Float64, scores: Sequence[Scores]) -> Line:
    """Scores of the nets at steps from 0 to 1 on a line, and the barriers of loss and error rate."""
    count = scores[0].count
    wrong = np.array([score.count - score.correct for score in scores])
    return Line(
        steps=tuple(steps.tolist()),
        accuracy=tuple(score.accuracy() for score in scores),
        loss=tuple(score.mean_loss() for score in scores),
        barrier=barrier(steps, np.array([score.loss for score in scores]), count),
        accuracy_barrier=barrier(steps, wrong, count).within(RANGE),
    )
