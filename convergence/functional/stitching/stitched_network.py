"""A net with one layer computed by another net: front of B → affine map → back of A."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from convergence.config.stages import Comparison
from convergence.errors import ConfigError
from convergence.functional.context import ExperimentContext, Forward
from convergence.functional.prediction_metrics import add_scores, segment_sums
from convergence.functional.scores import Scores
from convergence.functional.stitching.maps import AffineMap
from convergence.functional.surgery.splitting import SplitNetwork, apply_map, slices

Name = TypeVar("Name")
OWN = "own"
"""Name in messages of the net with its own layer."""
Many = Callable[[torch.Tensor], torch.Tensor]
"""Images (n, channels, height, width) to logits (m, n, n_classes) of many nets."""


class StitchedNetwork:
    """The front part of net B and the back part of net A, joined by affine maps.

    Outputs of the front parts are kept until the next batch, so that many maps cost one forward pass of the fronts.

    Attributes
    ----------
    split_a, split_b : the net whose layer is replaced, and the net that computes it

    Raises
    ------
    ConfigError
        when the two layers have different positions.
    """

    def __init__(self, context: ExperimentContext, comparison: Comparison, a: str, b: str) -> None:
        self.split_a, self.split_b = (_split(context, comparison, net) for net in (a, b))
        self._device = context.device
        self._images: torch.Tensor | None = None
        self._values: tuple[tuple[torch.Tensor, ...], torch.Tensor]
        (own, *_), given = self.fronts(context.sample)
        if _positions(own) != _positions(given):
            raise ConfigError(
                f"{comparison.name}: the layer of {a} has positions {_positions(own)} and that of {b} "
                f"{_positions(given)}; stitching needs the same positions. Compare layers with maps of one size."
            )

    def fronts(self, images: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """A's layer with the values that bypass it, and B's layer."""
        if self._images is not images:
            self._values = self.split_a.front(images), self.split_b.front(images)[0]
            self._images = images
        return self._values

    def own(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of A with its own layer."""
        return self.split_a.back(*self.fronts(images)[0])

    @torch.no_grad()
    def through(self, images: torch.Tensor, mapping: AffineMap, replaced: np.ndarray | None = None) -> torch.Tensor:
        """Logits of A with all units computed from B, or those that are true in ``replaced``."""
        (own, *passing), given = self.fronts(images)
        value = apply_map(given, self._tensor(mapping.weights), self._tensor(mapping.bias))
        if replaced is not None:
            mask = torch.from_numpy(replaced).to(own.device).view(-1, *[1] * (own.ndim - 2))
            value = torch.where(mask, value, own)
        return self.split_a.back(value, *passing)

    def through_many(self, mappings: Sequence[AffineMap], replaced: Sequence[np.ndarray | None] | None = None) -> Many:
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
                value = apply_map(given, torch.cat(weights[some]), torch.cat(biases[some]))
                value = value.unflatten(1, (-1, own.shape[1])).transpose(0, 1)
                if masks is not None:
                    mask = masks[some].view(len(value), 1, -1, *[1] * (value.ndim - 3))
                    value = torch.where(mask, value, own)
                logits.append(self.split_a.back_of_many(value.contiguous(), *passing))
            return torch.cat(logits)

        return forward

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).float().to(self._device)


def cross_fitted(
    context: ExperimentContext, names: Sequence[Name], fitted: Callable[[int], Many], own: Forward | None = None
) -> dict[Name | None, Scores]:
    """:meth:`ExperimentContext.cross_fitted` for nets that share a forward pass; the scores of ``own`` are under None.

    ``fitted(half)`` returns the nets of all ``names`` at once, fitted on a half of the image groups.

    Raises
    ------
    UserError
        for a net whose loss is not finite.
    """
    found: dict[Name | None, Scores] = {name: Scores.zeros(len(context.groups)) for name in (None, *names)}
    for half in (0, 1):
        many = fitted(half)
        for segments, images, labels in context.read_together(context.half(1 - half)):
            add_scores([(name, found[name]) for name in names], segments, segment_sums(many(images), labels, segments))
            if own is not None:
                add_scores([(OWN, found[None])], segments, segment_sums(own(images)[None], labels, segments))
    context.add_up(*(sums for scores in found.values() for sums in scores.sums))
    if own is None:
        del found[None]
    return found


def _positions(value: torch.Tensor) -> tuple[int, ...]:
    return tuple(value.shape[2:])


def _split(context: ExperimentContext, comparison: Comparison, net: str) -> SplitNetwork:
    layer = context.layer_of(comparison, net)
    if layer is None:
        raise ConfigError(f"the comparison {comparison.name} has no layer of {net}. Choose another net or comparison.")
    return context.split(net, layer)
