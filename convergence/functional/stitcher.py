"""A net one layer of which is computed by another net: front of B → map → back of A."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional

from convergence.config.stages import Comparison
from convergence.errors import ConfigError, UserError
from convergence.functional.bench import Bench, Forward
from convergence.functional.cutting import Cut
from convergence.functional.mappings import Mapping
from convergence.functional.scoring import Scores

Name = TypeVar("Name")
Many = Callable[[torch.Tensor], torch.Tensor]
"""Images (n, channels, height, width) to logits (m, n, n_classes) of many nets."""
VALUES_AT_ONCE = 2**22
"""Numbers of a layer's output that are replaced in one pass of the back; part of what makes the bits."""


class Stitcher:
    """Two nets cut at their layers of a comparison; makes nets of the front of one and the back of the other.

    What the fronts say of a batch is kept until the next one comes, so that many maps cost one front.

    Attributes
    ----------
    cut_a, cut_b : the net whose layer is replaced, and the one that gives

    Raises
    ------
    ConfigError
        where the two layers do not have the same positions.
    """

    def __init__(self, bench: Bench, comparison: Comparison, a: str, b: str) -> None:
        self.cut_a, self.cut_b = (_cut(bench, comparison, net) for net in (a, b))
        self._device = bench.device
        self._images: torch.Tensor | None = None
        self._values: tuple[tuple[torch.Tensor, ...], torch.Tensor]
        probe = torch.zeros((2, *bench.images.image_shape), device=bench.device)
        (own, *_), given = self.fronts(probe)
        if _positions(own) != _positions(given):
            raise ConfigError(
                f"{comparison.name}: the layer of {a} has positions {_positions(own)} and that of {b} "
                f"{_positions(given)}, and a map from unit to unit needs the same. "
                "Compare layers with maps of one size."
            )

    def fronts(self, images: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """A's layer with the values that pass it by, and B's layer."""
        if self._images is not images:
            self._values = self.cut_a.front(images), self.cut_b.front(images)[0]
            self._images = images
        return self._values

    def own(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of A with its own layer."""
        return self.cut_a.back(*self.fronts(images)[0])

    @torch.no_grad()
    def through(self, images: torch.Tensor, mapping: Mapping, replaced: np.ndarray | None = None) -> torch.Tensor:
        """Logits of A with units computed from B: all, or those that are true in ``replaced``; the definition."""
        (own, *passing), given = self.fronts(images)
        value = mapped(given, self._tensor(mapping.weights), self._tensor(mapping.bias))
        if replaced is not None:
            mask = torch.from_numpy(replaced).to(own.device).view(-1, *[1] * (units_second(own).ndim - 2))
            value = units_second(torch.where(mask, units_second(value), units_second(own)))
        return self.cut_a.back(value, *passing)

    def through_many(self, mappings: Sequence[Mapping], replaced: Sequence[np.ndarray | None] | None = None) -> Many:
        """:meth:`through` for many maps in few passes: images to logits (m, n, n_classes)."""
        weights = [self._tensor(mapping.weights) for mapping in mappings]
        biases = [self._tensor(mapping.bias) for mapping in mappings]
        masks = None
        if replaced is not None:
            whole = np.ones(len(mappings[0].bias), dtype=bool)
            masks = torch.from_numpy(np.stack([whole if r is None else r for r in replaced])).to(self._device)

        @torch.no_grad()
        def forward(images: torch.Tensor) -> torch.Tensor:
            (own, *passing), given = self.fronts(images)
            logits = []
            for some in slices(len(weights), own.numel()):
                value = mapped(given, torch.cat(weights[some]), torch.cat(biases[some]))
                value = units_second(value).unflatten(1, (-1, units_second(own).shape[1])).transpose(0, 1)
                if masks is not None:
                    mask = masks[some].view(len(value), 1, -1, *[1] * (value.ndim - 3))
                    value = torch.where(mask, value, units_second(own))
                value = value.transpose(2, 3) if own.ndim == 3 else value
                logits.append(self.cut_a.back_of_many(value.contiguous(), *passing))
            return torch.cat(logits)

        return forward

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).float().to(self._device)


def cross_fitted(
    bench: Bench, names: Sequence[Name], fitted: Callable[[int], Many], own: Forward | None = None
) -> dict[Name | None, Scores]:
    """:meth:`Bench.cross_fitted` for nets that answer together; A itself, ``own``, is under None.

    ``fitted(half)`` gives what answers in the place of all ``names`` at once, fitted on that half of the image groups.

    Raises
    ------
    UserError
        for a net whose loss is not finite.
    """
    found: dict[Name | None, Scores] = {name: Scores.zeros(len(bench.groups)) for name in (None, *names)}
    for half in (0, 1):
        many = fitted(half)
        for group, images, labels in bench.read(bench.half(1 - half)):
            right, losses = answers(many(images), labels)
            if own is not None:
                more = answers(own(images)[None], labels)
                right, losses = np.append(right, more[0]), np.append(losses, more[1])
            for at, name in enumerate((*names, None) if own is not None else names):
                if not np.isfinite(losses[at]):
                    raise UserError(f"{name}: the loss on the images of group {group} is {losses[at]}.")
                found[name].count[group] += len(labels)
                found[name].correct[group] += right[at]
                found[name].loss[group] += losses[at]
    bench.add_up(*(sums for scores in found.values() for sums in scores.as_dict().values()))
    if own is None:
        del found[None]
    return found


def answers(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Right answers (m,) and summed cross-entropies in nats (m,) of logits (m, n, n_classes)."""
    right = (logits.argmax(2) == labels).sum(1)
    flat, repeated = logits.double().flatten(0, 1), labels.repeat(len(logits))
    losses = functional.cross_entropy(flat, repeated, reduction="none").unflatten(0, logits.shape[:2]).sum(1)
    return right.cpu().numpy().astype(np.float64), losses.cpu().numpy()


def slices(n: int, numel: int) -> list[slice]:
    """Slices of ``n`` replacements of ``numel`` numbers each, few enough for one pass."""
    step = max(1, VALUES_AT_ONCE // max(numel, 1))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def mapped(value: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A layer's output (n, units, …) or (n, tokens, units) through weights (n_a, n_b): a 1×1 convolution."""
    if value.ndim == 4:
        return functional.conv2d(value, weights[:, :, None, None], bias)
    return functional.linear(value, weights, bias)


def units_second(value: torch.Tensor) -> torch.Tensor:
    """Tokens (n, T, C) as (n, C, T), and back; vectors and maps as they are."""
    return value.transpose(1, 2) if value.ndim == 3 else value


def _positions(value: torch.Tensor) -> tuple[int, ...]:
    return tuple(units_second(value).shape[2:])


def _cut(bench: Bench, comparison: Comparison, net: str) -> Cut:
    layer = bench.layer_of(comparison, net)
    if layer is None:
        raise ConfigError(f"{net} takes no part in the comparison {comparison.name}, so none of its layers can be cut.")
    return Cut(bench.net(net), layer)
