"""What describes a measure, so that error bars, chance levels, held-out values and tests come by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from convergence.similarity.pair import PairMoments

Need = Literal["hsic", "samples"]
MISSING: dict[Need, str] = {
    "hsic": "a unit is not finite, so that norms are not either",
    "samples": "the statistics hold no activations of single images (statistics.subset)",
}


@dataclass(frozen=True)
class Measure:
    """A function of a pair, with what figures, error bars, nulls and property tests need to know about it.

    Attributes
    ----------
    function : a :class:`PairMoments` to a number
    title, source : its name, and where its formula is from
    symmetric : exchanging the layers changes nothing
    bounds : hold for every pair
    rotation_invariant : an orthogonal transformation of one layer's units changes nothing
    scale_invariant : a positive factor on any unit changes nothing: units are standardised
    distance : 0 says the same, more says less alike
    of_itself : value for a layer beside itself, None where that depends on the layer
    fit, score : the measure is ``score(fit(pair), pair)``: an alignment that can be fitted on some images and scored
        on others; None for a measure that fits nothing
    smooth : a small change of the covariances changes the value little; a share of units that jumps is not
    needs : what a pair must hold beside covariances
    rotation_null : a rotation of y's basis is a chance level; by default if the measure is not invariant to it
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
        """The measure's value, a plain float within ``bounds``."""
        low, high = self.bounds
        return min(max(float(self.function(pair)), low), high)  # rounding may lead an ulp beyond

    def held_out(self, fitted: Any, pair: PairMoments) -> float:
        """The score of what was fitted elsewhere; may leave the bounds, as a bad prediction does."""
        assert self.score is not None
        return float(self.score(fitted, pair))

    def unavailable(self, pair: PairMoments) -> str:
        """Why the measure cannot be taken of this pair; "" if it can."""
        if self.needs == "hsic" and pair.hsic is None:
            return MISSING["hsic"]
        if self.needs == "samples" and (pair.samples_x is None or pair.samples_y is None):
            return MISSING["samples"]
        return ""


def measure(
    *,
    title: str,
    source: str,
    symmetric: bool,
    bounds: tuple[float, float],
    rotation_invariant: bool,
    **more: Any,
) -> Callable[[Callable[[PairMoments], float]], Measure]:
    """Decorator that makes a function of a pair into a :class:`Measure`; keywords as its attributes."""

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
    **more: Any,
) -> Callable[[Callable[[Any, PairMoments], float]], Measure]:
    """Decorator of a score ``(fitted, pair) -> number``: the measure fits and scores on the same pair."""

    def describe(score: Callable[[Any, PairMoments], float]) -> Measure:
        def function(pair: PairMoments) -> float:
            return score(fit(pair), pair)

        function.__doc__, function.__name__ = score.__doc__, score.__name__
        return Measure(function, title, source, symmetric, bounds, rotation_invariant, fit=fit, score=score, **more)

    return describe
