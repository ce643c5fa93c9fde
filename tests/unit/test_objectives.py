"""Losses: of classes with the bits of cross-entropy, of next tokens against a loop over tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from convergence.data.images import ArrayImages
from convergence.errors import ConfigError
from convergence.training.objectives import IGNORED, known_labels, most_targets, score, targets_of

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.tensor([[3, 1, 4, 1], [2, 0, -1, -1], [1, -1, -1, -1]])


def test_targets_are_the_next_tokens_that_exist():
    found = targets_of("next_token", TOKENS, torch.zeros(3))
    assert found.tolist() == [[1, 4, 1, IGNORED], [0, IGNORED, IGNORED, IGNORED], [IGNORED] * 4]


def test_loss_of_next_tokens_is_the_mean_over_all_of_them():
    logits = torch.randn((3, 4, 5), generator=GENERATOR)
    pairs = [(0, 0, 1), (0, 1, 4), (0, 2, 1), (1, 0, 0)]
    losses = [-math.log(float(logits[n, t].softmax(0)[token])) for n, t, token in pairs]
    right = sum(int(logits[n, t].argmax()) == token for n, t, token in pairs)
    found = score(logits, targets_of("next_token", TOKENS, torch.zeros(3)))
    assert (found.correct, found.n) == (right, 4)
    assert float(found.loss) == pytest.approx(sum(losses) / 4, rel=1e-5)
    total = score(logits, targets_of("next_token", TOKENS, torch.zeros(3)), reduction="sum")
    assert float(total.loss) == pytest.approx(sum(losses), rel=1e-5)


def test_a_batch_without_targets_has_no_loss_and_no_gradient():
    logits = torch.randn((1, 4, 5), generator=GENERATOR, requires_grad=True)
    found = score(logits, targets_of("next_token", TOKENS[2:], torch.zeros(1)))
    found.loss.backward()
    assert (found.loss.item(), found.n) == (0.0, 0)
    assert torch.equal(logits.grad, torch.zeros(1, 4, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_classes_has_the_bits_of_cross_entropy(smoothing):
    logits, labels = torch.randn((50, 7), generator=GENERATOR), torch.randint(0, 7, (50,), generator=GENERATOR)
    found = score(logits, targets_of("classes", TOKENS, labels), smoothing)
    assert torch.equal(found.loss, functional.cross_entropy(logits, labels, label_smoothing=smoothing))
    assert (found.correct, found.n) == (int((logits.argmax(1) == labels).sum()), 50)


def test_next_tokens_need_tokens_and_no_labels():
    images = ArrayImages(np.zeros((5, 1, 2, 3), np.float32), None)
    assert known_labels(images, "next_token").tolist() == [0] * 5
    with pytest.raises(ConfigError, match="no labels"):
        known_labels(images, "classes")
    assert (most_targets(images, 4, "next_token"), most_targets(images, 4, "classes")) == (24, 4)
    with pytest.raises(ConfigError, match=r"needs rows of token ids, integers \(n, tokens\); the inputs are float32"):
        targets_of("next_token", torch.zeros(2, 3), torch.zeros(2))
