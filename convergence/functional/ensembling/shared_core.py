"""A shared core: an ensemble whose first layers are computed once, by one member, the trunk.

At a layer, the trunk's units are mapped to those of each other member by least squares (or from few units per target),
and the member's own back part, its tail, computes the logits. The ensemble averages the trunk's own prediction and
those of the tails. Cost is multiply–adds of products and convolutions: one front part, the maps and all tails.

Chance: random partners with the affine treatment of the one-to-one matching. A reduced core keeps the trunk's units
with the best worst match over all members, compared with as many random units; then the trunk's own tail has a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from convergence.alignment.sparse import dense_fit
from convergence.config.stages import Comparison
from convergence.errors import ConfigError
from convergence.functional.context import ExperimentContext
from convergence.functional.costs import multiply_adds
from convergence.functional.ensembling.results import (
    FULL,
    SINGLE,
    EnsemblingResults,
    SharedCore,
    SharedSystem,
    SkippedCore,
)
from convergence.functional.prediction_metrics import PredictionMetrics, log_probabilities, mean_probability
from convergence.functional.scores import estimates
from convergence.functional.stitching.maps import NO_PARTNER, AffineMap, Float64, LayerFit
from convergence.functional.surgery.splitting import SplitNetwork, apply_map, slices
from convergence.inference import generator_of


@dataclass(frozen=True, eq=False)
class System:
    """A trunk's maps into the tails of the members, in their order; None for the trunk's own layer.

    ``used`` is the number of connections of the maps at each position.
    """

    mappings: list[AffineMap | None]
    used: int


def shared_core(context: ExperimentContext, comparison: Comparison, trunk: str, names: list[str]) -> EnsemblingResults:
    """Accuracy and cost of a shared core at a layer, of the full ensemble and of the trunk's net alone."""
    splits = []
    for name in names:
        layer = context.layer_of(comparison, name)
        assert layer is not None
        splits.append(context.split(name, layer))
    probe = torch.zeros((1, *context.images.image_shape), device=context.device)
    values = [split.front(probe)[0] for split in splits]
    at = names.index(trunk)
    try:
        _check(comparison, names, splits, values)
    except ConfigError as error:
        return EnsemblingResults(skipped=(SkippedCore(comparison.name, trunk, str(error)),))
    fronts = [multiply_adds(split.front, probe) for split in splits]
    tails = [multiply_adds(split.back, value) for split, value in zip(splits, values, strict=True)]
    positions = int(np.prod(values[at].shape[2:]))
    systems = [_systems(context, comparison, trunk, names, half) for half in (0, 1)]
    keys = [FULL, SINGLE, *systems[0]]
    metrics = PredictionMetrics(keys, len(context.groups), context.config.ensemble.bins)
    for half in (0, 1):
        tails_of = [_Tails(split, [system.mappings[k] for system in systems[half].values()], context.device)
                    for k, split in enumerate(splits)]  # fmt: skip
        for segments, images, labels in context.read_together(context.half(1 - half)):
            fronted = [split.front(images)[0] for split in splits]
            own = [log_probabilities(split.back(value)) for split, value in zip(splits, fronted, strict=True)]
            found = [mean_probability(torch.stack(own)), own[at]]
            tailed = torch.stack([t(fronted[at], own[at]) for t in tails_of])
            found += list(mean_probability(tailed))
            metrics.add_segments(segments, torch.stack(found), labels)
    context.add_up(*metrics.sums)
    costs = {FULL: sum(fronts) + sum(tails), SINGLE: fronts[at] + tails[at]}
    for key in systems[0]:
        used = max(system[key].used for system in systems)
        costs[key] = fronts[at] + sum(tails) + positions * used
    full, alone = metrics.scores(FULL), metrics.scores(SINGLE)
    rows = []
    for key in keys:
        scores = metrics.scores(key)
        differences = scores.accuracy_minus(full), scores.accuracy_minus(alone)
        numbers = (*estimates(scores), metrics.calibration(key), *differences, scores)
        rows.append(SharedSystem(comparison.name, trunk, key, costs[key], *numbers))
    core = SharedCore(
        comparison.name,
        trunk,
        order=[one.name for one in context.comparisons()].index(comparison.name),
        source=splits[at].source,
        n_units=values[at].shape[1],
        front_cost=fronts[at],
        tail_cost=tails[at],
    )
    return EnsemblingResults(cores=(core,), systems=tuple(rows))


