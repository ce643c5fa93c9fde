"""A pair of nets from one side: for each unit of one net its partners, cluster and prediction in the other net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convergence.results import PairResults

Indices = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairView:
    """Units of ``x`` and their counterparts in ``y``; arrays are (n,) over the active units of x unless stated.

    Attributes
    ----------
    units, units_other : indices of the active units of x and of y
    best : partner with the highest correlation, an index within y's layer; with ``best_r``, its error, the held-out
        value, the best direction of a random basis (``null``), p, and q (p adjusted for false discoveries)
    matched : one-to-one partner, -1 for none; r, error and held-out value are then 0
    informative, nats, nats_error : one-to-one partner by mutual information, -1 for none; None if it was not counted
    cluster, cluster_other : spectral cluster of the active units of x and of y (-1: none); None without clusters
    recipe_units, recipe_weights : (n, R) units of y that predict the unit by the LASSO, -1 for none; None without
    recipe_loss, best_loss : ½ (1 − R²) of that prediction, and the smallest held-out loss of all fits
    units_for_90 : units that reach 90 % of the R² of all: -1 none do, 0 where nothing is explained
    """

    x: str
    y: str
    units: Indices
    units_other: Indices
    best: Indices
    best_r: Float64
    best_error: Float64
    best_held_out: Float64
    null: Float64
    p: Float64
    q: Float64
    matched: Indices
    matched_r: Float64
    matched_error: Float64
    matched_held_out: Float64
    informative: Indices | None
    nats: Float64 | None
    nats_error: Float64 | None
    cluster: Indices | None
    cluster_other: Indices | None
    recipe_units: Any
    recipe_weights: Any
    recipe_loss: Any
    best_loss: Any
    units_for_90: Any


def pair_views(pair: PairResults) -> tuple[PairView, PairView]:
    """From x to y, and from y to x."""
    return _view(pair, False), _view(pair, True)


def _view(pair: PairResults, flipped: bool) -> PairView:
    x, y = (pair.y, pair.x) if flipped else (pair.x, pair.y)
    direction, back = ("yx", "xy") if flipped else ("xy", "yx")
    semi, found, nats, clusters = (
        pair.semi_matching(direction), pair.matching, pair.mutual_information, pair.clusters
    )  # fmt: skip
    matched, (r, error, held) = found.unit_y, [found.correlation, found.standard_error, found.held_out]
    if flipped:
        matched, (r, error, held) = _inverted(matched, pair, [r, error, held])
    informative = information = information_error = None
    if nats is not None:
        informative, information, information_error = nats.matched_unit_y, nats.matched_nats, nats.matched_error
        if flipped:
            informative, (information, information_error) = _inverted(
                informative, pair, [information, information_error]
            )
    labels = None if clusters is None else (clusters.labels_x, clusters.labels_y)
    sparse = pair.sparse(back)  # sparse("xy") predicts units of y
    return PairView(
        x=x,
        y=y,
        units=semi.unit,
        units_other=pair.semi_matching(back).unit,
        best=semi.partner,
        best_r=semi.correlation,
        best_error=semi.standard_error,
        best_held_out=semi.held_out,
        null=semi.null,
        p=semi.p,
        q=semi.q,
        matched=matched,
        matched_r=r,
        matched_error=error,
        matched_held_out=held,
        informative=informative,
        nats=information,
        nats_error=information_error,
        cluster=None if labels is None else labels[flipped],
        cluster_other=None if labels is None else labels[not flipped],
        recipe_units=None if sparse is None else sparse.recipe_units,
        recipe_weights=None if sparse is None else sparse.recipe_weights,
        recipe_loss=None if sparse is None else sparse.recipe_loss,
        best_loss=None if sparse is None else sparse.held_out_best_loss,
        units_for_90=None if sparse is None else sparse.units_for_90,
    )


def _inverted(partner: Indices, pair: PairResults, values: list[Float64]) -> tuple[Indices, list[Float64]]:
    """A matching of x's active units as one of y's: -1 and 0 for units of y without a partner."""
    units_x, units_y = pair.units_x, pair.units_y
    position = np.full(int(units_y.max(initial=-1)) + 1, -1)
    position[units_y] = np.arange(len(units_y))
    has = np.flatnonzero(partner >= 0)
    at = position[partner[has]]
    back = np.full(len(units_y), -1)
    back[at] = units_x[has]
    out = []
    for value in values:
        turned = np.zeros(len(units_y))
        turned[at] = value[has]
        out.append(turned)
    return back, out
