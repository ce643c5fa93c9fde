"""An ensemble whose first layers are computed once: one member's trunk, mapped into the tails of the others.

At a layer, the trunk's units are mapped to each other member's by least squares (or from few units a target), and that
member's own layers go on from there. The ensemble averages the trunk's own answer and those of the tails. It costs one
front, the maps and all tails, in multiply–adds of products and convolutions (torch's flop counter; what is counted is
half of its flops, and norms, pooling and activation functions count nothing).

Chance: random partners with the affine treatment of the one-to-one matching. In a reduced core only the trunk's units
that all members share best are kept, beside as many units at random; the trunk's own tail then has a map, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from convergence.alignment.sparse import dense_fit
from convergence.config.stages import Comparison
from convergence.errors import ConfigError
from convergence.functional.answering import Answers, log_probabilities, mean_probability
from convergence.functional.bench import Bench
from convergence.functional.cutting import Cut
from convergence.functional.file import Tree
from convergence.functional.mappings import NO_PARTNER, Fit, Float64, Mapping
from convergence.functional.stitcher import mapped, slices, units_second
from convergence.uncertainty import generator_of

FULL, SINGLE = "full", "trunk"


@dataclass(frozen=True, eq=False)
class System:
    """A trunk's maps into the tails of the members, in their order; None for the trunk's own layer.

    ``used`` are connections that the maps make at each position.
    """

    mappings: list[Mapping | None]
    used: int


def shared_core(bench: Bench, comparison: Comparison, trunk: str, names: list[str]) -> Tree:
    """Accuracy and cost of a shared core at a layer, beside the full ensemble and the trunk's net alone."""
    cuts = []
    for name in names:
        layer = bench.layer_of(comparison, name)
        assert layer is not None
        cuts.append(Cut(bench.net(name), layer))
    probe = torch.zeros((1, *bench.images.image_shape), device=bench.device)
    values = [cut.front(probe)[0] for cut in cuts]
    at = names.index(trunk)
    try:
        _check(comparison, names, cuts, values)
    except ConfigError as error:
        return {"left_out": str(error)}
    fronts = [multiply_adds(cut.front, probe) for cut in cuts]
    tails = [multiply_adds(cut.back, value) for cut, value in zip(cuts, values, strict=True)]
    positions = int(np.prod(units_second(values[at]).shape[2:]))
    systems = [_systems(bench, comparison, trunk, names, half) for half in (0, 1)]
    keys = [FULL, SINGLE, *systems[0]]
    answers = Answers(keys, len(bench.groups), bench.config.ensemble.bins)
    for half in (0, 1):
        tails_of = [_Tails(cut, [system.mappings[k] for system in systems[half].values()], bench.device)
                    for k, cut in enumerate(cuts)]  # fmt: skip
        for group, images, labels in bench.read(bench.half(1 - half)):
            fronted = [cut.front(images)[0] for cut in cuts]
            own = [log_probabilities(cut.back(value)) for cut, value in zip(cuts, fronted, strict=True)]
            found = [mean_probability(torch.stack(own)), own[at]]
            tailed = torch.stack([t(fronted[at], own[at]) for t in tails_of])
            found += list(mean_probability(tailed))
            answers.add(group, torch.stack(found), labels)
    bench.add_up(*answers.sums)
    costs = {FULL: sum(fronts) + sum(tails), SINGLE: fronts[at] + tails[at]}
    for key in systems[0]:
        used = max(system[key].used for system in systems)
        costs[key] = fronts[at] + sum(tails) + positions * used
    tree: Tree = {
        "order": [one.name for one in bench.comparisons()].index(comparison.name),
        "source": cuts[at].source,
        "n_units": units_second(values[at]).shape[1],
        "front_cost": fronts[at],
        "tail_cost": tails[at],
        "systems": {},
    }
    for key in keys:
        scores = answers.scores(key)
        tree["systems"][key] = answers.tree(key) | {
            "cost": costs[key],
            "accuracy_minus_full": scores.accuracy_minus(answers.scores(FULL)).as_dict(),
            "accuracy_minus_trunk": scores.accuracy_minus(answers.scores(SINGLE)).as_dict(),
        }
    return tree


