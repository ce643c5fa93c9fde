"""A net one layer of which is computed by another net: front of B → map → back of A."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from convergence.errors import ConfigError
from convergence.experiment import Comparison
from convergence.functional.bench import Bench, Forward
from convergence.functional.cutting import Cut
from convergence.functional.mappings import Mapping


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

    def through(self, mapping: Mapping, replaced: np.ndarray | None = None) -> Forward:
        """A with units computed from B: all of them, or those that are true in ``replaced`` (n_a,)."""
        weights = torch.from_numpy(mapping.weights).float().to(self._device)
        bias = torch.from_numpy(mapping.bias).float().to(self._device)
        mask = None if replaced is None else torch.from_numpy(replaced).to(self._device)

        @torch.no_grad()
        def forward(images: torch.Tensor) -> torch.Tensor:
            (own, *passing), given = self.fronts(images)
            value = mapped(given, weights, bias)
            if mask is not None:
                value = units_second(torch.where(_along(mask, own), units_second(value), units_second(own)), value.ndim)
            return self.cut_a.back(value, *passing)

        return forward


def mapped(value: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A layer's output (n, units, …) or (n, tokens, units) through weights (n_a, n_b): a 1×1 convolution."""
    if value.ndim == 4:
        return functional.conv2d(value, weights[:, :, None, None], bias)
    return functional.linear(value, weights, bias)


def units_second(value: torch.Tensor, ndim: int | None = None) -> torch.Tensor:
    """Tokens (n, T, C) as (n, C, T), and back; vectors and maps as they are. ``ndim`` is that of a net's output."""
    return value.transpose(1, 2) if (value.ndim if ndim is None else ndim) == 3 else value


def _along(mask: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return mask.view(1, -1, *[1] * (value.ndim - 2))


def _positions(value: torch.Tensor) -> tuple[int, ...]:
    return tuple(units_second(value).shape[2:])


def _cut(bench: Bench, comparison: Comparison, net: str) -> Cut:
    layer = bench.layer_of(comparison, net)
    if layer is None:
        raise ConfigError(f"{net} takes no part in the comparison {comparison.name}, so none of its layers can be cut.")
    return Cut(bench.net(net), layer)
