"""A pair of nets read from either side: what each unit of one has in the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convergence.summary import PairResult

Indices = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Direction:
    """Units of ``x`` and what they have in ``y``; arrays are over the live units of x, (n,) unless said otherwise.

    Attributes
    ----------
    units : indices of the live units within x's layer
    best : partner with the highest correlation, an index within y's layer; with ``best_r``, its error, the value held
        out, the best direction of a rotated basis (``null``), the chance to reach the unit's so (p) and q, with
        false-discovery control
    matched : one-to-one partner, −1 for none; r, error and held-out value are 0 then
    informative, nats : one-to-one partner by mutual information, −1 for none; None where it was not counted
    cluster, cluster_other : spectral cluster of the live units of x and of y (−1: none); None without
    units_other : indices of the live units within y's layer
    recipe_units, recipe_weights : (n, R) units of y that predict the unit by the LASSO, −1 for none; None without
    recipe_loss, best_loss : ½ (1 − R²) of that, and what of all fits holds best on other images
    units_for_90 : units that reach 90 % of what all explain: −1 none do, 0 where nothing is explained
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


def directions(pair: PairResult) -> tuple[Direction, Direction]:
    """From x to y, and from y to x."""
    return _direction(pair, False), _direction(pair, True)


def _direction(pair: PairResult, flipped: bool) -> Direction:
    tree = pair.tree
    a, information, clusters = tree["alignment"], tree.get("information"), tree.get("clusters")
    x, y = (pair.y, pair.x) if flipped else (pair.x, pair.y)
    of_x, of_y = ("y", "x") if flipped else ("x", "y")
    units, units_other = tree[f"units_{of_x}"], tree[f"units_{of_y}"]
    semi = f"semi_{of_x}{of_y}"
    values = [a["matching_correlation"], a["matching_error"], a["matching_held_out"]]
    matched, (r, error, held) = a["matching"], values
    if flipped:
        matched, (r, error, held) = _inverted(a["matching"], pair, values)
    informative = nats = nats_error = None
    if information is not None:
        informative, (nats, nats_error) = information["matching"], (
            information["matching_nats"], information["matching_error"],
        )  # fmt: skip
        if flipped:
            informative, (nats, nats_error) = _inverted(information["matching"], pair, [nats, nats_error])
    sparse = tree.get(f"sparse_{of_y}{of_x}")  # sparse_xy predicts units of y
    return Direction(
        x=x,
        y=y,
        units=units,
        units_other=units_other,
        best=a[semi],
        best_r=a[f"{semi}_correlation"],
        best_error=a[f"{semi}_error"],
        best_held_out=a[f"{semi}_held_out"],
        null=a[f"{semi}_null"],
        p=a[f"{semi}_p"],
        q=a[f"{semi}_q"],
        matched=matched,
        matched_r=r,
        matched_error=error,
        matched_held_out=held,
        informative=informative,
        nats=nats,
        nats_error=nats_error,
        cluster=None if clusters is None else clusters[f"labels_{of_x}"],
        cluster_other=None if clusters is None else clusters[f"labels_{of_y}"],
        recipe_units=None if sparse is None else sparse["recipe_units"],
        recipe_weights=None if sparse is None else sparse["recipe_weights"],
        recipe_loss=None if sparse is None else sparse["unit_loss"][sparse["chosen"]],
        best_loss=None if sparse is None else sparse["held_out_best_unit_loss"],
        units_for_90=None if sparse is None else sparse["units_for_90"],
    )


def _inverted(partner: Indices, pair: PairResult, values: list[Float64]) -> tuple[Indices, list[Float64]]:
    """A matching of x's live units as one of y's: −1 and 0 for units of y that nobody has."""
    units_x, units_y = pair.tree["units_x"], pair.tree["units_y"]
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
