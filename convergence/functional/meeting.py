"""What happens when workers meet: they are aligned, averaged, and now and then scored."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from convergence.data.images import batches_on_device
from convergence.errors import UserError
from convergence.functional.aligning import weight_orders
from convergence.functional.bench import Bench
from convergence.functional.spaces import Space, permuted_state, unit_spaces
from convergence.functional.worker_alignment import (
    ActivationMatcher,
    Orders,
    free_spaces,
    moved,
    random_orders,
)
from convergence.functional.workers import (
    State,
    average,
    broadcast_bytes,
    has_batch_statistics,
    moments,
    n_bytes,
    put_moments,
    reduced_bytes,
    reestimate,
)
from convergence.networks.spec import NetworkSpec
from convergence.networks.weights import initialise
from convergence.training.trainer import Trainer


class Meeting:
    """How workers of one network are aligned, averaged and scored.

    Attributes
    ----------
    spaces : units that can change places; none where the net's structure does not allow it
    refused : why, or ""
    norms : whether the net has norms that keep statistics of batches
    """

    def __init__(self, bench: Bench, network: NetworkSpec) -> None:
        self.bench, self.config = bench, bench.config.average
        shape = bench.train.image_shape
        self.module = initialise(network, 0, shape, bench.train.n_classes).to(bench.device).eval()
        self.norms = has_batch_statistics(self.module)
        self.spaces: list[Space] = []
        self.refused = ""
        try:
            self.spaces = free_spaces(unit_spaces(self.module, shape))
            if not self.spaces:
                self.refused = "it has no units that can change places"
        except UserError as error:
            self.refused = str(error)
        wanted = [align for align in self.config.alignments if align != "none"]
        if self.refused and wanted:
            raise UserError(
                f"functional.average.alignments: {', '.join(wanted)}: the units of this net cannot be permuted "
                f'({self.refused}). With alignments = ["none"] the workers are averaged as they are.'
            )

    def of(self, align: str, repeat: int) -> Aligned:
        """Meetings with one way of aligning."""
        return Aligned(self, align, repeat)

    @cached_property
    def batches(self) -> list[torch.Tensor]:
        """Training images that alignments by activations and statistics of batches are taken from."""
        images, n = self.bench.train, self.config.alignment_images
        order = np.random.default_rng([self.bench.config.seed, len(images)]).permutation(len(images))[:n]
        size = self.bench.config.batch_size
        cut = [order[k : k + size] for k in range(0, len(order), size)]
        return [batch for _, batch in batches_on_device(images, cut, self.bench.device, 0)]

    @cached_property
    def matcher(self) -> ActivationMatcher:
        """Matches units by activations."""
        return ActivationMatcher(copy.deepcopy(self.module), self.spaces, self.batches)

    def nets(self, states: Mapping[str, State]) -> dict[str, nn.Module]:
        """A net for each state, in evaluation mode."""
        found = {}
        for name, state in states.items():
            found[name] = copy.deepcopy(self.module)
            found[name].load_state_dict(state)
        return found

    def mean(self, states: Sequence[State], seen: Sequence[int]) -> State:
        """The average, with its statistics of batches taken anew if that is wanted."""
        mean = average(states, seen)
        if self.norms and self.config.batch_statistics == "reestimate":
            (net,) = self.nets({"": mean}).values()
            reestimate(net, self.batches)
            mean = {name: value.cpu().clone() for name, value in net.state_dict().items()}
        return mean


class Aligned:
    """Meetings of one training."""

    def __init__(self, meeting: Meeting, align: str, repeat: int) -> None:
        self.meeting, self.align = meeting, align
        self.seed = [meeting.bench.config.seed, repeat]
        self.orders: list[Orders] = []

    def meet(
        self, gathered: Mapping[int, Any], seen: Sequence[int], notes: dict[str, Any], scored: bool, edge: bool
    ) -> State:
        """The average of the workers' states, after alignment; every process computes the same.

        Parameters
        ----------
        gathered
            State and moments of each worker.
        seen
            Images that each saw since the last average.
        notes
            Where rounds, bytes and scores are added.
        scored
            Whether the average is scored.
        edge
            Whether the workers are scored too, and averages of workers whose units are in random order.
        """
        for name, empty in (("records", []), ("moved", []), ("sent", 0.0), ("sent_alignment", 0.0)):
            notes.setdefault(name, empty)
        states = [state for state, _ in gathered.values()]
        self.orders, sent = self._orders(states, len(notes["moved"]))
        mean = self.meeting.mean(self._permuted(states, self.orders), seen)
        notes["moved"].append(float(np.mean([moved(orders) for orders in self.orders[1:]])))
        notes["sent_alignment"] += broadcast_bytes(sent, len(states))
        notes["sent"] += reduced_bytes(self._payload(gathered), len(states)) + broadcast_bytes(sent, len(states))
        if scored:
            shown = {"average": mean}
            if edge:
                shown |= {f"worker{k}": state for k, state in enumerate(states)}
                shown |= self._null(states, seen)
            scores = self.meeting.bench.score(self.meeting.nets(shown))
            record = {
                "round": len(notes["moved"]),
                "bytes": notes["sent"],
                "scores": {
                    name: torch.from_numpy(np.stack([s.count, s.correct, s.loss])) for name, s in scores.items()
                },
            }
            notes["records"].append(record)
        return mean

    def settle_moments(self, own: Mapping[int, Trainer], gathered: Mapping[int, Any]) -> None:
        """Bring the optimisers' moments to the order of units that the weights have now; average them if wanted."""
        if self.meeting.config.optimizer_state == "average":
            kinds = {kind for _, found in gathered.values() for kind in found}
            mean = {}
            for kind in sorted(kinds):
                some = {k: found[kind] for k, (_, found) in gathered.items() if kind in found}
                aligned = [self._arrays(arrays, gathered[k][0], self.orders[k]) for k, arrays in some.items()]
                mean[kind] = average(aligned, [1] * len(aligned))
            for trainer in own.values():
                put_moments(trainer, mean)
            return
        for k, trainer in own.items():
            if self.orders[k]:
                found = moments(trainer)
                state = trainer.module.state_dict()
                put_moments(trainer, {kind: self._arrays(a, state, self.orders[k]) for kind, a in found.items()})

    def _arrays(self, arrays: State, state: State, orders: Orders) -> State:
        """Arrays that have an entry for each of a weight, permuted as the weights are."""
        permuted = permuted_state({**state, **arrays}, self.meeting.spaces, orders)
        return {name: permuted[name] for name in arrays}

    def _permuted(self, states: Sequence[State], orders: Sequence[Orders]) -> list[State]:
        return [
            permuted_state(state, self.meeting.spaces, order) if order else state
            for state, order in zip(states, orders, strict=True)
        ]

    def _orders(self, states: Sequence[State], turn: int) -> tuple[list[Orders], int]:
        """Orders of each worker's units (none for the first one), and bytes of the first one that the others need."""
        first, *others = states
        spaces = self.meeting.spaces
        if self.align == "weight":
            names = [name for name, _ in self.meeting.module.named_parameters()]
            sent = n_bytes({name: first[name] for name in names})
            return [{}, *(weight_orders(first, state, spaces, 1, 0) for state in others)], sent
        if self.align == "activation":
            matcher = self.meeting.matcher
            onto = matcher.answers(first)
            orders = [matcher.match(onto, matcher.answers(state)) for state in others]
            return [{}, *orders], matcher.bytes_of(onto)
        if self.align == "random":
            generator = np.random.default_rng([*self.seed, turn])
            return [{}, *(random_orders(spaces, generator) for _ in others)], 0
        return [{} for _ in states], 0

    def _null(self, states: Sequence[State], seen: Sequence[int]) -> dict[str, State]:
        """Averages of the same workers with their units in random order."""
        if not self.meeting.spaces:
            return {}
        generator = np.random.default_rng([*self.seed, len(states)])
        found = {}
        for draw in range(self.meeting.config.null_draws):
            orders: list[Orders] = [{}, *(random_orders(self.meeting.spaces, generator) for _ in states[1:])]
            found[f"null{draw}"] = self.meeting.mean(self._permuted(states, orders), seen)
        return found

    def _payload(self, gathered: Mapping[int, Any]) -> int:
        """Bytes that are averaged: weights, statistics of batches and moments as far as they are."""
        state, moment = next(iter(gathered.values()))
        names = {name for name, _ in self.meeting.module.named_parameters()}
        anew = self.meeting.config.batch_statistics == "reestimate"
        arrays = {name: value for name, value in state.items() if name in names or not anew}
        return n_bytes(arrays) + sum(n_bytes(found) for found in moment.values())
