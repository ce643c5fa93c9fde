"""One average of the workers of a training: align their units, average their weights, score the result."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from convergence.data.images import batches_on_device
from convergence.errors import UserError
from convergence.functional.averaging.local_sgd import Gathered, moments, put_moments
from convergence.functional.context import ExperimentContext
from convergence.functional.surgery.alignment import (
    ActivationMatcher,
    Orders,
    mean_state,
    movable,
    moved,
    random_orders,
    weight_orders,
)
from convergence.functional.surgery.permutations import PermutationGroup, State, permutation_groups, permuted_state
from convergence.functional.surgery.repair import has_batch_norm, reestimate_batch_norm
from convergence.networks import NetworkSpec
from convergence.networks.weights import initialise
from convergence.networks.work import quick_pooling
from convergence.training.trainer import Trainer


class RoundRecord(TypedDict):
    """Scores of one average and, by name, of its workers and nulls: rows of images, correct answers and loss."""

    round: int
    bytes: float
    scores: dict[str, torch.Tensor]


class AveragingLog(TypedDict):
    """What the averages of a training add up to; plain, because it is part of a checkpoint."""

    records: list[RoundRecord]
    moved: list[float]
    sent: float
    sent_alignment: float


def empty_log() -> AveragingLog:
    """The log before the first average."""
    return {"records": [], "moved": [], "sent": 0.0, "sent_alignment": 0.0}


class AveragingSetup:
    """What all averages of a study share.

    Attributes
    ----------
    groups : movable permutation groups; none where the net's units cannot be permuted
    refused : why its units cannot be permuted, or ""
    norms : whether the net has norms with running statistics
    """

    def __init__(self, context: ExperimentContext, network: NetworkSpec) -> None:
        self.context, self.config = context, context.config.average
        shape = context.train.image_shape
        self.module = quick_pooling(initialise(network, 0, shape, context.train.n_classes).to(context.device)).eval()
        self.norms = has_batch_norm(self.module)
        self.groups: list[PermutationGroup] = []
        self.refused = ""
        try:
            self.groups = movable(permutation_groups(self.module, shape))
            if not self.groups:
                self.refused = "it has no units that can be permuted"
        except UserError as error:
            self.refused = str(error)
        wanted = [align for align in self.config.alignments if align != "none"]
        if self.refused and wanted:
            raise UserError(
                f"functional.average.alignments has {', '.join(wanted)}, and the units of this net cannot be permuted "
                f'({self.refused}). Set functional.average.alignments = ["none"].'
            )

    @cached_property
    def batches(self) -> list[torch.Tensor]:
        """Training images for alignments by activations and for running statistics."""
        images, n = self.context.train, self.config.alignment_images
        order = np.random.default_rng([self.context.config.seed, len(images)]).permutation(len(images))[:n]
        size = self.context.config.batch_size
        cut = [order[k : k + size] for k in range(0, len(order), size)]
        return [batch for _, batch in batches_on_device(images, cut, self.context.device, 0)]

    @cached_property
    def matcher(self) -> ActivationMatcher:
        """Matches units by activations."""
        return ActivationMatcher(copy.deepcopy(self.module), self.groups, self.batches)

    def nets(self, states: Mapping[str, State]) -> dict[str, nn.Module]:
        """A net for each state, in evaluation mode."""
        found = {}
        for name, state in states.items():
            found[name] = copy.deepcopy(self.module)
            found[name].load_state_dict(state)
        return found

    def mean(self, states: Sequence[State], seen: Sequence[int]) -> State:
        """The average weighted by images seen (McMahan et al. 2017, arXiv 1602.05629), summed in float64.

        Running statistics are averaged, or estimated again with ``batch_statistics = "reestimate"``.
        """
        mean = mean_state(states, [n / float(sum(seen)) for n in seen], torch.float64)
        if self.norms and self.config.batch_statistics == "reestimate":
            (net,) = self.nets({"": mean}).values()
            reestimate_batch_norm(net, self.batches)
            mean = {name: value.cpu().clone() for name, value in net.state_dict().items()}
        return mean


class AveragingRound:
    """The averages of one training, with one kind of alignment."""

    def __init__(self, setup: AveragingSetup, align: str, repeat: int) -> None:
        self.setup, self.align = setup, align
        self.seed = [setup.context.config.seed, repeat]
        self.orders: list[Orders] = []

    def run(self, gathered: Gathered, seen: Sequence[int], log: AveragingLog, scored: bool, edge: bool) -> State:
        """Align and average the workers' states; every process computes the same.

        Parameters
        ----------
        gathered
            State and moments of each worker.
        seen
            Images that each worker saw since the last average.
        log
            To which moved units, bytes and scores are added.
        scored
            Whether to score the average.
        edge
            Whether to score the workers and the null as well.
        """
        states = [state for state, _ in gathered.values()]
        self.orders, payload = self._orders(states, len(log["moved"]))
        mean = self.setup.mean(self._permuted(states, self.orders), seen)
        log["moved"].append(float(np.mean([moved(orders) for orders in self.orders[1:]])))
        log["sent_alignment"] += broadcast_bytes(payload, len(states))
        log["sent"] += reduced_bytes(self._payload(gathered), len(states)) + broadcast_bytes(payload, len(states))
        if scored:
            shown = {"average": mean}
            if edge:
                shown |= {f"worker{k}": state for k, state in enumerate(states)}
                shown |= self._null(states, seen)
            scores = self.setup.context.score(self.setup.nets(shown))
            log["records"].append({
                "round": len(log["moved"]),
                "bytes": log["sent"],
                "scores": {name: torch.from_numpy(np.stack(one.sums)) for name, one in scores.items()},
            })  # fmt: skip
        return mean

    def permute_moments(self, own: Mapping[int, Trainer], gathered: Gathered) -> None:
        """Bring the optimisers' moments to the order of the averaged units; average them if the settings say so."""
        if self.setup.config.optimizer_state == "average":
            kinds = {kind for _, found in gathered.values() for kind in found}
            mean = {}
            for kind in sorted(kinds):
                some = {k: found[kind] for k, (_, found) in gathered.items() if kind in found}
                aligned = [self._arrays(arrays, gathered[k][0], self.orders[k]) for k, arrays in some.items()]
                mean[kind] = mean_state(aligned, [1 / len(aligned)] * len(aligned), torch.float64)
            for trainer in own.values():
                put_moments(trainer, mean)
            return
        for k, trainer in own.items():
            if self.orders[k]:
                found = moments(trainer)
                state = trainer.module.state_dict()
                put_moments(trainer, {kind: self._arrays(a, state, self.orders[k]) for kind, a in found.items()})

    def _arrays(self, arrays: State, state: State, orders: Orders) -> State:
        """Arrays in the shape of weights, permuted like the weights."""
        permuted = permuted_state({**state, **arrays}, self.setup.groups, orders)
        return {name: permuted[name] for name in arrays}

    def _permuted(self, states: Sequence[State], orders: Sequence[Orders]) -> list[State]:
        return [
            permuted_state(state, self.setup.groups, order) if order else state
            for state, order in zip(states, orders, strict=True)
        ]

    def _orders(self, states: Sequence[State], turn: int) -> tuple[list[Orders], int]:
        """Orders of each worker's units (none for the first), and the bytes of the first that the others need."""
        first, *others = states
        groups = self.setup.groups
        if self.align == "weight":
            names = [name for name, _ in self.setup.module.named_parameters()]
            orders = [weight_orders(first, state, groups, 1, 0) for state in others]
            return [{}, *orders], n_bytes({name: first[name] for name in names})
        if self.align == "activation":
            matcher = self.setup.matcher
            onto = matcher.activations(first)
            orders = [matcher.match(onto, matcher.activations(state)) for state in others]
            return [{}, *orders], sum(4 * value.numel() for value in onto.values())  # sent in float32
        if self.align == "random":
            generator = np.random.default_rng([*self.seed, turn])
            return [{}, *(random_orders(groups, generator) for _ in others)], 0
        return [{} for _ in states], 0

    def _null(self, states: Sequence[State], seen: Sequence[int]) -> dict[str, State]:
        """Averages of the same workers with their units in random order."""
        if not self.setup.groups:
            return {}
        generator = np.random.default_rng([*self.seed, len(states)])
        found = {}
        for draw in range(self.setup.config.null_draws):
            orders: list[Orders] = [{}, *(random_orders(self.setup.groups, generator) for _ in states[1:])]
            found[f"null{draw}"] = self.setup.mean(self._permuted(states, orders), seen)
        return found

    def _payload(self, gathered: Gathered) -> int:
        """Bytes that are averaged: weights, running statistics and moments, as far as the settings say so."""
        state, moment = next(iter(gathered.values()))
        names = {name for name, _ in self.setup.module.named_parameters()}
        anew = self.setup.config.batch_statistics == "reestimate"
        arrays = {name: value for name, value in state.items() if name in names or not anew}
        return n_bytes(arrays) + sum(n_bytes(found) for found in moment.values())


# ---- bytes that a worker sends ----


def n_bytes(arrays: Mapping[str, Any]) -> int:
    """Bytes of the arrays of floating-point numbers."""
    return sum(value.numel() * value.element_size() for value in arrays.values() if value.is_floating_point())


def reduced_bytes(payload: float, workers: int) -> float:
    """Bytes that a worker sends to sum ``payload`` bytes over all workers: 2 (K − 1) / K times the payload.

    A ring all-reduce sends this, which is the minimum (Patarasuk & Yuan 2009, J. Parallel Distrib. Comput. 69).
    """
    return 2 * (workers - 1) / workers * payload


def broadcast_bytes(payload: float, workers: int) -> float:
    """Mean bytes that a worker sends to give ``payload`` bytes of the first to all: (K − 1) / K times the payload."""
    return (workers - 1) / workers * payload