def _check(comparison: Comparison, names: list[str], splits: list[SplitNetwork], values: list[torch.Tensor]) -> None:
    for name, split, value in zip(names, splits, values, strict=True):
        if split.bypassing:
            raise ConfigError(
                f"{comparison.name}: values bypass the layer of {name} ({', '.join(split.bypassing[:3])}), so that no "
                "core can be shared there. Choose the output of a block."
            )
        if value.shape[2:] != values[0].shape[2:]:
            raise ConfigError(
                f"{comparison.name}: the layers of {names[0]} and {name} have different positions; a shared core needs "
                "the same. Compare layers with maps of one size."
            )


def _systems(
    context: ExperimentContext, comparison: Comparison, trunk: str, names: list[str], half: int
) -> dict[str, System]:
    """All ways to share the trunk, fitted on a half of the image groups; a null has one per draw."""
    config, seed = context.config.ensemble, context.config.seed
    others = {name: LayerFit.of(context, comparison.name, name, trunk, half) for name in names if name != trunk}
    found: dict[str, System] = {}

    def add(key: str, weights: dict[str, Float64]) -> None:
        fits = {trunk: itself, **others} if trunk in weights else others
        mappings = [fits[name].affine_map(weights[name]) if name in weights else None for name in names]
        found[key] = System(mappings, sum(int(np.count_nonzero(m.weights)) for m in mappings if m is not None))

    itself = LayerFit.of(context, comparison.name, trunk, trunk, half)
    add("least_squares", {name: fit.least_squares() for name, fit in others.items()})
    add("one_to_one", {name: fit.one_to_one(fit.matched()) for name, fit in others.items()})
    for number in sorted(set(config.units_per_target)):
        add(f"sparse_{number}", {name: fit.sparse([number])[number] for name, fit in others.items()})
    for draw in range(config.draws):
        drawn = {name: fit.drawn(generator_of(seed, draw)) for name, fit in others.items()}
        add(f"permuted_{draw}", {name: others[name].one_to_one(partners) for name, partners in drawn.items()})
    order = shared_first(others)
    for share in config.core_shares:
        kept = max(1, round(share * len(order)))
        everyone = {trunk: itself, **others}
        add(f"core_{share:g}", {name: _from_some(fit, order[:kept]) for name, fit in everyone.items()})
        for draw in range(config.draws):
            some = generator_of(seed, draw).permutation(len(order))[:kept]
            add(f"core_{share:g}_random_{draw}", {name: _from_some(fit, some) for name, fit in everyone.items()})
    return found


def shared_first(others: dict[str, LayerFit]) -> np.ndarray:
    """The trunk's live units by their lowest correlation with a partner over all members, the highest first."""
    lowest = np.full(len(next(iter(others.values())).live_b), np.inf)
    for fit in others.values():
        partners = fit.matched()
        r = np.full(len(lowest), -1.0)
        there = np.flatnonzero(partners.unit != NO_PARTNER)
        r[partners.unit[there]] = partners.correlation[there]
        lowest = np.minimum(lowest, r)
    return np.argsort(-lowest, kind="stable")


def _from_some(fit: LayerFit, units: np.ndarray) -> Float64:
    """Weights (n_live_a, n_live_b) of least squares on some units of the trunk."""
    some = np.sort(units)
    weights = np.zeros(fit.correlation.shape)
    weights[:, some] = dense_fit(fit.moments.corr_xx[np.ix_(some, some)], fit.moments.corr_xy[some])[0]
    return weights


class _Tails:
    """A member's tail behind the trunk's layer, for many maps in few passes."""

    def __init__(self, split: SplitNetwork, mappings: list[AffineMap | None], device: torch.device) -> None:
        self._split, self._given = split, [mapping is not None for mapping in mappings]
        some = [mapping for mapping in mappings if mapping is not None]
        self._weights, self._biases = (
            [torch.from_numpy(getattr(mapping, name)).float().to(device) for mapping in some]
            for name in ("weights", "bias")
        )

    def __call__(self, layer: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (m, n, n_classes) from the trunk's layer; ``own`` (n, n_classes) where there is no map."""
        found = []
        for some in slices(len(self._weights), layer.numel()):
            value = apply_map(layer, torch.cat(self._weights[some]), torch.cat(self._biases[some]))
            value = value.unflatten(1, (-1, len(self._biases[0]))).transpose(0, 1)
            found += list(log_probabilities(self._split.back_of_many(value.contiguous())))
        through = iter(found)
        return torch.stack([next(through) if given else own for given in self._given])
