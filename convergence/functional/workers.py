"""Workers between two averages: the mean of their weights, their optimisers' moments, and what an average sends.

A state is a net's arrays by name. Means are summed in the order of the workers in float64, so that they have the same
bits however the workers are dealt to processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convergence.training.trainer import Trainer

State = dict[str, torch.Tensor]


def average(states: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[float]) -> State:
    """The weighted mean of states (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

    Parameters
    ----------
    states
        Of the workers, with the same names and shapes.
    weights
        The images that each worker saw since the last average.

    Returns
    -------
    The mean in the type of the first state; counters (arrays of integers) are those of the first one.
    """
    total = float(sum(weights))
    mean: State = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            mean[name] = first.clone()
            continue
        added = torch.zeros_like(first, dtype=torch.float64)
        for state, weight in zip(states, weights, strict=True):
            added += state[name].double() * (weight / total)
        mean[name] = added.to(first.dtype)
    return mean


def moments(trainer: Trainer) -> dict[str, State]:
    """The optimiser's arrays that have an entry for each of a weight, by kind and then by the weight's name."""
    found: dict[str, State] = {}
    for name, parameter in trainer.module.named_parameters():
        for kind, value in trainer.optimiser.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                found.setdefault(kind, {})[name] = value
    return found


@torch.no_grad()
def put_moments(trainer: Trainer, given: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Give the optimiser other values for what :func:`moments` names."""
    for kind, arrays in moments(trainer).items():
        for name, value in arrays.items():
            if name in given.get(kind, {}):
                value.copy_(given[kind][name])


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether a net has norms that keep statistics of batches."""
    return any(isinstance(part, _BatchNorm) and part.running_mean is not None for part in module.modules())


@torch.no_grad()
def reestimate(module: nn.Module, batches: Sequence[torch.Tensor]) -> None:
    """Take the statistics of batch norms anew: their mean over batches, each normalised by its own.

    The units of an average of nets vary less than those of any of them, and statistics that are averaged too do not
    know it (Jordan et al. 2023, arXiv 2211.08403).
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    before = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in batches:
        module(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


# ---- what is sent ----


def n_bytes(arrays: Mapping[str, torch.Tensor]) -> int:
    """Bytes of the arrays of real numbers."""
    return sum(value.numel() * value.element_size() for value in arrays.values() if value.is_floating_point())


def reduced_bytes(payload: float, workers: int) -> float:
    """Bytes that a worker sends so that all have the sum of ``payload`` bytes each: 2 (K − 1) / K times as many.

    A ring all-reduce sends this, and no algorithm can do with less (Patarasuk & Yuan 2009, J. Parallel Distrib.
    Comput. 69).
    """
    return 2 * (workers - 1) / workers * payload


def broadcast_bytes(payload: float, workers: int) -> float:
    """Bytes that a worker sends, on average, so that all have ``payload`` bytes of the first one: (K − 1) / K times."""
    return (workers - 1) / workers * payload
