"""Measures of a pair of layers, with interval, chance levels and ceiling; and what was aligned on other images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from convergence.analysis import cost
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import Numbers, PairShape, Parts, Replicated, Step, Tree, ranges, replicates
from convergence.config.stages import AnalysisConfig
from convergence.errors import UserError
from convergence.inference import generator_of, jackknife
from convergence.linalg import random_rotation
from convergence.similarity import MEASURES
from convergence.similarity.measure import Measure
from convergence.similarity.pair import PairMoments

Key = tuple[str, str]
"""Name of a measure, and direction: ``xy``, or ``yx`` for the swapped pair."""
Halves = tuple[PairMoments, PairMoments]


def directed(moments: PairMoments, direction: str) -> PairMoments:
    """A pair, swapped for the direction ``yx``."""
    return moments if direction == "xy" else moments.swapped()


class Measures:
    """Every measure of the config, in both directions if they differ.

    Steps: ``values`` of all groups tells which measures the pair can have; then replicates, chance levels, and what was
    aligned on one half of the image groups and scored on the other, in the pair's basis and in rotated ones.
    """

    name = "measures"

    def __init__(self, pair: PairSums, config: AnalysisConfig) -> None:
        self._pair, self._config = pair, config

    @classmethod
    def steps(cls, shape: PairShape, config: AnalysisConfig) -> list[Step]:
        """Steps of the method for a pair of a shape."""
        once = cost.MEASURES * shape.n**3 + cost.MEASURES_SQUARE * shape.n**2 + cost.CALL
        after = (f"{cls.name}/values",)
        found = [Step(cls.name, "values", seconds=once)]
        for name, n, each in (
            ("numbers", shape.n_groups + 1, once),
            ("rotated", config.rotations, once / 4),
            ("held_out_rotated", config.rotations, once / 8),
        ):
            found += [
                Step(cls.name, name, first, last, after=after, seconds=each * (last - first))
                for first, last in ranges(n, each, cost.GOAL)
            ]
        return [*found, Step(cls.name, "held_out", after=after, seconds=once * (2 + shape.n_groups) * 2 / 3)]

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step."""
        if step.name == "values":
            return self._values()
        measures = self._chosen(parts)
        if step.name == "numbers":
            return replicates(step, lambda left_out: self._numbers(measures, self._pair.replicate(left_out)))
        if step.name == "held_out":
            return self._held_out(measures)
        draws = range(step.first, step.last)
        n_y = len(self._pair.units_y)
        rotations = ((k, random_rotation(n_y, generator_of(self._config.seed, k))) for k in draws)
        if step.name == "rotated":
            matter = {key: measure for key, measure in measures.items() if measure.rotation_null}
            return {str(k): self._numbers(matter, self._pair.pooled.rotated(q)) if matter else {} for k, q in rotations}
        return {str(k): self._held_out_rotated(measures, q) for k, q in rotations}

    def missing(self, parts: Parts) -> dict[str, str]:
        """Measures that the pair cannot have, each with the reason."""
        return dict(parts.one(self.name, "values")["missing"])

    def tree(self, parts: Parts) -> Tree:
        found = Replicated.of(parts.of(self.name, "numbers"))
        chance = parts.one(self.name, "values")
        rotated = _draws(parts.of(self.name, "rotated"))
        tree: Tree = {}
        for (name, direction), measure in self._chosen(parts).items():
            key = f"{name} {direction}"
            estimate = found.estimate(key, measure.smooth)
            if measure.rotation_null:
                estimate = estimate.against(_level(rotated, key))
            shifted = chance["shifted"].get(key, np.nan)
            estimate = replace(estimate, shifted=shifted, ceiling=chance["of_itself"][name])
            tree.setdefault(name, {})[direction] = estimate.as_dict()
        return tree

    def held_out(self, parts: Parts) -> Tree:
        """Alignments fitted on one half of the image groups and scored on the other, then the other way round.

        The error is that of the scored images, the alignment as it was fitted; the chance level fits and scores in
        the same rotated basis; the ceiling is a net beside itself, fitted and scored on different images.
        """
        measures = self._chosen(parts)
        found = parts.one(self.name, "held_out")
        rotated = _draws(parts.of(self.name, "held_out_rotated"))
        tree: Tree = {}
        for name, direction in fitted_ones(measures):
            key = f"{name} {direction}"
            estimate = jackknife(float(found["whole"][key]), found["without"][key])
            if measures[name, direction].rotation_null:
                estimate = estimate.against(_level(rotated, key))
            tree.setdefault(name, {})[direction] = replace(estimate, ceiling=found["of_itself"][name]).as_dict()
        return tree

    def _values(self) -> Tree:
        """Reasons of measures that are missing; of the others, the level of the next image, and of a net by itself."""
        pooled, shifted = self._pair.pooled, self._pair.shifted
        missing: dict[str, str] = {}
        of_itself: dict[str, float] = {}
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
            of_itself[name] = self._of_itself(measure)
            if shifted is not None and not measure.unavailable(shifted):
                for direction in _directions(measure):
                    of_next[f"{name} {direction}"] = measure(directed(shifted, direction))
        return {"missing": missing, "of_itself": of_itself, "shifted": of_next}

    def _chosen(self, parts: Parts) -> dict[Key, Measure]:
        missing = parts.one(self.name, "values")["missing"]
        loaded = {name: MEASURES.load(name) for name in self._config.measures if name not in missing}
        return {(name, direction): measure for name, measure in loaded.items() for direction in _directions(measure)}

    @staticmethod
    def _numbers(measures: dict[Key, Measure], moments: PairMoments) -> Numbers:
        return {
            f"{name} {direction}": measure(directed(moments, direction))
            for (name, direction), measure in measures.items()
        }

    def _held_out(self, measures: dict[Key, Measure]) -> Tree:
        keys = fitted_ones(measures)
        halves = self._pair.halves
        fitted = {key: self._fit_halves(measures[key], key, halves) for key in keys}
        whole = {key: self._score_halves(measures[key], key, fitted[key], halves) for key in keys}
        without: dict[Key, list[float]] = {key: [] for key in keys}
        for g in range(self._pair.n_groups):
            scored = g % 2
            if len(self._pair.half(scored)) > 1:
                moments = self._pair.half_without(g)
                for key in keys:
                    again = measures[key].held_out(fitted[key][1 - scored], directed(moments, key[1]))
                    without[key].append((again + whole[key][1 - scored]) / 2)
            else:
                for key in keys:
                    without[key].append(whole[key][1 - scored])
        return {
            "whole": {" ".join(key): float(np.mean(whole[key])) for key in keys},
            "without": {" ".join(key): np.array(without[key]) for key in keys},
            "of_itself": {name: self._held_out_of_itself(measures[name, "xy"], name) for name, _ in keys},
        }

    def _of_itself(self, measure: Measure) -> float:
        if measure.of_itself is not None:
            return measure.of_itself
        alone = (self._pair.pooled.of_x_alone(), self._pair.pooled.swapped().of_x_alone())
        return float(np.mean([measure(moments) for moments in alone]))

    @staticmethod
    def _fit_halves(measure: Measure, key: Key, halves: Halves) -> list[Any]:
        assert measure.fit is not None
        return [measure.fit(directed(half, key[1])) for half in halves]

    @staticmethod
    def _score_halves(measure: Measure, key: Key, fitted: list[Any], halves: Halves) -> list[float]:
        """Scores on the even half and on the odd one, each of what was fitted on the other."""
        return [measure.held_out(fitted[1 - k], directed(halves[k], key[1])) for k in (0, 1)]

    def _held_out_rotated(self, measures: dict[Key, Measure], q: Any) -> Numbers:
        keys = [key for key in fitted_ones(measures) if measures[key].rotation_null]
        if not keys:
            return {}
        even, odd = (half.rotated(q) for half in self._pair.halves)
        found: Numbers = {}
        for key in keys:
            fitted = self._fit_halves(measures[key], key, (even, odd))
            found[" ".join(key)] = float(np.mean(self._score_halves(measures[key], key, fitted, (even, odd))))
        return found

    def _held_out_of_itself(self, measure: Measure, name: str) -> float:
        even, odd = self._pair.halves
        alone = [(even.of_x_alone(), odd.of_x_alone())]
        alone.append((even.swapped().of_x_alone(), odd.swapped().of_x_alone()))
        key = (name, "xy")
        scores = [self._score_halves(measure, key, self._fit_halves(measure, key, both), both) for both in alone]
        return float(np.mean(scores))


def fitted_ones(measures: dict[Key, Measure]) -> list[Key]:
    """Those that align, and so can be scored on other images."""
    return [key for key, measure in measures.items() if measure.fit is not None]


def _directions(measure: Measure) -> tuple[str, ...]:
    return ("xy",) if measure.symmetric else ("xy", "yx")


def _draws(parts: list[Tree]) -> list[Tree]:
    return [numbers for part in parts for _, numbers in sorted(part.items(), key=lambda item: int(item[0]))]


def _level(draws: list[Tree], key: str) -> tuple[float, float]:
    """Mean and standard deviation of a number over draws of a null."""
    values = np.array([draw[key] for draw in draws])
    return float(values.mean()), float(values.std(ddof=1))
