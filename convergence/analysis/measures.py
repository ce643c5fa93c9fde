"""Measures of a pair of layers, with interval, chance levels and ceiling; and what was aligned on other images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from convergence.analysis.section import Numbers, Replicated, Tree
from convergence.analysis.units import PairSums
from convergence.errors import UserError
from convergence.experiment import AnalysisConfig
from convergence.similarity import MEASURES
from convergence.similarity.measure import Measure
from convergence.similarity.pair import PairMoments
from convergence.uncertainty import jackknife, null_draws, random_rotation

Key = tuple[str, str]
"""Name of a measure, and direction: ``xy``, or ``yx`` for the swapped pair."""


def directed(moments: PairMoments, direction: str) -> PairMoments:
    """A pair, swapped for the direction ``yx``."""
    return moments if direction == "xy" else moments.swapped()


class Measures:
    """Every measure of the config, in both directions if they differ."""

    name = "measures"

    def __init__(self, pair: PairSums, config: AnalysisConfig) -> None:
        self._pair, self._config = pair, config
        self.missing: dict[str, str] = {}
        self._measures: dict[Key, Measure] = {}
        for name in config.measures:
            measure = MEASURES.load(name)
            try:
                reason = measure.unavailable(pair.pooled)
                if not reason:
                    measure(pair.pooled)
            except UserError as error:
                reason = str(error)
            if reason:
                self.missing[name] = reason
                continue
            for direction in ("xy",) if measure.symmetric else ("xy", "yx"):
                self._measures[name, direction] = measure

    def numbers(self, moments: PairMoments) -> Numbers:
        return {
            f"{name} {direction}": measure(directed(moments, direction))
            for (name, direction), measure in self._measures.items()
        }

    def tree(self, found: Replicated) -> Tree:
        pooled, shifted = self._pair.pooled, self._pair.shifted
        rotated = self._rotated(lambda q: self._values_where_rotations_matter(pooled.rotated(q)))
        tree: Tree = {}
        for (name, direction), measure in self._measures.items():
            key = f"{name} {direction}"
            estimate = found.estimate(key, measure.smooth)
            if measure.rotation_null:
                draws = np.array([values[key] for values in rotated])
                estimate = estimate.against((float(draws.mean()), float(draws.std(ddof=1))))
            if shifted is not None and not measure.unavailable(shifted):
                estimate = replace(estimate, shifted=measure(directed(shifted, direction)))
            tree.setdefault(name, {})[direction] = replace(estimate, ceiling=self._of_itself(measure)).as_dict()
        return tree

    def held_out(self) -> Tree:
        """Alignments fitted on one half of the image groups and scored on the other, then the other way round.

        The error is that of the scored images, the alignment as it was fitted; the chance level fits and scores in
        the same rotated basis; the ceiling is a net beside itself, fitted and scored on different images.
        """
        keys = [key for key, measure in self._measures.items() if measure.fit is not None]
        fitted = {key: self._fit_halves(key, self._pair.halves) for key in keys}
        whole = {key: self._score_halves(key, fitted[key], self._pair.halves) for key in keys}
        without: dict[Key, list[float]] = {key: [] for key in keys}
        for g in range(self._pair.n_groups):
            scored = g % 2
            if len(self._pair.half(scored)) > 1:
                moments = self._pair.half_without(g)
                for key in keys:
                    again = self._measures[key].held_out(fitted[key][1 - scored], directed(moments, key[1]))
                    without[key].append((again + whole[key][1 - scored]) / 2)
            else:
                for key in keys:
                    without[key].append(whole[key][1 - scored])
        rotated = self._rotated(self._held_out_rotated)
        ceilings = {name: self._held_out_of_itself(name) for name, _ in keys}
        tree: Tree = {}
        for key in keys:
            name, direction = key
            estimate = jackknife(float(np.mean(whole[key])), without[key])
            if self._measures[key].rotation_null:
                draws = np.array([values[key] for values in rotated])
                estimate = estimate.against((float(draws.mean()), float(draws.std(ddof=1))))
            tree.setdefault(name, {})[direction] = replace(estimate, ceiling=ceilings[name]).as_dict()
        return tree

    def _values_where_rotations_matter(self, moments: PairMoments) -> Numbers:
        return {
            f"{name} {direction}": measure(directed(moments, direction))
            for (name, direction), measure in self._measures.items()
            if measure.rotation_null
        }

    def _rotated(self, values: Any) -> list[Any]:
        if not any(measure.rotation_null for measure in self._measures.values()):
            return []
        n_y = len(self._pair.units_y)
        return null_draws(
            lambda generator: values(random_rotation(n_y, generator)), self._config.rotations, self._config.seed
        )

    def _of_itself(self, measure: Measure) -> float:
        if measure.of_itself is not None:
            return measure.of_itself
        alone = (self._pair.pooled.of_x_alone(), self._pair.pooled.swapped().of_x_alone())
        return float(np.mean([measure(moments) for moments in alone]))

    def _fit_halves(self, key: Key, halves: tuple[PairMoments, PairMoments]) -> list[Any]:
        fit = self._measures[key].fit
        assert fit is not None
        return [fit(directed(half, key[1])) for half in halves]

    def _score_halves(self, key: Key, fitted: list[Any], halves: tuple[PairMoments, PairMoments]) -> list[float]:
        """Scores on the even half and on the odd one, each of what was fitted on the other."""
        return [self._measures[key].held_out(fitted[1 - k], directed(halves[k], key[1])) for k in (0, 1)]

    def _held_out_rotated(self, q: Any) -> dict[Key, float]:
        even, odd = (half.rotated(q) for half in self._pair.halves)
        return {
            key: float(np.mean(self._score_halves(key, self._fit_halves(key, (even, odd)), (even, odd))))
            for key, measure in self._measures.items()
            if measure.fit is not None and measure.rotation_null
        }

    def _held_out_of_itself(self, name: str) -> float:
        even, odd = self._pair.halves
        alone = [(even.of_x_alone(), odd.of_x_alone())]
        alone.append((even.swapped().of_x_alone(), odd.swapped().of_x_alone()))
        scores = [self._score_halves((name, "xy"), self._fit_halves((name, "xy"), both), both) for both in alone]
        return float(np.mean(scores))
