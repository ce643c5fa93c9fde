"""Affine and orthogonal maps that are fitted at the penultimate layer: what the last layer of net A is given.

A map of least squares fits the layer that is replaced. The following layers of A may need other directions of it, so
the maps here minimise the squared error of the input of A's last layer, with the stitched net beside the net itself. No
labels take part, unlike in maps that are trained on the loss (Bansal et al. 2021; both kinds: Csiszárik et al. 2021,
arXiv 2110.14633). Later layers as targets: Athanasiadis et al. 2025, arXiv 2505.20142.

Adam takes steps from the maps of least squares and of Procrustes. After every step the orthogonal map is replaced by
the nearest one, its polar factor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch

from convergence.functional.context import ExperimentContext
from convergence.functional.stitching.maps import AffineMap, LayerFit
from convergence.functional.stitching.stitched_network import StitchedNetwork
from convergence.functional.surgery.splitting import apply_map
from convergence.training.objectives import answered
from convergence.training.optimisers import AdamW

LEARNING_RATE = 0.003
"""Of Adam, at the first step, for standardised units; it ends at 0 as a cosine."""
NAMES = ("affine_penultimate", "orthogonal_penultimate")


class PenultimateFit:
    """Maps of one half of the image groups; the same in every process.

    Parameters
    ----------
    context, network, fit : a pair of nets, and the moments of their layers
    half : of the image groups
    steps : of Adam
    """

    def __init__(
        self, context: ExperimentContext, network: StitchedNetwork, fit: LayerFit, half: int, steps: int
    ) -> None:
        self.context, self.network, self.fit, self.half, self.steps = context, network, fit, half, steps
        deviations = [np.sqrt(np.diagonal(c)) for c in (fit.moments.cov_yy, fit.moments.cov_xx)]
        self._deviation_a, self._deviation_b = (self._tensor(values) for values in deviations)

    def maps(self) -> dict[str, AffineMap]:
        """Both maps, by name."""
        starts = self.fit.least_squares(), self.fit.orthogonal()
        return {name: self._fitted(start, name == NAMES[1]) for name, start in zip(NAMES, starts, strict=True)}

    def error(self, mapping: AffineMap) -> float:
        """Mean squared error at the penultimate layer, as a share of its variance, on the images of the fit."""
        weights, bias = self._tensor(mapping.weights), self._tensor(mapping.bias)
        with torch.no_grad():
            found = [self._error(*batch, weights, bias) for batch in self._batches(once=True)]
        return float(torch.stack(found).mean())

    def _fitted(self, standard: np.ndarray, orthogonal: bool) -> AffineMap:
        start = self.fit.affine_map(standard)
        if orthogonal:  # the units are not standardised: a rotation keeps their scale
            scale = self._deviation_b.new_tensor(np.linalg.norm(start.weights, 2))
            shape = (self._tensor(start.weights)[np.ix_(self.fit.live_a, self.fit.live_b)] / scale).requires_grad_()
            variables = [shape, scale.requires_grad_()]
        else:
            variables = [self._tensor(standard).requires_grad_()]
        offset = torch.zeros(len(self.fit.live_a), device=self.context.device, requires_grad=True)
        optimiser = AdamW([*variables, offset], LEARNING_RATE, weight_decay=0.0)  # Adam
        for step, batch in zip(range(self.steps), self._batches(), strict=False):
            weights, bias = self._whole(variables, offset, start)
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            optimiser.zero_grad()
            self._error(*batch, weights, bias).backward()
            optimiser.step()
            if orthogonal:
                with torch.no_grad():
                    left, _, right = torch.linalg.svd(shape.double(), full_matrices=False)
                    shape.copy_(left @ right)
        with torch.no_grad():
            weights, bias = self._whole(variables, offset, start)
        return AffineMap(weights.double().cpu().numpy(), bias.double().cpu().numpy())

    def _whole(
        self, variables: list[torch.Tensor], offset: torch.Tensor, start: AffineMap
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and bias of all units; A's means are kept, but for the offset in standard deviations."""
        if len(variables) == 2:
            live = variables[0] * variables[1]
        else:
            live = self._deviation_a[:, None] * variables[0] / self._deviation_b
        at_a, at_b = (torch.from_numpy(live).to(offset.device) for live in (self.fit.live_a, self.fit.live_b))
        weights = offset.new_zeros(start.weights.shape).index_put((at_a[:, None], at_b[None, :]), live)
        shift = offset.new_zeros(len(start.bias)).index_put((at_a,), offset * self._deviation_a)
        return weights, self._tensor(self.fit.mean_a) - weights @ self._tensor(self.fit.mean_b) + shift

    def _error(
        self, images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        (own, *passing), given = self.network.fronts(images)
        both = own, apply_map(given, weights, bias)
        wanted, found = (answered(self.network.split_a.penultimate(one, *passing), targets)[0] for one in both)
        target = wanted.detach()
        variance = (target - target.mean(0)).square().mean()
        return (found - target).square().mean() / variance.clamp(min=1e-12)

    def _batches(self, once: bool = False) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and targets of the half, again and again."""
        for _ in range(1) if once else itertools.count():
            for _, images, targets in self.context.read(self.context.half(self.half), all_processes=True):
                yield images, targets

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float().to(self.context.device)
