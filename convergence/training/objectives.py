"""What nets are trained for: the class of an input, or at each token of an input the next one.

The loss of next tokens is the mean over all tokens of a batch that another token follows. Accuracy is the share of them
whose next token has the largest logit. Padding (negative ids) is neither predicted nor counted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from convergence.data.images import ImageSet, Indices
from convergence.errors import ConfigError
from convergence.networks import Task

IGNORED = -1
"""Target that no loss has."""


class Score(NamedTuple):
    """Loss of a batch, and its correct answers among ``n`` targets."""

    loss: torch.Tensor
    correct: int
    n: int


def known_labels(images: ImageSet, task: Task) -> Indices:
    """The labels (n_images,) of a training: zeros where the task needs none and the images have none."""
    if task == "next_token" and images.labels is None:
        return np.zeros(len(images), np.int64)
    return images.known_labels()


def most_targets(images: ImageSet, n_images: int, task: Task) -> int:
    """The largest number of targets that ``n_images`` images have."""
    return n_images * math.prod(images.image_shape) if task == "next_token" else n_images


def targets_of(task: Task, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The targets of a batch: the labels (n,), or the ids (n, tokens) of next tokens, :data:`IGNORED` for none."""
    if task == "classes":
        return labels
    if images.is_floating_point() or images.ndim != 2:
        raise ConfigError(
            f'network.task = "next_token" needs rows of token ids, integers (n, tokens); the inputs are '
            f'{str(images.dtype).removeprefix("torch.")} {tuple(images.shape)}. Set task = "classes".'
        )
    following = torch.cat([images[:, 1:], torch.full_like(images[:, :1], IGNORED)], dim=1)
    return torch.where((following < 0) | (images < 0), IGNORED, following)


def answered(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (…, n, classes) and targets (n,) without tokens that have no target, of logits (…, n, tokens, classes)."""
    if targets.ndim == 1:
        return logits, targets
    kept = targets != IGNORED
    return logits[..., kept, :], targets[kept]


def n_targets(targets: torch.Tensor) -> int:
    """Number of targets."""
    return int((targets != IGNORED).sum())


def score(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0, reduction: str = "mean") -> Score:
    """Cross-entropy of logits (…, classes) for targets (…), and the number of correct answers.

    The loss of a batch without targets is 0.
    """
    logits, targets = logits.flatten(0, -2), targets.flatten()
    n = n_targets(targets)
    if n == 0:
        return Score(0.0 * logits.sum(), 0, 0)
    loss = nn.functional.cross_entropy(
        logits, targets, ignore_index=IGNORED, label_smoothing=smoothing, reduction=reduction
    )
    return Score(loss, int((logits.argmax(-1) == targets).sum()), n)
