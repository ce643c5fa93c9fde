"""Accuracy, log-likelihood and calibration of predicted probabilities per image group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from convergence.errors import UserError
from convergence.functional.scores import Scores
from convergence.inference import Estimate, jackknife
from convergence.training.objectives import IGNORED, answered

Float64 = npt.NDArray[np.float64]
Segment = tuple[int, slice]
"""An image group, and the images of a batch that are its."""


class SegmentSums(NamedTuple):
    """Sums over the images of each segment of a batch.

    Attributes
    ----------
    n_targets : (n_segments,)
    correct, loss : (m, n_segments) correct answers, and cross-entropy in nats, of m nets
    """

    n_targets: Float64
    correct: Float64
    loss: Float64


def segment_sums(logits: torch.Tensor, labels: torch.Tensor, segments: Sequence[Segment]) -> SegmentSums:
    """Sums of logits (m, n, n_classes) for labels (n,), or of next tokens, over segments of the n images."""
    m, n = logits.shape[:2]
    flat, targets = logits.double().flatten(0, -2), labels.expand(m, *labels.shape).flatten()
    losses = cross_entropy(flat, targets, ignore_index=IGNORED, reduction="none").view(m, n, -1).sum(2)
    correct = (flat.argmax(-1) == targets).view(m, n, -1).sum(2)
    count = (labels != IGNORED).view(n, -1).sum(1)
    starts = [some.start for _, some in segments]
    sums = (np.add.reduceat(one.double().cpu().numpy(), starts, axis=-1) for one in (count, correct, losses))
    return SegmentSums(*sums)


def add_scores(scores: Sequence[tuple[Any, Scores]], segments: Sequence[Segment], found: SegmentSums) -> None:
    """Add sums of m nets to their scores, (name, scores) each.

    Raises
    ------
    UserError
        for a net whose loss is not finite.
    """
    groups = [group for group, _ in segments]
    for at, (name, own) in enumerate(scores):
        if not np.isfinite(found.loss[at]).all():
            bad = int(np.flatnonzero(~np.isfinite(found.loss[at]))[0])
            raise UserError(f"{name}: the loss on the images of group {groups[bad]} is {found.loss[at, bad]}.")
        own.count[groups] += found.n_targets
        own.correct[groups] += found.correct[at]
        own.loss[groups] += found.loss[at]


class PredictionMetrics:
    """Sums over the images of each group for several nets or ensembles, by name.

    Attributes
    ----------
    names : of the nets
    count : (n_groups,) images
    correct, loss : (n_names, n_groups) correct answers and negative log-likelihood in nats
    bins : (n_names, n_groups, n_bins, 2) sums of confidence and of correct answers, by confidence
    """

    def __init__(self, names: Sequence[str], n_groups: int, n_bins: int) -> None:
        self.names = list(names)
        self.count = np.zeros(n_groups)
        self.correct, self.loss = np.zeros((len(names), n_groups)), np.zeros((len(names), n_groups))
        self.bins = np.zeros((len(names), n_groups, n_bins, 2))

    @property
    def sums(self) -> tuple[Float64, ...]:
        """All sums."""
        return self.count, self.correct, self.loss, self.bins

    def add_segments(self, segments: Sequence[Segment], log_p: torch.Tensor, labels: torch.Tensor) -> None:
        """:meth:`add` for a batch of several image groups."""
        for group, some in segments:
            self.add(group, log_p[:, some], labels[some])

    def add(self, group: int, log_p: torch.Tensor, labels: torch.Tensor) -> None:
        """Add log-probabilities (n_names, n, n_classes), float64, of images of a group, or of next tokens.

        Raises
        ------
        UserError
            for a loss that is not finite.
        """
        log_p, labels = answered(log_p, labels)
        confidence, answer = log_p.max(2)
        right = (answer == labels).double().cpu().numpy()
        loss = -log_p.gather(2, labels.expand(len(log_p), -1)[:, :, None])[:, :, 0].sum(1).cpu().numpy()
        if not np.isfinite(loss).all():
            at = int(np.flatnonzero(~np.isfinite(loss))[0])
            raise UserError(f"{self.names[at]}: the loss on the images of group {group} is {loss[at]}.")
        self.count[group] += len(labels)
        self.correct[:, group] += right.sum(1)
        self.loss[:, group] += loss
        sure = confidence.exp().cpu().numpy()
        n_bins = self.bins.shape[2]
        where = np.clip(np.ceil(sure * n_bins).astype(int) - 1, 0, n_bins - 1)
        for k in range(len(log_p)):
            self.bins[k, group, :, 0] += np.bincount(where[k], sure[k], n_bins)
            self.bins[k, group, :, 1] += np.bincount(where[k], right[k], n_bins)

    def scores(self, name: str) -> Scores:
        """Sums of a net."""
        at = self.names.index(name)
        return Scores(self.count, self.correct[at], self.loss[at])

    def calibration(self, name: str) -> Estimate:
        """Expected calibration error: mean |confidence − accuracy| over bins of confidence (Guo et al. 2017)."""
        bins = self.bins[self.names.index(name)]
        some = self.count > 0
        bins, count = bins[some], self.count[some]

        def error(sums: Float64, n: float) -> float:
            return float(np.abs(sums[:, 0] - sums[:, 1]).sum() / n)

        whole = bins.sum(axis=0)
        without = [error(whole - own, count.sum() - n) for own, n in zip(bins, count, strict=True)]
        return jackknife(error(whole, count.sum()), without).within((0.0, 1.0))


def mean_probability(log_p: torch.Tensor) -> torch.Tensor:
    """Log of the mean probability over the first axis."""
    return torch.logsumexp(log_p, 0) - float(np.log(len(log_p)))


def mean_logit(log_p: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the mean logits over the first axis: the geometric mean."""
    return torch.log_softmax(log_p.mean(0), -1)


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Logits (…, n_classes) to log-probabilities in float64."""
    return torch.log_softmax(logits.double(), -1)
