"""Similarity within classes: what two layers have in common beyond the label of the image.

Every covariance is a covariance of class means plus a covariance within the classes. The measures here see the latter
alone: units that are the class and noise of their own have a similarity of 0, features that do not depend on the label
keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from convergence.analysis import cost
from convergence.analysis.measures import Key, directed, directions_of, draws_of
from convergence.analysis.nulls import SUMS, PairNull
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import (
    Float64,
    Indices,
    Numbers,
    PairShape,
    Parts,
    Replicated,
    Step,
    Tree,
    ranges,
    replicates,
)
from convergence.config.stages import AnalysisConfig
from convergence.inference import jackknife
from convergence.linalg import RandomBases
from convergence.similarity import MEASURES
from convergence.similarity.measure import Measure
from convergence.similarity.pair import PairMoments

WITHIN_MEASURES = ("matching", "semi_matching", "linear_cka", "r_squared")


class WithinClass:
    """The measures above within classes, of all images and fitted and scored on different images.

    The chance level of a linear layer is another basis of the units standardised within the classes. Others have none,
    since pseudo-nets are summed without classes. Steps: replicates (``numbers``), draws of the null (``null``), and
    alignments scored on other images (``held_out``).
    """

    name = "within_class"

    def __init__(self, pair: PairSums, config: AnalysisConfig, nulls: Mapping[str, PairNull]) -> None:
        self._pair, self._nulls = pair, nulls
        loaded: dict[str, Measure] = {name: MEASURES.load(name) for name in WITHIN_MEASURES if name in config.measures}
        self._measures: dict[Key, Measure] = {
            (name, direction): measure for name, measure in loaded.items() for direction in directions_of(measure)
        }

    @classmethod
    def steps(cls, shape: PairShape, config: AnalysisConfig) -> list[Step]:
        """Steps of the method for a pair of a shape."""
        once = cost.CALL / 4 + cost.MEASURES_SQUARE * shape.n**2 + cost.MEASURES * shape.n**3 / 4
        draws = max(shape.null_draws) if shape.rotates_sums else 0
        found = [
            Step(cls.name, name, first, last, seconds=each * (last - first))
            for name, n, each in (("numbers", shape.n_groups + 1, once), ("null", draws, once / 2))
            for first, last in (ranges(n, each, cost.GOAL) if n else ())
        ]
        return [*found, Step(cls.name, "held_out", seconds=once * (2 + shape.n_groups) * 4 / 3)]

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step; without numbers where nothing is known within classes."""
        if self._pair.within_reason:
            return {}
        if step.name == "numbers":
            return replicates(step, lambda left_out: self._numbers(self._of(left_out)))
        if step.name == "null":
            return {str(k): self._null(k) for k in range(step.first, step.last)}
        return self._held_out()

    def tree(self, parts: Parts) -> Tree:
        """By measure and direction, from all images."""
        if self._pair.within_reason:
            return {}
        found = Replicated.of(parts.of(self.name, "numbers"))
        pooled = self._of(None)
        tree: Tree = {}
        for (name, direction), measure in self._measures.items():
            key = f"{name} {direction}"
            estimate = found.estimate(key, measure.smooth).with_draws(draws_of(parts.of(self.name, "null"), key))
            estimate = replace(estimate, ceiling=measure.ceiling(directed(pooled, direction)))
            tree.setdefault(name, {})[direction] = estimate.as_dict()
        return tree

    def held_out(self, parts: Parts) -> Tree:
        """By measure and direction, fitted on one half of the image groups and scored on the other, then reversed."""
        if self._pair.within_reason:
            return {}
        found = parts.one(self.name, "held_out")
        tree: Tree = {}
        for (name, direction), measure in self._measures.items():
            if measure.fit is not None:
                key = f"{name} {direction}"
                estimate = jackknife(float(found["whole"][key]), found["without"][key])
                tree.setdefault(name, {})[direction] = estimate.as_dict()
        return tree

    def _of(self, left_out: int | None) -> PairMoments:
        moments = self._pair.within_classes(left_out)
        assert moments is not None
        return moments

    def _numbers(self, moments: PairMoments) -> Numbers:
        return {" ".join(key): measure(directed(moments, key[1])) for key, measure in self._measures.items()}

    def _null(self, k: int) -> Numbers:
        found: Numbers = {}
        for direction, null in self._nulls.items():
            own = {key: m for key, m in self._measures.items() if m.rotation_null and key[1] == direction}
            if own and null.kind == SUMS and k < null.n_draws:
                moments = null.in_basis(directed(self._of(None), direction), k, self._bases(direction))
                found |= {" ".join(key): measure(moments) for key, measure in own.items()}
        return found

    def _bases(self, direction: str) -> RandomBases:
        return (self._pair.y if direction == "xy" else self._pair.x).bases_within_classes

    def _held_out(self) -> Tree:
        keys = [key for key, measure in self._measures.items() if measure.fit is not None]
        halves = [self._of_groups(self._pair.half(k)) for k in (0, 1)]
        without = []
        for g in range(self._pair.n_groups):
            half = self._pair.half(g % 2)
            left = halves[g % 2] if len(half) < 2 else self._of_groups(half[half != g])
            without.append(self._scores(keys, left, halves[1 - g % 2]))
        return {
            "whole": dict(zip(map(" ".join, keys), self._scores(keys, *halves), strict=True)),
            "without": dict(zip(map(" ".join, keys), np.transpose(without), strict=True)),
        }

    def _of_groups(self, groups: Indices) -> PairMoments:
        moments = self._pair.within_classes_of(groups)
        assert moments is not None
        return moments

    def _scores(self, keys: list[Key], one: PairMoments, other: PairMoments) -> Float64:
        """(n_keys,) scores of what was fitted on one set of images and scored on the other, mean of both ways."""
        found = []
        for name, direction in keys:
            measure = self._measures[name, direction]
            first, second = (directed(moments, direction) for moments in (one, other))
            assert measure.fit is not None
            scores = measure.held_out(measure.fit(first), second), measure.held_out(measure.fit(second), first)
            found.append(np.mean(scores))
        return np.array(found)
