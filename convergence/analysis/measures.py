"""Measures of a pair of layers, with interval, chance levels and ceiling; and alignments scored on other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from convergence.analysis import cost
from convergence.analysis.nulls import SUMS, PairNull
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import Numbers, PairShape, Parts, Replicated, Step, Tree, ranges, replicates
from convergence.config.stages import AnalysisConfig
from convergence.errors import UserError
from convergence.inference import jackknife
from convergence.similarity import MEASURES
from convergence.similarity.measure import Measure
from convergence.similarity.pair import PairMoments

Key = tuple[str, str]
"""Name of a measure, and direction: ``xy``, or ``yx`` for the swapped pair."""
Halves = tuple[PairMoments, PairMoments]
EXCESS_OF = "semi_matching"
"""The measure whose excess over its null is a number, too."""
MOST_DRAWS = 200
"""Rotations of the sums for the excess correlation."""
MONTE_CARLO = 0.2
"""Largest error of the mean over draws, in standard errors over images."""


def directed(moments: PairMoments, direction: str) -> PairMoments:
    """A pair, swapped for the direction ``yx``."""
    return moments if direction == "xy" else moments.swapped()


class Measures:
    """Every measure of the config, in both directions if they differ.

    Steps: ``values`` of all groups tells which measures the pair can have; then replicates (``numbers``), draws of the
    null (``null``), more draws for the excess correlation (``more``), and what was aligned on one half of the image
    groups and scored on the other (``held_out``), also in the draws of the null (``held_out_null``).
    """

    name = "measures"

    def __init__(self, pair: PairSums, config: AnalysisConfig, nulls: Mapping[str, PairNull]) -> None:
        self._pair, self._config, self._nulls = pair, config, nulls

    @classmethod
    def steps(cls, shape: PairShape, config: AnalysisConfig) -> list[Step]:
        """Steps of the method for a pair of a shape."""
        once = cost.MEASURES * shape.n**3 + cost.MEASURES_SQUARE * shape.n**2 + cost.CALL
        after, draws = (f"{cls.name}/values",), max(shape.null_draws)
        more = MOST_DRAWS - config.rotations if shape.rotates_sums and EXCESS_OF in config.measures else 0
        found = [Step(cls.name, "values", seconds=once)]
        for name, start, n, each, before in (
            ("numbers", 0, shape.n_groups + 1, once, after),
            ("null", 0, draws, once / 4, after),
            ("held_out_null", 0, draws, once / 8, after),
            ("more", config.rotations, more, once / 32, (*after, f"{cls.name}/numbers", f"{cls.name}/null")),
        ):
            found += [
                Step(cls.name, name, start + first, start + last, after=before, seconds=each * (last - first))
                for first, last in (ranges(n, each, cost.GOAL) if n > 0 else ())
            ]
        return [*found, Step(cls.name, "held_out", after=after, seconds=once * (2 + shape.n_groups) * 4 / 3)]

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step."""
        if step.name == "values":
            return self._values()
        measures = self._chosen(parts)
        draws = range(step.first, step.last)
        if step.name == "numbers":
            return replicates(step, lambda left_out: self._numbers(measures, self._pair.replicate(left_out)))
        if step.name == "held_out":
            return self._held_out(measures)
        if step.name == "null":
            return {str(k): self._null(measures, k) for k in draws}
        if step.name == "held_out_null":
            return {str(k): self._held_out_null(measures, k) for k in draws}
        return self._more_draws(draws, parts)

    def missing(self, parts: Parts) -> dict[str, str]:
        """Measures that the pair cannot have, each with the reason."""
        return dict(parts.one(self.name, "values")["missing"])

    def tree(self, parts: Parts) -> Tree:
        found = Replicated.of(parts.of(self.name, "numbers"))
        levels = parts.one(self.name, "values")
        tree: Tree = {}
        for (name, direction), measure in self._chosen(parts).items():
            key = f"{name} {direction}"
            estimate = found.estimate(key, measure.smooth).with_draws(draws_of(parts.of(self.name, "null"), key))
            shifted = levels["shifted"].get(key, np.nan)
            estimate = replace(estimate, shifted=shifted, ceiling=levels["ceiling"][key])
            tree.setdefault(name, {})[direction] = estimate.as_dict()
        return tree

    def excess(self, parts: Parts) -> Tree:
        """By direction, semi-matching correlation minus its mean under the null (Gurnee et al. 2024, arXiv 2401.12181).

        It is 0 if the units are like those of another basis. The error includes that of the mean over the draws. A
        rotation of the sums can be drawn as often as needed, so there are draws until that error is less than a fifth
        of the standard error over images, but at most :data:`MOST_DRAWS`.
        """
        found, tree = Replicated.of(parts.of(self.name, "numbers")), {}
        for direction in self._nulls if (EXCESS_OF, "xy") in self._chosen(parts) else ():
            key = f"{EXCESS_OF} {direction}"
            draws = [*draws_of(parts.of(self.name, "null"), key), *draws_of(parts.of(self.name, "more"), key)]
            if len(draws) > 1:
                tree[direction] = found.estimate(key).above(draws).as_dict()
        return tree

    def held_out(self, parts: Parts) -> Tree:
        """Alignments fitted on one half of the image groups and scored on the other, then the other way round.

        A replicate leaves a group out of the fit as well as of the score. The chance level fits and scores in the same
        draw of the null; the ceiling is that of the scored images.
        """
        measures = self._chosen(parts)
        found = parts.one(self.name, "held_out")
        tree: Tree = {}
        for name, direction in fitted_ones(measures):
            key = f"{name} {direction}"
            estimate = jackknife(float(found["whole"][key]), found["without"][key])
            estimate = estimate.with_draws(draws_of(parts.of(self.name, "held_out_null"), key))
            tree.setdefault(name, {})[direction] = replace(estimate, ceiling=found["ceiling"][key]).as_dict()
        return tree

    def _values(self) -> Tree:
        """Reasons of measures that are missing; of the others, the level of the next image, and the ceiling."""
        pooled, shifted = self._pair.pooled, self._pair.shifted
        missing: dict[str, str] = {}
        ceiling: dict[str, float] = {}
        of_next: dict[str, float] = {}
        for name in self._config.measures:
            measure: Measure = MEASURES.load(name)
            try:
                reason = measure.unavailable(pooled)
                if not reason:
                    measure(pooled)
            except UserError as error:
                reason = str(error)
            if reason:
                missing[name] = reason
                continue
            for direction in directions_of(measure):
                ceiling[f"{name} {direction}"] = measure.ceiling(directed(pooled, direction))
            if shifted is not None and not measure.unavailable(shifted):
                for direction in directions_of(measure):
                    of_next[f"{name} {direction}"] = measure(directed(shifted, direction))
        return {"missing": missing, "ceiling": ceiling, "shifted": of_next}

    def _chosen(self, parts: Parts) -> dict[Key, Measure]:
        missing = parts.one(self.name, "values")["missing"]
        loaded = {name: MEASURES.load(name) for name in self._config.measures if name not in missing}
        return {(name, direction): measure for name, measure in loaded.items() for direction in directions_of(measure)}

    @staticmethod
    def _numbers(measures: dict[Key, Measure], moments: PairMoments) -> Numbers:
        return {
            f"{name} {direction}": measure(directed(moments, direction))
            for (name, direction), measure in measures.items()
        }

    def _null(self, measures: dict[Key, Measure], k: int) -> Numbers:
        """Numbers of draw ``k``, of the directions that have it."""
        found: Numbers = {}
        for direction, null in self._nulls.items():
            own = {key: m for key, m in measures.items() if m.rotation_null and key[1] == direction}
            if own and k < null.n_draws:
                moments = null.draw(k)
                found |= {" ".join(key): measure(moments) for key, measure in own.items()}
        return found

    def _more_draws(self, draws: range, parts: Parts) -> Tree:
        """Semi-matching correlations of those rotations of the sums that the excess correlation needs."""
        found: Tree = {str(k): {} for k in draws}
        replicated = Replicated.of(parts.of(self.name, "numbers"))
        for direction, null in self._nulls.items():
            key = f"{EXCESS_OF} {direction}"
            if null.kind != SUMS or not null.n_draws:
                continue
            spread = float(np.std(draws_of(parts.of(self.name, "null"), key), ddof=1))
            needed = draws_for(spread, replicated.estimate(key).standard_error)
            for k in range(draws.start, min(draws.stop, needed)):
                found[str(k)][key] = MEASURES.load(EXCESS_OF)(null.draw(k))
        return found

    def _held_out(self, measures: dict[Key, Measure]) -> Tree:
        keys = fitted_ones(measures)
        halves = self._pair.halves
        fitted = {key: self._fit_halves(measures[key], key, halves) for key in keys}
        whole = {key: self._score_halves(measures[key], key, fitted[key], halves) for key in keys}
        without: dict[Key, list[float]] = {key: [] for key in keys}
        for g in range(self._pair.n_groups):
            own = g % 2
            if len(self._pair.half(own)) < 2:
                for key in keys:
                    without[key].append(whole[key][1 - own])
                continue
            moments = self._pair.half_without(g)
            for key in keys:
                measure, left = measures[key], directed(moments, key[1])
                scored = measure.held_out(fitted[key][1 - own], left)
                refitted = measure.held_out(measure.fit(left), directed(halves[1 - own], key[1]))  # type: ignore[misc]
                without[key].append((scored + refitted) / 2)
        ceilings = {key: [measures[key].ceiling(directed(half, key[1])) for half in halves] for key in keys}
        return {
            "whole": {" ".join(key): float(np.mean(whole[key])) for key in keys},
            "without": {" ".join(key): np.array(without[key]) for key in keys},
            "ceiling": {" ".join(key): float(np.mean(ceilings[key])) for key in keys},
        }

    @staticmethod
    def _fit_halves(measure: Measure, key: Key, halves: Halves) -> list[Any]:
        assert measure.fit is not None
        return [measure.fit(directed(half, key[1])) for half in halves]

    @staticmethod
    def _score_halves(measure: Measure, key: Key, fitted: list[Any], halves: Halves) -> list[float]:
        """Scores on the even half and on the odd one, each of what was fitted on the other."""
        return [measure.held_out(fitted[1 - k], directed(halves[k], key[1])) for k in (0, 1)]

    def _held_out_null(self, measures: dict[Key, Measure], k: int) -> Numbers:
        found: Numbers = {}
        for direction, null in self._nulls.items():
            keys = [key for key in fitted_ones(measures) if measures[key].rotation_null and key[1] == direction]
            if not keys or k >= null.n_draws:
                continue
            even, odd = (null.draw(k, half) for half in (0, 1))
            for key in keys:
                measure = measures[key]
                assert measure.fit is not None
                scores = [measure.held_out(measure.fit(one), other) for one, other in ((even, odd), (odd, even))]
                found[" ".join(key)] = float(np.mean(scores))
        return found


def draws_for(spread: float, standard_error: float) -> int:
    """Draws after which the error of their mean is less than :data:`MONTE_CARLO` of a standard error, at most 200."""
    if spread <= 0 or standard_error <= 0:
        return 0 if spread <= 0 else MOST_DRAWS
    return int(min(np.floor((spread / (MONTE_CARLO * standard_error)) ** 2) + 1, MOST_DRAWS))


def fitted_ones(measures: dict[Key, Measure]) -> list[Key]:
    """Those that align, and so can be scored on other images."""
    return [key for key, measure in measures.items() if measure.fit is not None]


def directions_of(measure: Measure) -> tuple[str, ...]:
    """The directions in which a measure differs."""
    return ("xy",) if measure.symmetric else ("xy", "yx")


def draws_of(parts: list[Tree], key: str) -> list[float]:
    """A number in the draws of a null that have it, in their order."""
    numbers = [numbers for part in parts for _, numbers in sorted(part.items(), key=lambda item: int(item[0]))]
    return [float(one[key]) for one in numbers if key in one]
