"""What the results say of a population whose truth is known: one number a quantity and draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.metrics import adjusted_rand_score

from benchmarks.truth.populations import Indices, Population
from convergence.results import ALL_IMAGES, DIRECTIONS, HELD_OUT, AnalysisResults, ComparisonResults, Kind, PairResults
from convergence.results.findings import findings
from convergence.results.populations import Summary

LEVEL = 0.05
NONE = float("nan")
Verdict = Literal["", "right", "withheld", "wrong"]
NOT_SAID = "cannot be compared"
"""Words of an answer that is withheld."""
EQUAL = "A differs from B, equal populations"


@dataclass(frozen=True)
class Reading:
    """A number of one draw of a population.

    Attributes
    ----------
    quantity : what it is; a yes or no is 1 or 0
    value, truth : what the results say, and what it is; NaN where a rate has no truth
    over_nets, over_images : whether the 95 % interval over nets, and over images, holds the truth; None without one
    verdict : of a sentence: right, withheld or wrong; "" for other quantities
    draw : number of the draw of the population
    """

    quantity: str
    value: float
    truth: float = NONE
    over_nets: bool | None = None
    over_images: bool | None = None
    verdict: Verdict = ""
    draw: int = 0


def within(low: float, high: float, truth: float) -> bool:
    """Whether an interval holds the truth, up to rounding."""
    return bool(low <= truth + 1e-9 and high >= truth - 1e-9)


def level(comparison: ComparisonResults, kind: Kind = "trained") -> Iterator[Reading]:
    """P-values of units that are in no other net: how often they are small, and how often a net has any discovery."""
    small, any_found = [], []
    for pair in comparison.of_kind(kind):
        for direction in DIRECTIONS:
            semi = pair.semi_matching(direction)
            small.append(np.mean(semi.p <= LEVEL))
            any_found.append(bool((semi.q <= LEVEL).any()))
    yield Reading("P(p ≤ .05)", float(np.mean(small)), LEVEL)
    yield Reading("any false discovery", float(np.mean(any_found)), 0.0)


def excess(comparison: ComparisonResults, kind: Kind = "trained") -> Iterator[Reading]:
    """Mean matched r minus chance, of nets without a common unit."""
    found = comparison.summary("matching", kind, ALL_IMAGES)
    if found is not None:
        holds = within(found.excess_low, found.excess_high, 0.0)
        yield Reading("matched r − chance", found.excess, 0.0, over_nets=None if found.missing else holds)


def discoveries(comparison: ComparisonResults, population: Population, kind: Kind = "trained") -> Iterator[Reading]:
    """Of shared units those found, with the right partner; of the discoveries those that are private units."""
    power, right, false = [], [], []
    for pair in comparison.of_kind(kind):
        for direction in DIRECTIONS:
            own, other = (pair.x, pair.y) if direction == "xy" else (pair.y, pair.x)
            semi = pair.semi_matching(direction)
            cause, partner = population.causes[own][semi.unit], population.causes[other][semi.partner]
            significant, shared = semi.q <= LEVEL, cause >= 0
            if shared.any():
                power.append(np.mean(significant[shared]))
                right.append(np.mean(partner[shared] == cause[shared]))
            false.append((significant & ~shared).sum() / max(significant.sum(), 1))
    if power:
        yield Reading("shared units discovered", float(np.mean(power)), 1.0)
        yield Reading("shared units with the right partner", float(np.mean(right)), 1.0)
    yield Reading("private units among discoveries", float(np.mean(false)), 0.0)


def in_all_nets(comparison: ComparisonResults, truth: float) -> Iterator[Reading]:
    """Share of the units that are present in all trained nets."""
    found = comparison.consensus["trained"]
    yield Reading("share of units in all nets", found.shared[len(found.nets)].value, truth)


def measured(found: Summary | None, name: str, truth: float, of_these: float | None = None) -> Iterator[Reading]:
    """A mean over pairs, and whether its intervals hold the truth: over nets all, over images that ``of_these``."""
    if found is not None:
        here = truth if of_these is None else of_these
        yield Reading(
            name,
            found.value,
            truth,
            None if found.missing or np.isnan(truth) else within(found.low, found.high, truth),
            None if np.isnan(found.image_low + here) else within(found.image_low, found.image_high, here),
        )


def false_differences(comparison: ComparisonResults, measures: Sequence[str]) -> Iterator[Reading]:
    """Whether kinds of pairs that are equal are said to differ."""
    for measure in measures:
        for second in ("untrained", "mixed"):
            for evaluation in (ALL_IMAGES, HELD_OUT):
                found = comparison.difference(measure, "trained", second, evaluation)
                if found is not None:
                    yield Reading(EQUAL, float(found.excludes_zero), 0.0)


def rare(comparison: ComparisonResults, population: Population) -> Iterator[Reading]:
    """Of the units that fire on a few images those that take part, and those flagged as rare."""
    kept, flagged, others = [], [], []
    for net, causes in population.causes.items():
        units = comparison.units(net)
        kept.append(units.active[causes >= 0].mean())
        flagged.append(units.rare[causes >= 0].mean())
        others.append(units.rare[causes < 0].mean())
    yield Reading("rare units that take part", float(np.mean(kept)), 1.0)
    yield Reading("rare units that are flagged", float(np.mean(flagged)))
    yield Reading("other units that are flagged", float(np.mean(others)), 0.0)


def codes(pair: PairResults, truth: dict[str, float]) -> Iterator[Reading]:
    """Held-out shares of units of y by the kind of their code in units of x, and the chance level of each."""
    for code, share in truth.items():
        found = pair.need(f"code_{code}", "xy", HELD_OUT)
        yield Reading(f"code: {code}", found.value, share)
        yield Reading(f"code: {code}, chance level", found.null)


def of_pairs(
    comparison: ComparisonResults, measure: str, evaluation: str, name: str, truth: float
) -> Iterator[Reading]:
    """A number of single pairs with its interval over images."""
    for pair in comparison.of_kind("trained"):
        for found in pair.directions(measure, evaluation):
            yield Reading(name, found.value, truth, over_images=within(found.low, found.high, truth))


def sentences(results: AnalysisResults, claims: Mapping[str, str]) -> Iterator[Reading]:
    """Whether findings say what is true: by question the words that the answer has to have.

    An answer without them is wrong, unless it says that it cannot be given.
    """
    said = {finding.question: finding.verdict for finding in findings(results.all())}
    for question, words in claims.items():
        verdict: Verdict = "right" if words in said[question] else "withheld" if NOT_SAID in said[question] else "wrong"
        yield Reading(f"“{words} …”", float(verdict == "right"), 1.0, verdict=verdict)


def dimensions(comparison: ComparisonResults, truth: int) -> Iterator[Reading]:
    """Numbers of shared dimensions: of all nets at once, and the mean of those of pairs."""
    found = comparison.consensus["trained"].dimensions
    yield Reading("dimensions beyond chance, all nets", float(found.beyond_chance), float(truth))
    yield Reading("shared dimensions (r ≥ .5), all nets", float(found.shared), float(truth))
    pairs = [pair.shared_dimensions for pair in comparison.of_kind("trained")]
    counts = [pair.beyond_chance for pair in pairs if pair is not None]
    yield Reading("dimensions beyond chance, pairs", float(np.mean(counts)), float(truth))


def clusters(pair: PairResults, population: Population) -> Iterator[Reading]:
    """The number of clusters, and their agreement with those planted."""
    found = pair.clusters
    assert found is not None
    planted: list[Indices] = [population.groups[pair.x][pair.units_x], population.groups[pair.y][pair.units_y]]
    labels = np.concatenate([found.labels_x, found.labels_y])
    yield Reading("clusters", float(found.n_clusters), float(len(np.unique(planted))))
    yield Reading("ARI with the planted clusters", float(adjusted_rand_score(np.concatenate(planted), labels)), 1.0)


def mean_of(readings: Sequence[Reading]) -> tuple[float, float]:
    """Mean of the values, and its Monte-Carlo error; NaN with one draw.

    Readings of one draw are of the same nets and images, so that the error is that of a ratio of sums over draws.
    """
    _, place = np.unique([reading.draw for reading in readings], return_inverse=True)
    counts, sums = np.bincount(place), np.bincount(place, [reading.value for reading in readings])
    n, mean = len(counts), float(sums.sum() / counts.sum())
    spread = ((sums - mean * counts) ** 2).sum() * n / max(n - 1, 1)
    return mean, float(np.sqrt(spread) / counts.sum()) if n > 1 else NONE
