"""Permutations that align the units of one net to those of another, over all permutation groups at once.

By activations: in each group the one-to-one assignment of the largest correlations (Li et al. 2016; Ainsworth et al.
2023, section 3.1). By weights: the permutations that maximise the overlap of the weights, one group after the other
with the others fixed, until none improves (Ainsworth et al. 2023, algorithm 1); it needs no images. Attention heads
stay whole (:mod:`.heads`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.functional.surgery.heads import Orders, best_order, bundles, random_order
from convergence.functional.surgery.permutations import (
    Indices,
    ParameterAxis,
    PermutationGroup,
    State,
    permuted_state,
)
from convergence.inference import generator_of
from convergence.networks.layer_reader import LayerReader
from convergence.statistics.moments import Moments

Float64 = npt.NDArray[np.float64]
SWEEPS = 100
LEAST_GAIN = 1e-9
"""Smallest relative gain of overlap that counts; smaller ones are rounding."""


def movable(groups: Sequence[PermutationGroup]) -> list[PermutationGroup]:
    """Groups whose units can be permuted."""
    return [group for group in groups if not group.fixed and group.n_units > 1]


def random_orders(groups: Sequence[PermutationGroup], generator: np.random.Generator) -> Orders:
    """A random permutation of the units of each group: the null of an alignment."""
    orders: Orders = {}
    for bundle in bundles(groups):
        orders |= random_order(bundle, generator)
    return orders


def moved(orders: Orders) -> float:
    """Share of the units that change places."""
    n = sum(len(order) for order in orders.values())
    return sum(int((order != np.arange(len(order))).sum()) for order in orders.values()) / n if n else 0.0


# ---- by activations ----


def producers(group: PermutationGroup) -> list[tuple[str, Indices]]:
    """The layers that compute a group's units, and the channels of each, in the order of the units."""
    every = np.arange(group.n_units)
    return [
        (axis.parameter.removesuffix(".weight"), axis.entries(every))
        for axis in group.of_role("out")
        if axis.parameter.endswith(".weight")
    ]


def joint_correlations(
    modules: Sequence[nn.Module], groups: Sequence[PermutationGroup], batches: Iterable[torch.Tensor]
) -> dict[str, Float64]:
    """By group, correlations of the units of all nets, (n_nets · n_units)²; means over the group's layers.

    Units are read after their activation function; each position of each image is a sample. Constant units have
    correlation 0.
    """
    read = {group.name: producers(group) for group in groups}
    layers = list(dict.fromkeys(layer for found in read.values() for layer, _ in found))
    readers: list[LayerReader] = []
    sums = {
        (group.name, k): Moments(np.zeros(len(modules) * group.n_units))
        for group in groups
        for k in range(len(read[group.name]))
    }
    for batch in batches:
        readers = readers or [LayerReader(module, layers, batch) for module in modules]
        outputs = [reader(batch) for reader in readers]
        for (name, k), moments in sums.items():
            layer, channels = read[name][k]
            joined = torch.cat([output[layer][:, torch.from_numpy(channels).to(batch.device)] for output in outputs], 1)
            moments.update(joined.transpose(0, 1).flatten(1).cpu().numpy().astype(np.float32))
    found = {}
    for group in groups:
        each = [_correlation(sums[group.name, k].covariance()) for k in range(len(read[group.name]))]
        found[group.name] = np.mean(each, axis=0)
    return found


def _correlation(covariance: Float64) -> Float64:
    deviation = np.sqrt(np.diagonal(covariance).clip(0))
    alive = deviation > 0
    scale = np.where(alive, 1 / np.where(alive, deviation, 1.0), 0.0)
    return np.asarray(covariance * scale[:, None] * scale)


def activation_orders(
    groups: Sequence[PermutationGroup], correlations: Mapping[str, Float64], x: int, y: int
) -> Orders:
    """Orders of the units of net ``y`` that match net ``x``, from the :func:`joint_correlations` of the groups."""
    between = {
        group.name: correlations[group.name][
            x * group.n_units : (x + 1) * group.n_units, y * group.n_units : (y + 1) * group.n_units
        ]
        for group in groups
    }
    return _best_orders(groups, between)


def _best_orders(groups: Sequence[PermutationGroup], similarities: Mapping[str, Float64]) -> Orders:
    orders: Orders = {}
    for bundle in bundles(groups):
        orders |= best_order(bundle, similarities)[0]
    return orders


class ActivationMatcher:
    """Matches units of nets with one module by the correlation of their activations (Li et al. 2016, section 3.2).

    Activations are compared net by net, so that they can be sent from one worker to the others.

    Parameters
    ----------
    module : a net, which is given the weights of each state in turn
    groups : its movable permutation groups
    batches : images
    """

    def __init__(self, module: nn.Module, groups: Sequence[PermutationGroup], batches: Sequence[torch.Tensor]) -> None:
        self.module, self.batches = module, batches
        bundled = [bundle for bundle in bundles(groups) if all(group.layers for group in bundle)]
        self.groups = [group for bundle in bundled for group in bundle]
        self.layers = {group.name: group.layers[0] for group in self.groups}

    def activations(self, state: State) -> dict[str, torch.Tensor]:
        """By group: (n_images · n_positions, n_units) in float64 on the CPU."""
        self.module.load_state_dict(dict(state))
        reader = LayerReader(self.module, list(dict.fromkeys(self.layers.values())), self.batches[0])
        found: dict[str, list[torch.Tensor]] = {name: [] for name in self.layers}
        for batch in self.batches:
            outputs = reader(batch)
            for name, layer in self.layers.items():
                found[name].append(outputs[layer].movedim(1, 2).flatten(0, 1).cpu())
        return {name: torch.cat(parts).double() for name, parts in found.items()}

    def match(self, onto: Mapping[str, torch.Tensor], moving: Mapping[str, torch.Tensor]) -> Orders:
        """Orders of the units of ``moving`` that match ``onto``; constant units have correlation 0."""
        products = {name: (_standardised(x).T @ _standardised(moving[name])).numpy() for name, x in onto.items()}
        return _best_orders(self.groups, products)


