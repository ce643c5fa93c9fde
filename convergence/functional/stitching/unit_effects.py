"""Effects of replacing single units on the loss, and their rank correlation with the strength of the match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from convergence.functional.scores import Scores
from convergence.functional.stitching.results import RankCorrelation, ReplacementEffect, UnitReplacement
from convergence.inference import jackknife, jackknife_error

Float64 = npt.NDArray[np.float64]
ORDERS = 2000
"""Random orders of the units for the null of a rank correlation."""
FELT = 2.0
"""Standard errors by which ablating a unit has to raise the loss for a share of that rise to be defined."""


@dataclass(frozen=True, eq=False)
class UnitEffects:
    """Correct answers and losses with each unit replaced.

    Attributes
    ----------
    units : (n_units,) indices in the layer
    strength : (n_units,) held-out correlation of each unit with its partner
    own : of the net with its own units
    correct, loss : by kind of replacement, (n_units, n_groups) correct answers and summed losses in nats
    """

    units: npt.NDArray[np.int64]
    strength: Float64
    own: Scores
    correct: Mapping[str, Float64]
    loss: Mapping[str, Float64]

    def gain(self, kind: str, left_out: int | None = None) -> Float64:
        """(n_units,) rise of the mean loss in nats with each unit replaced, without one image group."""
        kept = np.arange(len(self.own.count)) != (-1 if left_out is None else left_out)
        return np.asarray((self.loss[kind] - self.own.loss)[:, kept].sum(axis=1) / self.own.count[kept].sum())

    def felt(self) -> npt.NDArray[np.bool_]:
        """(n_units,) whether ablating the unit raises the loss by more than two standard errors."""
        return np.asarray(self.gain("ablated") > FELT * jackknife_error(self._without("ablated")))

    def replacements(self, comparison: str, a: str, b: str) -> Iterator[UnitReplacement]:
        """A row per unit and kind of replacement."""
        felt = self.felt()
        for kind in self.loss:
            gain, error = self.gain(kind), jackknife_error(self._without(kind))
            for k, unit in enumerate(self.units.tolist()):
                scores = Scores(self.own.count, self.correct[kind][k], self.loss[kind][k])
                numbers = float(self.strength[k]), bool(felt[k]), float(gain[k]), float(error[k])
                yield UnitReplacement(comparison, a, b, kind, unit, *numbers, scores)

    def means(self, comparison: str, a: str, b: str) -> Iterator[ReplacementEffect]:
        """The mean effect of each kind, and its share of the effect of ablation where that is clear."""
        ablated = [self.gain("ablated", group).sum() for group in (None, *range(len(self.own.count)))]
        is_clear = jackknife(ablated[0], ablated[1:]).low > 0
        for kind in self.loss:
            whole, without = self.gain(kind), self._without(kind)
            share = jackknife(float(whole.sum() / ablated[0]), without.sum(axis=1) / ablated[1:]) if is_clear else None
            yield ReplacementEffect(comparison, a, b, kind, jackknife(float(whole.mean()), without.mean(axis=1)), share)

    def ranks(self, comparison: str, a: str, b: str, seed: int) -> Iterator[RankCorrelation]:
        """Rank correlations of match strength with each kind's effect, and ("share") with the harm avoided."""
        felt = self.felt()
        for kind in self.loss:
            yield self._rank((comparison, a, b, kind), partial(self.gain, kind), np.ones(len(felt), dtype=bool), seed)
        yield self._rank((comparison, a, b, "share"), self._share, felt, seed)

    def _without(self, kind: str) -> Float64:
        return np.array([self.gain(kind, group) for group in range(len(self.own.count))])

    def _share(self, left_out: int | None) -> Float64:
        """(n_units,) share of the effect of ablation that the transplant avoids."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(1.0 - self.gain("transplanted", left_out) / self.gain("ablated", left_out))

    def _rank(
        self,
        key: tuple[str, str, str, str],
        of: Callable[[int | None], Float64],
        some: npt.NDArray[np.bool_],
        seed: int,
    ) -> RankCorrelation:
        """Spearman correlation of a number with the strength of the match, against random orders."""
        n = int(some.sum())
        if n < 4:
            return RankCorrelation(*key, n, np.nan, None)
        strength = self.strength[some]
        without = [spearman(strength, of(group)[some]) for group in range(len(self.own.count))]
        found = jackknife(spearman(strength, of(None)[some]), without, smooth=False).within((-1.0, 1.0))
        generator = np.random.default_rng([seed, n])
        ranks, orders = _centred_ranks(of(None)[some]), np.tile(_centred_ranks(strength), (ORDERS, 1))
        generator.permuted(orders, axis=1, out=orders)
        chance = orders @ ranks / max(np.sqrt((ranks @ ranks) * (orders[0] @ orders[0])), np.finfo(float).tiny)
        p = (1 + np.count_nonzero(np.abs(chance) >= abs(found.value) - 1e-12)) / (1 + ORDERS)
        return RankCorrelation(*key, n, float(p), found.against((float(chance.mean()), float(chance.std()))))


def spearman(x: Float64, y: Float64) -> float:
    """Pearson correlation of ranks, ties sharing their mean rank; 0 where all are tied."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _centred_ranks(values: Float64) -> Float64:
    _, tie, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[tie]
    return np.asarray(ranks - ranks.mean())
