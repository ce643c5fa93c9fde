"""Properties of a measure, from which the analysis derives error bars, chance levels, held-out values and tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from convergence.similarity.pair import PairMoments

Need = Literal["groups", "samples", "gram"]
MISSING: dict[Need, str] = {
    "groups": "pairs of image groups are not known, or there are fewer than three groups",
    "gram": "the statistics hold no finite Gram matrix of the stored images; set statistics.subset and "
    "statistics.image_gram",
    "samples": "the statistics hold no activations of single images; set statistics.subset",
}


@dataclass(frozen=True)
class Measure:
    """A similarity measure with the properties used by figures, error bars, chance levels and property tests.

    Attributes
    ----------
    function : maps a :class:`PairMoments` to a number
    title, source : name, and reference of the formula
    symmetric : invariant to an exchange of the layers
    bounds : smallest and largest value of any pair
    rotation_invariant : invariant to an orthogonal transformation of the units of one layer
    scale_invariant : invariant to a positive factor on any unit, because units are standardised
    distance : 0 means equal, and larger values mean less similar
    of_itself : value for a layer and itself; None if that depends on the layer
    bound : maps a pair to the best value (the largest, or the smallest distance) of all pairs with the same covariances
        within x and within y, for the ceiling; NaN where none is known, None if there is none for any pair
    fit, score : the measure is ``score(fit(pair), pair)``, where the alignment can be fitted on some images and scored
        on others; None for a measure without a fit
    smooth : small changes of the covariances change the value little; false for a share of units, which changes in
        steps
    needs : data that a pair must hold besides covariances
    rotation_null : nets with the same span in another basis give a chance level; by default true unless
        rotation-invariant
    """

    function: Callable[[PairMoments], float]
    title: str
    source: str
    symmetric: bool
    bounds: tuple[float, float]
    rotation_invariant: bool
    scale_invariant: bool = True
    distance: bool = False
    of_itself: float | None = 1.0
    bound: Callable[[PairMoments], float] | None = None
    fit: Callable[[PairMoments], Any] | None = None
    score: Callable[[Any, PairMoments], float] | None = None
    smooth: bool = True
    needs: Need | None = None
    rotation_null: bool | None = None

    def __post_init__(self) -> None:
        if self.rotation_null is None:
            object.__setattr__(self, "rotation_null", not self.rotation_invariant)
        object.__setattr__(self, "__doc__", self.function.__doc__)
        object.__setattr__(self, "__name__", self.function.__name__)
        object.__setattr__(self, "__wrapped__", self.function)

    def __call__(self, pair: PairMoments) -> float:
        """Compute the value, a float within ``bounds``."""
        low, high = self.bounds
        return min(max(float(self.function(pair)), low), high)  # rounding may exceed the bounds by an ulp

    def ceiling(self, pair: PairMoments) -> float:
        """Best value of all pairs with these covariances within the layers; NaN if it is unknown."""
        return float("nan") if self.bound is None else float(self.bound(pair))

    def held_out(self, fitted: Any, pair: PairMoments) -> float:
        """Score an alignment that was fitted on other images; bad predictions may exceed the bounds."""
        assert self.score is not None
        return float(self.score(fitted, pair))

    def unavailable(self, pair: PairMoments) -> str:
        """Explain why the measure is not available for a pair; "" if it is."""
        if self.needs == "groups" and pair.between_groups is None:
            return MISSING["groups"]
        if self.needs == "gram" and (pair.x.gram is None or pair.y.gram is None):
            return MISSING["gram"]
        if self.needs == "samples" and (pair.x.samples is None or pair.y.samples is None):
            return MISSING["samples"]
        return ""


def one(pair: PairMoments) -> float:
    """Bound of means of correlations."""
    return 1.0


def one_for_equal_widths(pair: PairMoments) -> float:
    """Bound of measures that need a counterpart of every unit: 1 for equal widths, unknown for others."""
    return 1.0 if len(pair.cov_xx) == len(pair.cov_yy) else float("nan")


def measure(
    *,
    title: str,
    source: str,
    symmetric: bool,
    bounds: tuple[float, float],
    rotation_invariant: bool,
    **more: Any,
) -> Callable[[Callable[[PairMoments], float]], Measure]:
    """Decorator that turns a function of a pair into a :class:`Measure`; keywords as the attributes of the class."""

    def describe(function: Callable[[PairMoments], float]) -> Measure:
        return Measure(function, title, source, symmetric, bounds, rotation_invariant, **more)

    return describe


def aligned_measure(
    *,
    fit: Callable[[PairMoments], Any],
    title: str,
    source: str,
    symmetric: bool,
    bounds: tuple[float, float],
    rotation_invariant: bool,
    of_the_fit: Callable[[PairMoments], float] | None = None,
    **more: Any,
) -> Callable[[Callable[[Any, PairMoments], float]], Measure]:
    """Decorator of a score ``(fitted, pair) -> number``: the measure fits and scores on the same pair.

    ``of_the_fit`` computes that number without the fit where a formula gives it sooner.
    """

    def describe(score: Callable[[Any, PairMoments], float]) -> Measure:
        def function(pair: PairMoments) -> float:
            return score(fit(pair), pair) if of_the_fit is None else of_the_fit(pair)

        function.__doc__, function.__name__ = score.__doc__, score.__name__
        return Measure(function, title, source, symmetric, bounds, rotation_invariant, fit=fit, score=score, **more)

    return describe
