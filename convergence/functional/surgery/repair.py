"""REPAIR of averaged nets, whose units vary less than those of the nets averaged (Jordan et al. 2023, ICLR).

Nets without batch norm: every convolution and linear layer but the last is rescaled so that each unit's mean and
standard deviation before the activation function are the means of those of the averaged nets. Nets with batch norm:
running statistics are estimated again, which has the same effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn

from convergence.functional.surgery.permutations import PermutationGroup
from convergence.functional.surgery.tracing import LOGITS

Batches = Callable[[], Iterable[torch.Tensor]]


class UnitStatistics(NamedTuple):
    """Mean and standard deviation of each unit of a layer before its activation function, (n_units,) in float64."""

    mean: torch.Tensor
    deviation: torch.Tensor


Statistics = dict[str, UnitStatistics]


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a net has norms with running statistics."""
    return any(_runs(part) for part in module.modules())


def repairable(groups: Sequence[PermutationGroup]) -> list[str]:
    """Convolutions and linear layers but the last one, whose outputs are the logits; embeddings are not rescaled."""
    return list(
        dict.fromkeys(
            axis.parameter.removesuffix(".weight")
            for group in groups
            if group.fixed != LOGITS
            for axis in group.of_role("out")
            if axis.parameter.endswith(".weight") and axis.dim == 0
        )
    )


def unit_statistics(module: nn.Module, layers: Sequence[str], batches: Iterable[torch.Tensor]) -> Statistics:
    """Statistics of the units of layers on some images."""
    sums = _Sums(module, layers, None)
    sums.run(module, batches)
    return sums.means()


def mean_statistics(parts: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Weighted means of the means and of the standard deviations of several nets."""

    def mean(layer: str, k: int) -> torch.Tensor:
        return torch.stack([w * part[layer][k] for w, part in zip(weights, parts, strict=True)]).sum(0)

    return {layer: UnitStatistics(mean(layer, 0), mean(layer, 1)) for layer in parts[0]}


def repair(module: nn.Module, target: Statistics, batches: Iterable[torch.Tensor]) -> None:
    """Rescale the layers of a net, in place, to target statistics.

    Each batch is normalised to the target layer by layer, so that a layer sees normalised inputs; the weights get the
    means over batches, as from a batch norm that is fused into its layer.
    """
    sums = _Sums(module, list(target), target)
    sums.run(module, batches)
    for layer, own in sums.means().items():
        part: Any = module.get_submodule(layer)
        scale = _scale(own, target[layer])
        shape = (-1, *[1] * (part.weight.ndim - 1))
        part.weight.data.mul_(scale.view(shape).to(part.weight))
        if part.bias is not None:
            shifted = (part.bias.data.double() - own.mean) * scale + target[layer].mean
            part.bias.data.copy_(shifted)


@torch.no_grad()
def reestimate_batch_norm(module: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set the running statistics of all norms, in place, to the mean over batches, each normalised by its own."""
    parts: list[Any] = [part for part in module.modules() if _runs(part)]
    if not parts:
        return
    momenta = [part.momentum for part in parts]
    for part in parts:
        part.reset_running_stats()
        part.momentum = None
        part.train()
    for batch in batches:
        module(batch)
    for part, momentum in zip(parts, momenta, strict=True):
        part.momentum = momentum
        part.eval()


def _runs(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None


def _scale(own: UnitStatistics, target: UnitStatistics) -> torch.Tensor:
    """Factors of the units; 1 for constant units."""
    varies = own.deviation > 1e-12
    return torch.where(varies, target.deviation / own.deviation.where(varies, torch.ones_like(own.deviation)), 1.0)


class _Sums:
    """Hooks that add up moments of layers, and normalise their outputs to a target if there is one."""

    def __init__(self, module: nn.Module, layers: Sequence[str], target: Mapping[str, UnitStatistics] | None) -> None:
        self._sums: dict[str, list[torch.Tensor]] = {}
        self._layers = {layer: module.get_submodule(layer) for layer in layers}
        self._target, self._n = target, 0

    @torch.no_grad()
    def run(self, module: nn.Module, batches: Iterable[torch.Tensor]) -> None:
        with ExitStack() as stack:
            for layer, part in self._layers.items():
                handle = part.register_forward_hook(self._hook(layer))
                stack.callback(handle.remove)
            for batch in batches:
                module(batch)
                self._n += len(batch)

    def means(self) -> Statistics:
        found = {}
        for layer, (mean, square) in self._sums.items():
            mean, square = mean / self._n, square / self._n
            within = square if self._target is not None else square - mean**2
            found[layer] = UnitStatistics(mean, within.clamp(min=0).sqrt())
        return found

    def _hook(self, layer: str) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor | None]:
        def hook(part: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            axis = output.ndim - 1 if isinstance(part, nn.Linear) else 1
            others = [k for k in range(output.ndim) if k != axis]
            spread, middle = torch.var_mean(output, others, correction=0)
            variance, mean = spread.double(), middle.double()
            known = self._sums.setdefault(layer, [torch.zeros_like(mean), torch.zeros_like(mean)])
            known[0] += len(output) * mean
            known[1] += len(output) * (variance if self._target is not None else variance + mean**2)
            if self._target is None:
                return None
            target = self._target[layer]
            scale = _scale(UnitStatistics(mean, variance.sqrt()), target)
            shift = target.mean - scale * mean if getattr(part, "bias", None) is not None else torch.zeros_like(mean)
            shape = [-1 if k == axis else 1 for k in range(output.ndim)]
            return torch.addcmul(shift.view(shape).to(output), output, scale.view(shape).to(output))

        return hook
