"""Single units of one net replaced by their partners in another: is correlation a sign of function?

Unit u of A has a partner v in B, by the one-to-one matching. In the place of u's value x comes

transplanted   ū + (s_u / s_v)(b_v − b̄_v): the partner, with u's mean and standard deviation,
random         the same with a random unit of B,
shuffled       ū + r (x − ū) + e'; e is what the transplant has beyond ū + r (x − ū), e' is that of the next
               image: an error of the same size and correlation r with x that has nothing to do with the image,
ablated        ū: the unit's mean, all that it says taken away,

one unit at a time, everything else of A as it is. What the loss gains against A's own is the effect. Matching and
moments come from one half of the image groups, effects and the strength of the match (the correlation of the pair) from
the other, both ways. If correlation is a sign of function, strong matches do less harm: Spearman's rank correlation
over units, jackknifed over image groups, against random orders of the units.

Plainly: with the transplant's error of variance 2 (1 − r) s_u², a strong match has to do less harm *because* it is a
small change. ``shuffled`` is what a change of that size does; transplants that do less harm than it carry in what they
do not share something that A can use.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from convergence.config.stages import Comparison
from convergence.errors import ConfigError
from convergence.functional.bench import Bench
from convergence.functional.effects import Effects
from convergence.functional.file import Tree
from convergence.functional.mappings import NO_PARTNER, Fit, Partners
from convergence.functional.scoring import mean_scores
from convergence.functional.stitcher import Many, Stitcher, answers, cross_fitted, slices, units_second
from convergence.uncertainty import generator_of

logger = logging.getLogger(__name__)
KINDS = ("transplanted", "random", "shuffled", "ablated")


def transplants(bench: Bench, comparison: Comparison, a: str, b: str) -> Tree:
    """Effects of each unit, and what they have to do with the strength of its match."""
    try:
        stitcher = Stitcher(bench, comparison, a, b)
    except ConfigError as error:
        return {"left_out": str(error)}
    fits = [Fit.of(bench, comparison.name, a, b, half) for half in (0, 1)]
    matched = [fit.matched() for fit in fits]
    drawn = [fit.drawn(generator_of(bench.config.seed, half)) for half, fit in enumerate(fits)]
    both = np.flatnonzero(np.all([p.unit != NO_PARTNER for p in (*matched, *drawn)], axis=0))
    units = _some(both, bench.config.stitch.transplant_units, bench.config.seed)
    if len(units) < 2:
        return {"left_out": f"{comparison.name}: {a} and {b} have {len(units)} matched units in both halves."}
    n_groups = len(bench.groups)
    loss = {kind: np.zeros((len(units), n_groups)) for kind in KINDS}
    correct = {kind: np.zeros((len(units), n_groups)) for kind in KINDS}
    own = np.zeros((3, n_groups))
    for half in (0, 1):
        replacing = _Replacing(fits[half], matched[half], drawn[half], units)
        for group, images, labels in bench.read(bench.half(1 - half)):
            (value, *passing), given = stitcher.fronts(images)
            plain = stitcher.cut_a.back(value, *passing)
            own[:, group] += (len(labels), *(float(n[0]) for n in answers(plain[None], labels)))
            for kind in KINDS:
                for some in slices(len(units), value.numel()):
                    logits = stitcher.cut_a.back_of_many(replacing(kind, some, value, given), *passing)
                    right, losses = answers(logits, labels)
                    correct[kind][some, group] += right
                    loss[kind][some, group] += losses
    bench.add_up(own, *correct.values(), *loss.values())
    held = [fits[1 - half].correlation[units, matched[half].unit[units]] for half in (0, 1)]
    effects = Effects(fits[0].live_a[units], np.mean(held, axis=0), own[0], own[2], loss)
    return {"n_units": len(both), "correct": correct, "own_correct": own[1], **effects.tree(bench.config.seed)}


def cumulative(bench: Bench, comparison: Comparison, a: str, b: str) -> Tree:
    """Accuracy with ever more units transplanted: the best matches first, the worst first, in random order."""
    config = bench.config.stitch
    try:
        stitcher = Stitcher(bench, comparison, a, b)
    except ConfigError as error:
        return {"left_out": str(error)}
    fits = [Fit.of(bench, comparison.name, a, b, half) for half in (0, 1)]
    matched = [fit.matched() for fit in fits]
    most = min(int((partners.unit != NO_PARTNER).sum()) for partners in matched)
    numbers = sorted({round(most * step / config.cumulative_steps) for step in range(config.cumulative_steps + 1)})
    orders = ["best", "worst", *(f"random_{draw}" for draw in range(config.draws))]

    def fitted(half: int) -> Many:
        fit, partners = fits[half], matched[half]
        there = np.flatnonzero(partners.unit != NO_PARTNER)
        best = there[np.argsort(-partners.correlation[there], kind="stable")]
        replaced = []
        for name, number in names:
            order = best if name == "best" else best[::-1]
            if name.startswith("random"):
                order = generator_of(bench.config.seed, int(name.split("_")[1])).permutation(there)
            replaced.append(np.isin(np.arange(len(fit.mean_a)), fit.live_a[order[:number]]))
        mapping = fit.mapping(fit.one_to_one(partners))
        return stitcher.through_many([mapping] * len(names), replaced)

    names = [(name, number) for name in orders for number in numbers]
    scores = cross_fitted(bench, names, fitted)
    tree: Tree = {"numbers": np.array(numbers), "n_units": most}
    for name in ("best", "worst", "random"):
        of_name = [order for order in orders if order.startswith(name)]
        merged = [mean_scores([scores[order, number] for order in of_name]) for number in numbers]
        tree[name] = {
            **{key: np.array([getattr(s.accuracy(), key) for s in merged]) for key in ("value", "low", "high")},
            "loss": np.array([s.mean_loss().value for s in merged]),
        }
    return tree


class _Replacing:
    """Makes a layer's output with single units replaced, many at a time."""

    def __init__(self, fit: Fit, matched: Partners, drawn: Partners, units: np.ndarray) -> None:
        self._fit, self._matched, self._drawn, self._units = fit, matched, drawn, units

    def __call__(self, kind: str, some: slice, value: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """(m, n, units, …) copies of the layer's output, each with one unit of the slice replaced."""
        units = self._units[some]
        ndim = value.ndim
        value, given = units_second(value), units_second(given)
        fit = self._fit
        places = fit.live_a[units]
        own = value[:, places].transpose(0, 1)
        mean = _along(fit.mean_a[places], own)
        if kind == "ablated":
            new = mean.expand_as(own)
        else:
            partners = self._drawn if kind == "random" else self._matched
            gives = fit.live_b[partners.unit[units]]
            spread_a = np.sqrt(np.diagonal(fit.moments.cov_yy)[units])
            spread_b = np.sqrt(np.diagonal(fit.moments.cov_xx)[partners.unit[units]])
            theirs = given[:, gives].transpose(0, 1)
            new = mean + _along(spread_a / spread_b, own) * (theirs - _along(fit.mean_b[gives], own))
            if kind == "shuffled":
                shared = mean + _along(partners.correlation[units], own) * (own - mean)
                new = shared + (new - shared).roll(1, dims=1)
        copies = value.expand(len(units), *value.shape).clone()
        copies[torch.arange(len(units)), :, torch.from_numpy(places)] = new
        return copies.transpose(2, 3) if ndim == 3 else copies


def _along(numbers: np.ndarray, own: torch.Tensor) -> torch.Tensor:
    """Numbers (m,) along the first axis of (m, n, …)."""
    return torch.from_numpy(numbers).to(own.device, own.dtype).view(-1, *[1] * (own.ndim - 1))


def _some(units: np.ndarray, most: int, seed: int) -> np.ndarray:
    """All units, or so many of them drawn by seed, in their order."""
    if len(units) <= most:
        return units
    return np.sort(np.random.default_rng([seed, len(units)]).choice(units, most, replace=False))