def _standardised(values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean(0)
    norm = centred.norm(dim=0)
    return centred / torch.where(norm > 1e-12 * (1 + values.abs().amax(0)), norm, torch.inf)


# ---- by weights ----


def weight_orders(fixed: State, moving: State, groups: Sequence[PermutationGroup], restarts: int, seed: int) -> Orders:
    """Orders of the units of ``moving`` that maximise the overlap of its weights with those of ``fixed``.

    Coordinate ascent ends when no single group can be improved. Each restart visits the groups in another order; the
    first starts from the present order of the units, the others from a random one. The largest overlap wins.
    """
    best: Orders = {}
    most = -np.inf
    for k in range(restarts):
        rng = generator_of(seed, k)
        orders = random_orders(groups, rng) if k else {group.name: np.arange(group.n_units) for group in groups}
        state = permuted_state(moving, groups, orders)
        overlap = _climb(fixed, state, groups, orders, rng)
        if not best or overlap > most + LEAST_GAIN * abs(most):
            best, most = orders, overlap
    return best


def align_many(states: Sequence[State], groups: Sequence[PermutationGroup], seed: int) -> list[Orders]:
    """Orders of all nets that align each to the mean of the others by weights (MergeMany, Ainsworth et al. 2023).

    Nets take turns in random order until none changes.
    """
    orders: list[Orders] = [{group.name: np.arange(group.n_units) for group in groups} for _ in states]
    now = [dict(state) for state in states]
    rng = np.random.default_rng(seed)
    for _ in range(SWEEPS):
        changed = False
        for k in rng.permutation(len(states)):
            others = [state for j, state in enumerate(now) if j != k]
            target = mean_state(others, [1 / len(others)] * len(others))
            start = {name: order.copy() for name, order in orders[k].items()}
            _climb(target, now[k], groups, orders[k], rng)
            changed = changed or any(not np.array_equal(start[name], orders[k][name]) for name in start)
        if not changed:
            break
    return orders


def _climb(
    fixed: State, state: State, groups: Sequence[PermutationGroup], orders: Orders, rng: np.random.Generator
) -> float:
    """Improve one group after the other until none changes, in place; returns the overlap of all weights."""
    every = bundles(groups)
    for _ in range(SWEEPS):
        changed = False
        for s in rng.permutation(len(every)):
            overlaps = {group.name: _overlaps(group, fixed, state) for group in every[s]}
            found, most = best_order(every[s], overlaps)
            now = sum(float(np.trace(each)) for each in overlaps.values())
            least = sum(float(np.abs(each).sum()) / len(each) for each in overlaps.values())
            if most > now + LEAST_GAIN * least:
                state.update(permuted_state(state, groups, found))
                for name, order in found.items():
                    orders[name] = orders[name][order]
                changed = True
        if not changed:
            break
    return sum(
        float((fixed[name].double() * value.double()).sum()) for name, value in state.items() if _counts(name, value)
    )


def _is_weight(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var"))


def _counts(name: str, value: torch.Tensor) -> bool:
    return value.is_floating_point() and _is_weight(name)


def _overlaps(group: PermutationGroup, fixed: State, state: State) -> Float64:
    """(n_units, n_units) inner products of all weights of each unit of both nets."""
    total = np.zeros((group.n_units, group.n_units))
    for axis in group.axes:
        if _is_weight(axis.parameter):
            total += _overlap(axis, group.n_units, fixed, state)
    return total


def _overlap(axis: ParameterAxis, n_units: int, fixed: State, state: State) -> Float64:
    """(n_units, n_units) inner products of a parameter's entries of each unit of both nets."""
    entries = torch.from_numpy(axis.entries(np.arange(n_units)))
    both = []
    for own in (fixed, state):
        value = own[axis.parameter]
        taken = value.index_select(axis.dim, entries.to(value.device)).movedim(axis.dim, 0)
        both.append(taken.reshape(n_units, -1).double())
    return np.asarray((both[0] @ both[1].T).cpu().numpy())


def distance(x: State, y: State) -> float:
    """Distance of the weights of two nets, relative to their root mean square length."""
    apart = length = 0.0
    for name, value in x.items():
        if _counts(name, value):
            apart += float(((value - y[name]).double() ** 2).sum())
            length += float((value.double() ** 2).sum() + (y[name].double() ** 2).sum()) / 2
    return float(np.sqrt(apart / length)) if length else 0.0


# ---- means ----


def mean_state(states: Sequence[State], weights: Sequence[float], dtype: torch.dtype | None = None) -> State:
    """The weighted mean of nets, summed in the order of the nets.

    Parameters
    ----------
    states
        Of nets with the same names and shapes.
    weights
        Their sum is 1.
    dtype
        Of the sums; the type of each array if None.

    Returns
    -------
    The mean in the types of the first state; whole numbers (counts of batches) are those of the first state.
    """
    return {
        name: _weighted_sum([state[name] for state in states], weights, dtype or value.dtype).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in states[0].items()
    }


def _weighted_sum(values: Sequence[torch.Tensor], weights: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    total = torch.zeros((), dtype=dtype, device=values[0].device)
    for value, weight in zip(values, weights, strict=True):
        total = total + weight * value.to(dtype)
    return total
