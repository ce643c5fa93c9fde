"""In which order the units of one net correspond to those of another, over all unit spaces at once.

By activations: in each space the one-to-one assignment of the largest correlations (Li et al. 2016; Ainsworth et al.
2023, section 3.1). By weights: the orders that make the permuted weights most like the other's, one space after the
other with the rest held still, until nothing changes (Ainsworth et al. 2023, algorithm 1); no image is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.alignment.matching import matching
from convergence.data.images import batches_on_device
from convergence.functional.bench import Bench
from convergence.functional.spaces import Indices, Slot, Space, State, permuted_state
from convergence.networks.layer_reader import LayerReader, as_maps
from convergence.statistics.moments import Moments
from convergence.uncertainty import generator_of

Float64 = npt.NDArray[np.float64]
Orders = dict[str, Indices]
SWEEPS = 100
LEAST_GAIN = 1e-9
"""Of the overlap of weights; a smaller one is rounding, and could go round in circles."""


def fit_batches(bench: Bench, n_images: int) -> Iterator[tuple[Indices, torch.Tensor]]:
    """Some training images, the same ones each time: indices, and the images on the bench's device, in batches."""
    chosen = np.sort(np.random.default_rng(bench.config.seed).permutation(len(bench.train))[:n_images])
    size = bench.config.batch_size
    batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    yield from batches_on_device(bench.train, batches, bench.device, bench.config.loader_workers)


def readings(space: Space) -> list[tuple[str, Indices]]:
    """The layers that make a space's units, and the channels of each that they are, in order."""
    every = np.arange(space.n_units)
    return [
        (slot.parameter.removesuffix(".weight"), slot.entries(every))
        for slot in space.of_role("out")
        if slot.parameter.endswith(".weight")
    ]


def joint_correlations(
    modules: Sequence[nn.Module], spaces: Sequence[Space], batches: Iterator[torch.Tensor]
) -> dict[str, Float64]:
    """For each space the correlations of the units of all nets, (n_nets · n_units)²; the mean over its layers.

    Units are read after their activation function, each position of each image a sample. Units that do not vary
    correlate with nothing.
    """
    read = {space.name: readings(space) for space in spaces}
    layers = list(dict.fromkeys(layer for found in read.values() for layer, _ in found))
    readers = [LayerReader(module, layers) for module in modules]
    sums = {
        (space.name, k): Moments(np.zeros(len(modules) * space.n_units))
        for space in spaces
        for k in range(len(read[space.name]))
    }
    for batch in batches:
        outputs = [{layer: as_maps(value) for layer, value in reader(batch).items()} for reader in readers]
        for (name, k), moments in sums.items():
            layer, channels = read[name][k]
            joined = torch.cat([output[layer][:, torch.from_numpy(channels).to(batch.device)] for output in outputs], 1)
            moments.update(joined.transpose(0, 1).flatten(1).cpu().numpy().astype(np.float32))
    found = {}
    for space in spaces:
        each = [_correlation(sums[space.name, k].covariance()) for k in range(len(read[space.name]))]
        found[space.name] = np.mean(each, axis=0)
    return found


def _correlation(covariance: Float64) -> Float64:
    deviation = np.sqrt(np.diagonal(covariance).clip(0))
    alive = deviation > 0
    scale = np.where(alive, 1 / np.where(alive, deviation, 1.0), 0.0)
    return np.asarray(covariance * scale[:, None] * scale)


def activation_orders(correlations: Mapping[str, Float64], x: int, y: int, n_nets: int = 2) -> Orders:
    """The order of the units of net ``y`` of the joint correlations that puts them beside those of net ``x``."""
    orders = {}
    for name, joint in correlations.items():
        n = len(joint) // n_nets
        orders[name] = matching(joint[x * n : (x + 1) * n, y * n : (y + 1) * n]).columns
    return orders


def random_orders(spaces: Sequence[Space], seed: int, k: int) -> Orders:
    """Draw ``k`` of a random order in every space that has one: the chance level."""
    rng = generator_of(seed, k)
    return {space.name: rng.permutation(space.n_units) for space in spaces}