def multiply_adds(function: object, *given: torch.Tensor) -> int:
    """Multiply–adds of products and convolutions for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        function(*given)  # type: ignore[operator]
    return int(counter.get_total_flops()) // 2


def _check(comparison: Comparison, names: list[str], cuts: list[Cut], values: list[torch.Tensor]) -> None:
    for name, cut, value in zip(names, cuts, values, strict=True):
        if cut.bypassing:
            raise ConfigError(
                f"{comparison.name}: in {name} paths lead past the layer ({', '.join(cut.bypassing[:3])}), so that its "
                "tail needs more than the layer, and a core cannot be shared there. Take the output of a block."
            )
        if units_second(value).shape[2:] != units_second(values[0]).shape[2:]:
            raise ConfigError(
                f"{comparison.name}: the layers of {names[0]} and {name} have other positions, and a core for both "
                "needs the same. Compare layers with maps of one size."
            )


def _systems(bench: Bench, comparison: Comparison, trunk: str, names: list[str], half: int) -> dict[str, System]:
    """All ways to share the trunk, fitted on a half of the image groups; each draw of a chance level is one."""
    config, seed = bench.config.ensemble, bench.config.seed
    others = {name: Fit.of(bench, comparison.name, name, trunk, half) for name in names if name != trunk}
    found: dict[str, System] = {}

    def add(key: str, weights: dict[str, Float64]) -> None:
        fits = {trunk: itself, **others} if trunk in weights else others
        mappings = [fits[name].mapping(weights[name]) if name in weights else None for name in names]
        found[key] = System(mappings, sum(int(np.count_nonzero(m.weights)) for m in mappings if m is not None))

    itself = Fit.of(bench, comparison.name, trunk, trunk, half)
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


def shared_first(others: dict[str, Fit]) -> np.ndarray:
    """The trunk's live units, best shared first: by the lowest of their correlations with partners in all members."""
    lowest = np.full(len(next(iter(others.values())).live_b), np.inf)
    for fit in others.values():
        partners = fit.matched()
        r = np.full(len(lowest), -1.0)
        there = np.flatnonzero(partners.unit != NO_PARTNER)
        r[partners.unit[there]] = partners.correlation[there]
        lowest = np.minimum(lowest, r)
    return np.argsort(-lowest, kind="stable")


def _from_some(fit: Fit, units: np.ndarray) -> Float64:
    """Least squares from some of the giving units: weights (n_live_a, n_live_b)."""
    some = np.sort(units)
    weights = np.zeros(fit.correlation.shape)
    weights[:, some] = dense_fit(fit.moments.corr_xx[np.ix_(some, some)], fit.moments.corr_xy[some])[0]
    return weights


class _Tails:
    """A member's tail behind the trunk's layer, through many maps in few passes."""

    def __init__(self, cut: Cut, mappings: list[Mapping | None], device: torch.device) -> None:
        self._cut, self._given = cut, [mapping is not None for mapping in mappings]
        some = [mapping for mapping in mappings if mapping is not None]
        self._weights, self._biases = (
            [torch.from_numpy(getattr(mapping, name)).float().to(device) for mapping in some]
            for name in ("weights", "bias")
        )

    def __call__(self, layer: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The trunk's layer to log-probabilities (m, n, n_classes); ``own`` (n, n_classes) where there is no map."""
        found = []
        for some in slices(len(self._weights), layer.numel()):
            value = units_second(mapped(layer, torch.cat(self._weights[some]), torch.cat(self._biases[some])))
            value = value.unflatten(1, (-1, len(self._biases[0]))).transpose(0, 1)
            value = value.transpose(2, 3) if layer.ndim == 3 else value
            found += list(log_probabilities(self._cut.back_of_many(value.contiguous())))
        through = iter(found)
        return torch.stack([next(through) if given else own for given in self._given])
