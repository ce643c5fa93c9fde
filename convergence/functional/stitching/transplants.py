"""Single units of one net replaced by their partners in another: is correlation a sign of function?

Unit u of A has a partner v in B, by one-to-one matching. The value x of u is replaced by

transplanted   ū + (s_u / s_v)(b_v − b̄_v): the partner, with the mean and standard deviation of u,
random         the same with a random unit of B,
shuffled       ū + r (x − ū) + e', where e is the transplant minus ū + r (x − ū), and e' is e of the next image: an
               error of the same size, and the same correlation r with x, that does not depend on the image,
ablated        ū: the mean of the unit,

one unit at a time. The effect is the rise of the loss. Matching and moments come from one half of the image groups,
effects and match strength (the correlation of the pair) from the other, both ways. Spearman's rank correlation of
strength and effect over units is jackknifed over image groups and compared with random orders of the units.

The error of a transplant has variance 2 (1 − r) s_u², so that strong matches do less harm *because* they change less.
``shuffled`` is a change of the same size; a transplant that does less harm than it shares with A more than r says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from convergence.config.stages import Comparison
from convergence.errors import ConfigError
from convergence.functional.context import ExperimentContext
from convergence.functional.prediction_metrics import Segment, add_scores, segment_sums
from convergence.functional.scores import Scores, mean_scores
from convergence.functional.stitching.maps import NO_PARTNER, LayerFit, Partners
from convergence.functional.stitching.results import CumulativeStep, SkippedPair, StitchingResults, TransplantedLayer
from convergence.functional.stitching.stitched_network import Many, StitchedNetwork, cross_fitted
from convergence.functional.stitching.unit_effects import UnitEffects
from convergence.functional.surgery.splitting import slices
from convergence.inference import generator_of

KINDS = ("transplanted", "random", "shuffled", "ablated")


def transplants(context: ExperimentContext, comparison: Comparison, a: str, b: str) -> StitchingResults:
    """Effects of replacing each unit, and their rank correlation with the strength of the match."""
    key = comparison.name, a, b
    try:
        network = StitchedNetwork(context, comparison, a, b)
    except ConfigError as error:
        return StitchingResults(skipped=(SkippedPair(*key, "transplants", str(error)),))
    fits = [LayerFit.of(context, comparison.name, a, b, half) for half in (0, 1)]
    matched = [fit.matched() for fit in fits]
    drawn = [fit.drawn(generator_of(context.config.seed, half)) for half, fit in enumerate(fits)]
    both = np.flatnonzero(np.all([p.unit != NO_PARTNER for p in (*matched, *drawn)], axis=0))
    units = _some(both, context.config.stitch.transplant_units, context.config.seed)
    if len(units) < 2:
        reason = f"{comparison.name}: {a} and {b} have {len(units)} matched units in both halves."
        return StitchingResults(skipped=(SkippedPair(*key, "transplants", reason),))
    n_groups = len(context.groups)
    own = Scores.zeros(n_groups)
    correct, loss = ({kind: np.zeros((len(units), n_groups)) for kind in KINDS} for _ in range(2))
    for half in (0, 1):
        replacing = _Replacing(fits[half], matched[half], drawn[half], units)
        for segments, images, labels in context.read_together(context.half(1 - half)):
            (value, *passing), given = network.fronts(images)
            logits = network.split_a.back(value, *passing)[None]
            add_scores([(a, own)], segments, segment_sums(logits, labels, segments))
            groups, previous = [group for group, _ in segments], _previous(segments)
            for kind in KINDS:
                for some in slices(len(units), value.numel()):
                    logits = network.split_a.back_of_many(replacing(kind, some, value, given, previous), *passing)
                    sums = segment_sums(logits, labels, segments)
                    correct[kind][some, groups] += sums.correct
                    loss[kind][some, groups] += sums.loss
    context.add_up(*own.sums, *correct.values(), *loss.values())
    held = [fits[1 - half].correlation[units, matched[half].unit[units]] for half in (0, 1)]
    effects = UnitEffects(fits[0].live_a[units], np.mean(held, axis=0), own, correct, loss)
    return StitchingResults(
        transplanted_layers=(TransplantedLayer(*key, len(both), own),),
        unit_replacements=tuple(effects.replacements(*key)),
        effects=tuple(effects.means(*key)),
        ranks=tuple(effects.ranks(*key, context.config.seed)),
    )


def cumulative(context: ExperimentContext, comparison: Comparison, a: str, b: str) -> StitchingResults:
    """Accuracy with more and more units transplanted: best matches first, worst first, and in random order."""
    config, key = context.config.stitch, (comparison.name, a, b)
    try:
        network = StitchedNetwork(context, comparison, a, b)
    except ConfigError as error:
        return StitchingResults(skipped=(SkippedPair(*key, "cumulative", str(error)),))
    fits = [LayerFit.of(context, comparison.name, a, b, half) for half in (0, 1)]
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
                order = generator_of(context.config.seed, int(name.split("_")[1])).permutation(there)
            replaced.append(np.isin(np.arange(len(fit.mean_a)), fit.live_a[order[:number]]))
        return network.through_many([fit.affine_map(fit.one_to_one(partners))] * len(names), replaced)

    names = [(name, number) for name in orders for number in numbers]
    scores = cross_fitted(context, names, fitted)
    steps = []
    for name in ("best", "worst", "random"):
        draws = [order for order in orders if order.startswith(name)]
        for number in numbers:
            mean = mean_scores([scores[order, number] for order in draws])
            steps.append(CumulativeStep(*key, name, number, most, mean.accuracy(), mean.mean_loss()))
    return StitchingResults(cumulative=tuple(steps))


class _Replacing:
    """Layer outputs with single units replaced."""

    def __init__(self, fit: LayerFit, matched: Partners, drawn: Partners, units: np.ndarray) -> None:
        self._fit, self._matched, self._drawn, self._units = fit, matched, drawn, units

    def __call__(
        self, kind: str, some: slice, value: torch.Tensor, given: torch.Tensor, previous: torch.Tensor
    ) -> torch.Tensor:
        """(m, n, units, …) copies of the layer's output, each with one unit of the slice replaced.

        ``previous`` (n,) is the image of the same group whose error a ``shuffled`` image gets.
        """
        units = self._units[some]
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
                new = shared + (new - shared)[:, previous]
        copies = value.expand(len(units), *value.shape).clone()
        copies[torch.arange(len(units)), :, torch.from_numpy(places)] = new
        return copies


def _previous(segments: Sequence[Segment]) -> torch.Tensor:
    """(n,) for each image of a batch the one before it in its group, cyclically."""
    return torch.cat([torch.arange(some.start, some.stop).roll(1) for _, some in segments])


def _along(numbers: np.ndarray, own: torch.Tensor) -> torch.Tensor:
    """Numbers (m,) along the first axis of (m, n, …)."""
    return torch.from_numpy(numbers).to(own.device, own.dtype).view(-1, *[1] * (own.ndim - 1))


def _some(units: np.ndarray, most: int, seed: int) -> np.ndarray:
    """All units, or ``most`` of them drawn by seed, in their order."""
    if len(units) <= most:
        return units
    return np.sort(np.random.default_rng([seed, len(units)]).choice(units, most, replace=False))