def weight_orders(fixed: State, moving: State, spaces: Sequence[Space], restarts: int, seed: int) -> Orders:
    """The order of the units of ``moving`` in which its weights overlap most with those of ``fixed``.

    Coordinate ascent ends where no single space can be improved. Each restart goes through the spaces in other orders,
    the first from the units as they are, the others from a random order; the largest overlap wins.
    """
    best: Orders = {}
    most = -np.inf
    for k in range(restarts):
        rng = generator_of(seed, k)
        orders: Orders = {
            space.name: rng.permutation(space.n_units) if k else np.arange(space.n_units) for space in spaces
        }
        state = permuted_state(moving, spaces, orders)
        overlap = _climb(fixed, state, spaces, orders, rng)
        if not best or overlap > most + LEAST_GAIN * abs(most):
            best, most = orders, overlap
    return best


def _climb(fixed: State, state: State, spaces: Sequence[Space], orders: Orders, rng: np.random.Generator) -> float:
    """Improve one space after the other until nothing changes; ``orders`` is changed; the overlap of all weights."""
    for _ in range(SWEEPS):
        changed = False
        for s in rng.permutation(len(spaces)):
            space = spaces[s]
            overlaps = sum(_overlap(slot, space.n_units, fixed, state) for slot in space.slots if _counts(slot))
            found = matching(overlaps)
            now = float(np.trace(overlaps))
            if found.values.sum() > now + LEAST_GAIN * np.abs(overlaps).sum() / space.n_units:
                state.update(permuted_state(state, spaces, {space.name: found.columns}))
                orders[space.name] = orders[space.name][found.columns]
                changed = True
        if not changed:
            break
    return sum(
        float((fixed[name].double() * value.double()).sum()) for name, value in state.items() if _is_weight(name, value)
    )


def _is_weight(name: str, value: torch.Tensor) -> bool:
    return value.is_floating_point() and not name.endswith(("running_mean", "running_var"))


def _counts(slot: Slot) -> bool:
    return not slot.parameter.endswith(("running_mean", "running_var"))


def _overlap(slot: Slot, n_units: int, fixed: State, state: State) -> Float64:
    """(n_units, n_units) inner products of what belongs to a unit of the one net and of the other in a parameter."""
    entries = torch.from_numpy(slot.entries(np.arange(n_units)))
    both = []
    for own in (fixed, state):
        value = own[slot.parameter]
        taken = value.index_select(slot.axis, entries.to(value.device)).movedim(slot.axis, 0)
        both.append(taken.reshape(n_units, -1).double())
    return np.asarray((both[0] @ both[1].T).cpu().numpy())


def mean_state(states: Sequence[State], weights: Sequence[float]) -> State:
    """A weighted mean of nets; whole numbers (counts of batches) are those of the first."""
    return {
        name: sum(w * state[name] for w, state in zip(weights, states, strict=True))  # type: ignore[misc]
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def align_many(states: Sequence[State], spaces: Sequence[Space], seed: int) -> list[Orders]:
    """Orders of all nets that bring each to the mean of the others by weights (MergeMany, Ainsworth et al. 2023).

    Nets take turns in random order until none moves.
    """
    orders: list[Orders] = [{space.name: np.arange(space.n_units) for space in spaces} for _ in states]
    now = [dict(state) for state in states]
    rng = np.random.default_rng(seed)
    for _ in range(SWEEPS):
        moved = False
        for k in rng.permutation(len(states)):
            others = [state for j, state in enumerate(now) if j != k]
            target = mean_state(others, [1 / len(others)] * len(others))
            start = {name: order.copy() for name, order in orders[k].items()}
            _climb(target, now[k], spaces, orders[k], rng)
            moved = moved or any(not np.array_equal(start[name], orders[k][name]) for name in start)
        if not moved:
            break
    return orders


def distance(x: State, y: State) -> float:
    """How far the weights of two nets are from each other, relative to their root mean square length."""
    apart = length = 0.0
    for name, value in x.items():
        if _is_weight(name, value):
            apart += float(((value - y[name]).double() ** 2).sum())
            length += float((value.double() ** 2).sum() + (y[name].double() ** 2).sum()) / 2
    return float(np.sqrt(apart / length)) if length else 0.0
