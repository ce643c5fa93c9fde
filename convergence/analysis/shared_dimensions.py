"""Steps that count the dimensions that two nets share, or all nets of a kind.

Directions are fitted on one half of the image groups and scored on the other; see
:mod:`convergence.alignment.shared_dimensions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import numpy as np

from convergence.alignment.shared_dimensions import (
    SharedSpectrum,
    Weights,
    effective_samples,
    held_out_correlations,
    n_dimensions,
    shared_directions,
    shared_spectrum,
)
from convergence.analysis import cost
from convergence.analysis.joint import JointCorrelations, about
from convergence.analysis.many_to_many import joined
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.steps import Float64, Indices, PairShape, Parts, Step, Tree, ranges
from convergence.config.stages import AnalysisConfig
from convergence.inference import jackknife

COUNTS = ("shared_dimensions", "dimensions_beyond_chance", "shared_dimensions_effective")
"""Numbers of a spectrum, in the order of :attr:`SharedSpectrum.without`."""


class HalvesOfImages(Protocol):
    """Correlations (n, n) of the joined units of nets by image groups."""

    net_of_unit: Indices
    n_groups: int

    def pooled(self) -> Float64:
        """From all groups."""
        ...

    def half(self, which: int) -> Float64:
        """From the even groups (0) or the odd ones (1)."""
        ...

    def half_without(self, g: int) -> Float64:
        """From the half of the groups that group ``g`` is in, without it; from all of it, if it is alone."""
        ...

    def of_groups(self, k: int) -> Iterator[Float64]:
        """Correlations within net ``k`` of each group, with means and scales of all groups."""
        ...


class CrossFit:
    """Directions of nets fitted on either half of the image groups and scored on the other."""

    def __init__(self, images: HalvesOfImages) -> None:
        self._images, self._nets = images, images.net_of_unit

    @cached_property
    def both(self) -> Float64:
        """(2, n_dims) held-out correlations; row h is fitted on half h."""
        return np.stack([self._score(self._fitted[h], self._halves[1 - h]) for h in (0, 1)])

    def without(self, g: int) -> tuple[Float64, Float64]:
        """(2, n_dims) each, without group ``g`` in the scores, and in the fit and the scores.

        A group that is a half alone cannot be left out; then the fit on the half scores both rows.
        """
        h, both = g % 2, self.both
        if g < 2 and self._images.n_groups <= g + 2:
            alone = np.stack([both[h], both[h]])
            return alone, alone
        half = self._images.half_without(g)
        scored, refitted = both.copy(), both.copy()
        scored[1 - h] = refitted[1 - h] = self._score(self._fitted[1 - h], half)
        refitted[h] = self._score(self._fit(half), self._halves[1 - h])
        return scored, refitted

    @cached_property
    def _halves(self) -> tuple[Float64, Float64]:
        return self._images.half(0), self._images.half(1)

    @cached_property
    def _fitted(self) -> tuple[Weights, Weights]:
        return self._fit(self._halves[0]), self._fit(self._halves[1])

    @cached_property
    def _shape(self) -> tuple[Float64, int]:
        """Effective samples of each net in a half of the images, and the number of dimensions."""
        pooled = self._images.pooled()
        samples = []
        for k in range(int(self._nets.max()) + 1):
            own = np.flatnonzero(self._nets == k)
            samples.append(effective_samples(pooled[np.ix_(own, own)], self._images.of_groups(k)) / 2)
        return np.array(samples), n_dimensions(pooled, self._nets)

    def next_image(self, between: tuple[Float64, Float64]) -> Float64:
        """(n_dims,) the same for two nets of which the second sees the next image: ``between`` them in both halves."""
        first, second = (np.flatnonzero(self._nets == k) for k in (0, 1))
        halves = []
        for half, block in zip(self._halves, between, strict=True):
            shifted = half.copy()
            shifted[np.ix_(first, second)] = block
            shifted[np.ix_(second, first)] = block.T
            halves.append(shifted)
        return np.mean([self._score(self._fit(halves[h]), halves[1 - h]) for h in (0, 1)], axis=0)

    def _fit(self, correlation: Float64) -> Weights:
        return shared_directions(correlation, self._nets, *self._shape)

    def _score(self, weights: Weights, correlation: Float64) -> Float64:
        return held_out_correlations(weights, correlation, self._nets)


class SharedDimensionsMethod:
    """Dimensions that two nets share.

    Steps: ``both`` ways with all image groups, and with next images where these were summed; ``numbers`` without each
    group.
    """

    name = "shared_dimensions"

    def __init__(self, pair: PairSums, config: AnalysisConfig) -> None:
        self._images = _PairHalves(pair)
        self._fit = CrossFit(self._images)

    @classmethod
    def steps(cls, shape: PairShape, config: AnalysisConfig) -> list[Step]:
        """Steps of the method for a pair of a shape."""
        return dimension_steps(cls.name, [shape.n_x, shape.n_y], shape.n_groups)

    def compute(self, step: Step, parts: Parts) -> Tree:
        """The part of a step."""
        found = dimension_part(self._fit, step)
        between = self._images.next_image() if step.name == "both" else None
        return found if between is None else found | {"next_image": self._fit.next_image(between)}

    def tree(self, parts: Parts) -> Tree:
        """The spectrum, and its numbers as estimates with the number of dimensions as their ceiling."""
        found = dimension_spectrum(self.name, parts)
        values = (float(found.shared), float(found.beyond_chance), found.effective)
        numbers = {
            name: jackknife(value, found.without[:, k], smooth=False).as_dict()
            | {"ceiling": float(len(found.correlation))}
            | ({"low": np.nan, "high": np.nan} if k < 2 else {})
            for k, (name, value) in enumerate(zip(COUNTS, values, strict=True))
        }
        return spectrum_columns(found) | {"numbers": numbers}


def dimension_steps(method: str, widths: list[int], n_groups: int, prefix: str = "") -> list[Step]:
    """Steps ``both`` and ``numbers`` of nets of some widths, with a prefix before their names."""
    each = cost.DIMENSIONS * (sum(width**3 for width in widths) + sum(widths) ** 3) + cost.CALL
    return [
        Step(method, f"{prefix}both", seconds=3 * each),
        *(
            Step(method, f"{prefix}numbers", first, last, seconds=each * (last - first))
            for first, last in ranges(n_groups, each, cost.GOAL)
        ),
    ]


def dimension_part(fit: CrossFit, step: Step) -> Tree:
    """The part of a step of :func:`dimension_steps`."""
    if step.name.endswith("both"):
        return {"both": fit.both}
    return {
        str(g): dict(zip(("scored", "refitted"), fit.without(g), strict=True)) for g in range(step.first, step.last)
    }


def dimension_spectrum(method: str, parts: Parts, prefix: str = "") -> SharedSpectrum:
    """The spectrum from the parts of all steps of :func:`dimension_steps`."""
    whole = parts.one(method, f"{prefix}both")
    without = [piece[g] for piece in parts.of(method, f"{prefix}numbers") for g in sorted(piece, key=int)]
    scored, refitted = (np.stack([one[name] for one in without]) for name in ("scored", "refitted"))
    return shared_spectrum(whole["both"], scored, refitted, whole.get("next_image"))


def spectrum_columns(found: SharedSpectrum) -> Tree:
    """Columns of the tables of spectra."""
    return {"correlation": found.correlation, "standard_error": found.standard_error, "null": found.null}


class NetsHalves:
    """Image groups of all nets of a kind."""

    def __init__(self, joint: JointCorrelations) -> None:
        self._joint = joint
        self.net_of_unit, self.n_groups = joint.net_of_unit, joint.n_groups
        self.pooled, self.half, self.half_without = joint.pooled, joint.half, joint.half_without

    def of_groups(self, k: int) -> Iterator[Float64]:
        """Correlations within net ``k`` of each group, with means and scales of all groups."""
        return self._joint.of_groups(np.flatnonzero(self.net_of_unit == k))


class _PairHalves:
    """Image groups of two nets."""

    def __init__(self, pair: PairSums) -> None:
        self._pair, self.n_groups = pair, pair.n_groups
        self.net_of_unit = np.repeat([0, 1], [len(pair.units_x), len(pair.units_y)])

    def pooled(self) -> Float64:
        return joined(self._pair.pooled)

    def half(self, which: int) -> Float64:
        return joined(self._pair.halves[which])

    def half_without(self, g: int) -> Float64:
        return joined(self._pair.half_without(g))

    def of_groups(self, k: int) -> Iterator[Float64]:
        pair = self._pair
        net, moments = (pair.x, pair.pooled.x) if k == 0 else (pair.y, pair.pooled.y)
        mean = net.sums.sum(axis=0) / pair.count.sum()
        for g in range(pair.n_groups):
            yield about(net.products[g], net.sums[g], float(pair.count[g]), mean, moments.deviation)

    def next_image(self) -> tuple[Float64, Float64] | None:
        """Correlations between x and y of the next image in both halves; None if these were not summed."""
        pair, found = self._pair, []
        if pair.shifted_halves is None:
            return None
        for h, products in enumerate(pair.shifted_halves):
            groups, moments = pair.half(h), pair.halves[h]
            n = float(pair.count[groups].sum())
            means = [net.sums[groups].sum(axis=0) / n for net in (pair.x, pair.y)]
            scale = np.outer(moments.x.deviation, moments.y.deviation)
            found.append(np.clip((products / n - np.outer(*means)) / scale, -1.0, 1.0))
        return found[0], found[1]
