"""Cycle consistency of the pairwise matchings of several nets: A -> B -> C -> A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convergence.errors import UserError

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class CycleConsistency:
    """Shares of paths A -> B -> C -> A through matchings that return to their unit.

    Attributes
    ----------
    mean : float
        Share of returning paths, averaged over the ordered triples of nets with a path.
    chance : float
        Expected value of ``mean`` for random matchings, the mean of 1 / n_A.
    n_paths : int
        Number of paths of all triples.
    unit_share : K arrays (n_units,)
        Share of returning paths per unit of each net; 0, which is no measurement, without a path.
    unit_paths : K arrays (n_units,)
        Number of ordered triples with a path that starts at the unit, at most (K - 1)(K - 2).
    """

    mean: float
    chance: float
    n_paths: int
    unit_share: tuple[Matrix, ...]
    unit_paths: tuple[Indices, ...]


def cycle_consistency(
    matchings: Mapping[tuple[int, int], ArrayLike], widths: Sequence[int] | None = None
) -> CycleConsistency:
    """Compute the share of units that return to themselves through three nets, over all ordered triples of nets.

    Parameters
    ----------
    matchings : {(a, b): (n_a,)}
        For each pair of nets a < b the partner in b of each unit of a, -1 for none; one-to-one.
    widths : (K,), optional
        Number of units of each net. By default the last net ends at its last unit with a partner.

    Raises
    ------
    UserError
        if there are fewer than three nets, a pair is missing, partners are not one-to-one or do not fit the widths of
        the nets, or no path closes.
    """
    maps, sizes = _both_ways(matchings, widths)
    shares, chances = [], []
    returned, paths = ([np.zeros(size, dtype=np.intp) for size in sizes] for _ in range(2))
    for a, b, c in permutations(range(len(sizes)), 3):
        end = _then(_then(maps[a, b], maps[b, c]), maps[c, a])
        arrives, returns = end >= 0, end == np.arange(sizes[a])
        paths[a] += arrives
        returned[a] += returns
        if arrives.any():
            shares.append(returns.sum() / arrives.sum())
            chances.append(1.0 / sizes[a])
    if not shares:
        raise UserError("no unit has partners along a whole cycle of three nets; match more of the units.")
    return CycleConsistency(
        mean=float(np.mean(shares)),
        chance=float(np.mean(chances)),
        n_paths=int(sum(count.sum() for count in paths)),
        unit_share=tuple(back / np.maximum(count, 1) for back, count in zip(returned, paths, strict=True)),
        unit_paths=tuple(paths),
    )


def _then(first: Indices, second: Indices) -> Indices:
    return np.where(first >= 0, second[first], -1)


def _both_ways(
    matchings: Mapping[tuple[int, int], ArrayLike], widths: Sequence[int] | None
) -> tuple[dict[tuple[int, int], Indices], list[int]]:
    """Expand the matchings to both directions; return them and the width of each net."""
    n_nets = 1 + max((b for _, b in matchings), default=-1)
    pairs = set(combinations(range(n_nets), 2))
    if n_nets < 3 or set(matchings) != pairs:
        raise UserError(
            f"matchings of {len(matchings)} pairs of {n_nets} nets have no cycles; give matchings of all pairs (a, b), "
            "a < b, of at least three nets 0 … K - 1."
        )
    partners = {pair: np.asarray(matchings[pair]) for pair in sorted(pairs)}
    if any(partner.ndim != 1 or partner.dtype.kind != "i" for partner in partners.values()):
        raise UserError("partners must be integers (n_a,): for each unit of a the partner in b, or -1 for none.")
    sizes = [len(partners[a, n_nets - 1]) for a in range(n_nets - 1)]
    sizes.append(1 + max(int(partners[a, n_nets - 1].max(initial=0)) for a in range(n_nets - 1)))
    sizes = sizes if widths is None else list(widths)
    if len(sizes) != n_nets or min(sizes) < 1:
        raise UserError(f"widths {sizes} for {n_nets} nets: give one width per net, at least 1 each.")
    maps = {}
    for (a, b), partner in partners.items():
        units = np.flatnonzero(partner >= 0)
        chosen = partner[units]
        one_to_one = len(np.unique(chosen)) == len(chosen)
        if len(partner) != sizes[a] or partner.min() < -1 or chosen.max(initial=-1) >= sizes[b] or not one_to_one:
            raise UserError(
                f"the partners of net {a} in net {b} are no matching of {sizes[a]} and {sizes[b]} units; give for each "
                "unit of the first net a unit of the second net, each at most once, or -1."
            )
        maps[a, b] = partner.astype(np.intp)
        maps[b, a] = np.full(sizes[b], -1, dtype=np.intp)
        maps[b, a][chosen] = units
    return maps, sizes
