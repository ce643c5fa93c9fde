"""The chance level of a pair, or of all nets: a net with the same span of activations in another basis.

For a layer with an elementwise nonlinearity the other basis is that of the pre-activations: the pseudo-nets that the
statistics summed (:class:`~convergence.statistics.null_sums.NullSums`). They keep the marginals of rectified units,
which another basis of the activations would not. For a linear layer the sums themselves are taken to another basis,
which is exact. Where neither is possible, there is no chance level, and a reason says why.

Draw k of a net is the same draw in every pair of the net.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.joint import JointCorrelations
from convergence.analysis.pair_sums import PairSums
from convergence.config.stages import AnalysisConfig
from convergence.inference import generator_of
from convergence.linalg import RandomBases
from convergence.similarity.layer import LayerMoments
from convergence.similarity.pair import PairMoments
from convergence.statistics.file import ComparisonSums

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
PRE_ACTIVATIONS, SUMS = "pre-activations", "sums"
DRAWS_BYTES = 32e6
"""Memory of all draws of a direction that are kept for further steps."""
DRAW_MATRICES = 8
"""Matrices of a draw: covariances, correlations, and those of the swapped pair."""
LEAST_VARIANCE = 1e-7
"""A pseudo-unit with less than this share of the variance of the unit in its place is constant: rounding of float32."""


def n_draws(sums: ComparisonSums, member: str, config: AnalysisConfig) -> int:
    """Draws of the null of a member, 0 without a null; reads no matrix."""
    kind = sums.null_kind[sums.nets.index(member)]
    if kind == SUMS:
        return config.rotations
    return 0 if kind != PRE_ACTIVATIONS or sums.null is None else sums.null.n_draws


def null_reason(sums: ComparisonSums, member: str) -> str:
    """Why a member has no null; "" for a member that has one."""
    k = sums.nets.index(member)
    if sums.null_kind[k] == SUMS or (sums.null_kind[k] == PRE_ACTIVATIONS and sums.null is not None):
        return ""
    return sums.null_reason[k] or "the statistics hold no pseudo-nets of this layer"


class NullUnits:
    """The pseudo-net of a member: pseudo-units in the places of its active units, those that vary in both halves.

    Attributes
    ----------
    units : (n_active,) indices of the active units along the comparison's axis
    span : the member's range of that axis
    """

    def __init__(self, sums: ComparisonSums, live: ActiveUnits, member: str) -> None:
        assert sums.null is not None
        own = sums.units(member)
        self._null = sums.null
        self.span = slice(int(own[0]), int(own[-1]) + 1)
        self._active = np.flatnonzero(live.alive[own])
        self.units = own[self._active]
        self._live: dict[int, Indices] = {}

    def live(self, draw: int) -> Indices:
        """Positions within the member of the pseudo-units that vary."""
        if draw not in self._live:
            variance = self._null.real_variance(None, self.span)[self._active]
            least = LEAST_VARIANCE * np.maximum(variance, 0.0)  # rounding may leave less than 0 of a constant unit
            found = np.ones(len(self._active), dtype=bool)
            for half in (0, 1):
                found &= np.diagonal(self._null.within(half, draw, self.span))[self._active] > least
            self._live[draw] = self._active[found]
        return self._live[draw]

    def within(self, half: int | None, draw: int) -> Float64:
        """Covariances (n, n) of the live pseudo-units of a draw."""
        live = self.live(draw)
        return self._null.within(half, draw, self.span)[np.ix_(live, live)]

    def cross(self, half: int | None, draw: int, others: slice, units: Indices) -> tuple[Float64, Float64]:
        """Covariances (n_units, n) of real ``units`` of a range of the axis with live pseudo-units; their variances.

        ``units`` are positions within the range ``others``.
        """
        covariance = self._null.cross(half, draw, others, self.span)[np.ix_(units, self.live(draw))]
        return covariance, self._null.real_variance(half, others)[units]


class PairNull:
    """The chance level of a pair in one direction: ``xy`` has y in another basis, ``yx`` has x in another basis.

    Attributes
    ----------
    kind : "pre-activations", "sums", or "" for no chance level
    """

    def __init__(
        self,
        sums: ComparisonSums,
        live: ActiveUnits,
        pair: PairSums,
        members: tuple[str, str],
        direction: str,
        config: AnalysisConfig,
    ) -> None:
        self._sums, self._pair, self._config, self._direction = sums, pair, config, direction
        self._real, self._other = members if direction == "xy" else members[::-1]
        self._index = sums.nets.index(self._other)
        self.kind = sums.null_kind[self._index]
        self._planned = n_draws(sums, self._other, config)
        own = sums.units(self._real)
        self._units = np.flatnonzero(live.alive[own])
        self._span = slice(int(own[0]), int(own[-1]) + 1)
        self._drawn: dict[tuple[int, int | None], PairMoments] = {}
        widest = max(len(pair.x), len(pair.y))
        self._keeps = 8 * DRAW_MATRICES * 3 * self._planned * widest**2 <= DRAWS_BYTES
        self._pseudo = NullUnits(sums, live, self._other) if self.kind == PRE_ACTIVATIONS and self._planned else None

    @cached_property
    def reason(self) -> str:
        """Why there is no chance level; "" if there is one."""
        if not self._planned:
            return null_reason(self._sums, self._other)
        if self._pseudo is not None and not all(len(self._pseudo.live(k)) for k in range(self._planned)):
            return f"no pseudo-unit of {self._other} varies in both halves of the image groups"
        return ""

    @property
    def n_draws(self) -> int:
        """Number of draws; 0 without a chance level."""
        return 0 if self.reason else self._planned

    def draw(self, k: int, half: int | None = None) -> PairMoments:
        """The pair in draw ``k``, from all image groups or from a half of them.

        For ``xy`` the pair of x with the other basis of y, for ``yx`` of y with the other basis of x. Correlations of
        pre-activations are those of the samples that the null uses. Draws of small layers are kept.
        """
        found = self._drawn.get((k, half))
        if found is None:
            found = self._drawn_anew(k, half)
            if self._keeps:
                self._drawn[k, half] = found
        return found

    def _drawn_anew(self, k: int, half: int | None) -> PairMoments:
        real = self._pair.pooled if half is None else self._pair.halves[half]
        real = real if self._direction == "xy" else real.swapped()
        if self._pseudo is None:
            return self.in_basis(real, k, self._bases)
        between, variance = self._pseudo.cross(half, k, self._span, self._units)
        deviation = np.sqrt(np.where(variance > 0, variance, np.diagonal(real.cov_xx)))
        x = LayerMoments(real.corr_xx * np.outer(deviation, deviation))
        return PairMoments(real.n, x, between, LayerMoments(self._pseudo.within(half, k)))

    def in_basis(self, moments: PairMoments, k: int, bases: RandomBases) -> PairMoments:
        """Moments of the same units with the second member in the basis of draw ``k``; of the kind "sums" alone."""
        return moments.in_basis(bases.draw(generator_of(self._config.seed, k, self._index)))

    @cached_property
    def _bases(self) -> RandomBases:
        """Bases of the second member, by its correlations over all image groups."""
        return (self._pair.y if self._direction == "xy" else self._pair.x).bases

    def draws(self) -> range:
        """Indices of all draws."""
        return range(self.n_draws)


def pair_nulls(
    sums: ComparisonSums, live: ActiveUnits, pair: PairSums, x: str, y: str, config: AnalysisConfig
) -> dict[str, PairNull]:
    """The chance levels of both directions."""
    return {way: PairNull(sums, live, pair, (x, y), way, config) for way in ("xy", "yx")}


class NetNull:
    """Correlations of all nets of a kind with one net in another basis.

    Attributes
    ----------
    draws_of : by net, in the order of the kind, the number of draws
    """

    def __init__(
        self,
        sums: ComparisonSums,
        live: ActiveUnits,
        nets: list[str],
        joint: JointCorrelations,
        config: AnalysisConfig,
    ) -> None:
        self._sums, self._live, self._nets, self._joint, self._config = sums, live, nets, joint, config
        self.draws_of = [n_draws(sums, net, config) for net in nets]
        self._bases: dict[int, RandomBases] = {}

    def replaced(self, k: int, draw: int) -> tuple[Float64, Indices] | None:
        """(n, n) correlations of the joined units with net ``k`` in the basis of a draw, and (n,) the net of each.

        Within net ``k`` they are 1 on the diagonal and 0 elsewhere: alignments of nets do not use them. None if no
        pseudo-unit of the draw varies.
        """
        net_of_unit = self._joint.net_of_unit
        own, others = np.flatnonzero(net_of_unit == k), np.flatnonzero(net_of_unit != k)
        found = self._in_basis(own, others, k, draw) if self._is_linear(k) else self._cross(others, k, draw)
        n = found.shape[1]
        if not n:
            return None
        pooled = self._joint.pooled()
        matrix = np.eye(len(others) + n)
        matrix[: len(others), : len(others)] = pooled[np.ix_(others, others)]
        matrix[: len(others), len(others) :] = found
        matrix[len(others) :, : len(others)] = found.T
        return matrix, np.concatenate([net_of_unit[others], np.full(n, k)])

    def _is_linear(self, k: int) -> bool:
        return self._sums.null_kind[self._sums.nets.index(self._nets[k])] == SUMS

    def _in_basis(self, own: Indices, others: Indices, k: int, draw: int) -> Float64:
        """Correlations (n_others, n) of the others with the units of net k in a random basis."""
        pooled = self._joint.pooled()
        if k not in self._bases:
            self._bases = {k: RandomBases(pooled[np.ix_(own, own)])}
        basis = self._bases[k].draw(generator_of(self._config.seed, draw, self._sums.nets.index(self._nets[k])))
        return np.clip(pooled[np.ix_(others, own)] @ basis, -1.0, 1.0)

    def _cross(self, others: Indices, k: int, draw: int) -> Float64:
        """Correlations (n_others, n) of the others with the live pseudo-units of net k."""
        pseudo = NullUnits(self._sums, self._live, self._nets[k])
        deviation = np.sqrt(np.diagonal(pseudo.within(None, draw)))
        blocks = []
        for net in dict.fromkeys(self._joint.net_of_unit[others].tolist()):
            own = self._sums.units(self._nets[net])
            units = np.flatnonzero(self._live.alive[own])
            span = slice(int(own[0]), int(own[-1]) + 1)
            between, variance = pseudo.cross(None, draw, span, units)
            scale = np.sqrt(np.where(variance > 0, variance, np.inf))
            blocks.append(np.clip(between / scale[:, None] / deviation, -1.0, 1.0))
        return np.concatenate(blocks)
