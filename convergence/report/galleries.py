"""Galleries: lists of units side by side, with the numbers by which they were selected.

The selection uses the analysis alone; pictures illustrate it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convergence.report.pair_view import PairView, pair_views
from convergence.results import ComparisonResults, PairResults

EACH = 8
"""Cards of a list."""
SMALL_WEIGHT = 0.05
TERMS = 3
"""Of a recipe that a card shows."""
MOST_CLUSTERS = 4
MOST_MEMBERS = 8


@dataclass(frozen=True)
class CardUnit:
    """A unit on a card: its member, its index there (−1: there is none), and a word above it."""

    net: str
    unit: int
    word: str = ""


@dataclass(frozen=True)
class Card:
    """Units side by side, a title, and the numbers that belong to them."""

    title: str
    parts: tuple[CardUnit, ...]
    text: str


@dataclass(frozen=True)
class Gallery:
    """Lists of cards under one title; ``about`` says how they were chosen."""

    key: str
    title: str
    about: str
    lists: tuple[tuple[str, tuple[Card, ...]], ...]

    def units(self) -> set[tuple[str, int]]:
        """Every unit that a card shows."""
        return {(p.net, p.unit) for _, cards in self.lists for card in cards for p in card.parts if p.unit >= 0}


def galleries(layer: ComparisonResults, pair: PairResults | None) -> list[Gallery]:
    """All galleries that the results of a comparison have something for."""
    found: list[Gallery | None] = []
    if pair is not None:
        found += [function(layer, pair) for function in OF_PAIRS]
    found += [consensus(layer), alone(layer), activity(layer, pair)]
    return [gallery for gallery in found if gallery is not None and any(cards for _, cards in gallery.lists)]


def matched(layer: ComparisonResults, pair: PairResults) -> Gallery:
    """One-to-one matched pairs by correlation: best, median and worst."""
    d = pair_views(pair)[0]

    def card(i: int) -> Card:
        title = f"r = {d.matched_r[i]:z.3f} ± {d.matched_error[i]:z.3f}"
        return _two(d, i, d.matched[i], title, f"held out {d.matched_held_out[i]:z.3f}")

    lists = _ends(np.flatnonzero(d.matched >= 0), d.matched_r, card)
    return Gallery(
        "matched",
        "Matched pairs, by correlation",
        f"Units of {d.x} beside their one-to-one partners of {d.y}: the strongest, the median and the weakest pairs. "
        "Errors are over image groups. Held out: partners are chosen on one half of the images and correlated on the "
        "other half.",
        lists,
    )


def matched_by_information(layer: ComparisonResults, pair: PairResults) -> Gallery | None:
    """One-to-one matched pairs by mutual information."""
    found = pair.mutual_information
    if found is None:
        return None
    d = pair_views(pair)[0]
    partner, nats, error = found.matched_unit_y, found.matched_nats, found.matched_error

    def card(i: int) -> Card:
        same = "the same partner by correlation" if partner[i] == d.matched[i] else (
            f"by correlation unit {d.matched[i]}" if d.matched[i] >= 0 else "none by correlation"
        )  # fmt: skip
        return _two(d, i, int(partner[i]), f"{nats[i]:z.3f} ± {error[i]:z.3f} nats", same)

    return Gallery(
        "information",
        "Matched pairs, by mutual information",
        f"Units of {d.x} beside their partners of {d.y} by the matching with the largest mutual information, which "
        "measures dependence of any shape.",
        _ends(np.flatnonzero(partner >= 0), nats, card),
    )


def where_they_differ(layer: ComparisonResults, pair: PairResults) -> Gallery:
    """Units with a better partner than their one-to-one partner."""
    d = pair_views(pair)[0]
    loss = np.where(d.matched >= 0, d.best_r - d.matched_r, -np.inf)
    order = [i for i in np.argsort(-loss, kind="stable") if loss[i] > 0 and d.best[i] != d.matched[i]][:EACH]
    cards = tuple(
        Card(
            f"r = {d.best_r[i]:z.3f}, then {d.matched_r[i]:z.3f}",
            (
                CardUnit(d.x, int(d.units[i]), d.x),
                CardUnit(d.y, int(d.best[i]), "best"),
                CardUnit(d.y, int(d.matched[i]), "matched"),
            ),
            f"unit {d.units[i]} with its best partner and its one-to-one partner",
        )
        for i in order
    )
    return Gallery(
        "differ",
        "Units whose matched partner is not the best one",
        f"Units of {d.x}, their best partner of {d.y} (which other units may share), and their one-to-one partner. The "
        "largest losses of correlation come first.",
        (("", cards),),
    )


def clusters(layer: ComparisonResults, pair: PairResults) -> Gallery | None:
    """Members of spectral clusters that have units of both nets."""
    found = pair.clusters
    if found is None:
        return None
    between = found.similarity[:, 2]
    both = [k for k in range(len(found.sizes)) if (found.sizes[k] > 0).all()]
    order = sorted(both, key=lambda k: (-between[k], k))[:MOST_CLUSTERS]
    cards = []
    for k in order:
        parts: list[CardUnit] = []
        hidden = 0
        for net, units, labels in (
            (pair.x, pair.units_x, found.labels_x),
            (pair.y, pair.units_y, found.labels_y),
        ):
            members = units[labels == k]
            parts += [CardUnit(net, int(unit), net) for unit in members[: MOST_MEMBERS // 2]]
            hidden += max(0, len(members) - MOST_MEMBERS // 2)
        more = f"; {hidden} more are not shown" if hidden else ""
        n_x, n_y = found.sizes[k]
        text = f"{n_x} units of {pair.x}, {n_y} of {pair.y}; mean |r| between the nets {between[k]:z.3f}{more}"
        cards.append(Card(f"cluster {k}", tuple(parts), text))
    return Gallery(
        "clusters",
        "Members of a cluster across nets",
        f"Spectral clusters of the joined units of {pair.x} and {pair.y} with units of both nets. Clusters with the "
        "most similar units between the nets come first.",
        (("", tuple(cards)),),
    )


def recipes(layer: ComparisonResults, pair: PairResults) -> Gallery | None:
    """Units as sums of few units of the other net, by the LASSO."""
    if pair.sparse_both is None:
        return None
    candidates: list[tuple[float, float, PairView, int]] = []
    for d in pair_views(pair):
        sizes = np.abs(d.recipe_weights)
        first = sizes[:, :TERMS].sum(axis=1) / np.maximum(sizes.sum(axis=1), 1e-300)
        explained = 1 - 2 * d.recipe_loss
        candidates += [
            (float(first[i]), float(explained[i]), d, i)
            for i in range(len(d.units))
            if (sizes[i] >= SMALL_WEIGHT).sum() > 1
        ]
    middle = float(np.median([one[1] for one in candidates])) if candidates else 0.0
    best = [one for one in candidates if one[1] >= middle]
    order = sorted(range(len(best)), key=lambda k: (-best[k][0], k))[:EACH]
    return Gallery(
        "recipes",
        "Sums of few units",
        f"Units of {pair.x} and {pair.y}, predicted by the LASSO from units of the other net, at the largest penalty "
        "within one error of the smallest held-out loss. Weights refer to standardised units. Shown are units with two "
        f"terms or more, from the better explained half, whose {TERMS} largest weights have the largest share.",
        (("", tuple(_recipe(best[k][2], best[k][3], best[k][1]) for k in order)),),
    )


def _recipe(d: PairView, i: int, explained: float) -> Card:
    weights, units = d.recipe_weights[i], d.recipe_units[i]
    shown = [
        (float(weights[k]), int(units[k])) for k in range(min(TERMS, len(units))) if abs(weights[k]) >= SMALL_WEIGHT
    ]
    shown = shown or [(float(weights[0]), int(units[0]))]
    more = int((np.abs(weights) >= SMALL_WEIGHT).sum()) - len(shown)
    title = f"unit {d.units[i]} of {d.x} ≈ {signed_sum([(w, f'unit {u}') for w, u in shown])}{' + …' * (more > 0)}"
    parts = [CardUnit(d.x, int(d.units[i]), d.x)]
    parts += [CardUnit(d.y, u, f"{'≈ ' * (k == 0)}{_signed(w, k == 0)} ×") for k, (w, u) in enumerate(shown)]
    at_least = "at least " * (more + len(shown) == len(weights))
    others = f"; {at_least}{more} more weight{'s' * (more > 1)} of .05 or beyond" if more > 0 else ""
    text = f"the whole recipe explains {100 * explained:.0f} % of its variance (R²){others}"
    return Card(title, tuple(parts), text)


def consensus(layer: ComparisonResults) -> Gallery | None:
    """Units that all nets of a kind have."""
    found = layer.consensus.get("trained")
    if found is None:
        return None
    r, error, nets = found.unit_correlation, found.unit_correlation_error, found.nets
    cards = tuple(
        Card(
            f"r = {r[k]:z.3f} ± {error[k]:z.3f} between members",
            tuple(CardUnit(net, int(unit), net) for net, unit in zip(nets, found.members[k], strict=True)),
            f"consensus unit {k}, present in {found.n_nets[k]} of {len(nets)} nets",
        )
        for k in np.lexsort((-r, -found.n_nets))[:EACH]
    )
    return Gallery(
        "consensus",
        "Consensus units over all nets",
        "All trained nets aligned together, one unit of each net. Units present in most nets come first, then those "
        "with the most similar members. A member counts as present if it correlates with the others more than 95 % "
        "of the units of a net in another basis do.",
        (("", cards),),
    )


def alone(layer: ComparisonResults) -> Gallery | None:
    """Units of trained nets without a similar unit in any other trained net."""
    best: dict[tuple[str, int], dict[str, tuple[float, int]]] = {}
    for pair in layer.of_kind("trained"):
        for d in pair_views(pair):
            for i, unit in enumerate(d.units):
                best.setdefault((d.x, int(unit)), {})[d.y] = (float(d.best_r[i]), int(d.best[i]))
    n_others = max((len(found) for found in best.values()), default=0)
    complete = {unit: found for unit, found in best.items() if len(found) == n_others}
    order = sorted(
        complete, key=lambda unit: (max(r for r, _ in complete[unit].values()), layer.nets.index(unit[0]), unit[1])
    )
    cards = []
    for net, unit in order[:EACH]:
        found = complete[net, unit]
        other = max(found, key=lambda name: found[name][0])
        r, partner = found[other]
        cards.append(
            Card(
                f"r = {r:z.3f} at best",
                (CardUnit(net, unit, net), CardUnit(other, partner, f"{other}, nearest")),
                f"unit {unit} of {net}, in any other trained net",
            )
        )
    if not cards:
        return None
    return Gallery(
        "alone",
        "Units without a counterpart",
        "Units of trained nets with the lowest correlation with their best partner over all other trained nets, beside "
        "that partner.",
        (("", tuple(cards)),),
    )


def activity(layer: ComparisonResults, pair: PairResults | None) -> Gallery:
    """Units of the shown nets with the largest and the smallest mean activation."""
    shown = (pair.x, pair.y) if pair is not None else layer.nets[:2]
    lists = []
    for net in shown:
        units = layer.units(net)
        mean, error, zero = units.mean, units.mean_error, units.zero_fraction
        order = [int(i) for i in np.argsort(-mean, kind="stable") if units.active[i]]

        def card(i: int, net: str = net, mean: Any = mean, error: Any = error, zero: Any = zero) -> Card:
            text = "" if zero is None else f"zero in {100 * zero[i]:.0f} % of the samples"
            return Card(f"mean {mean[i]:.3g} ± {error[i]:.1g}", (CardUnit(net, i, net),), text)

        n = min(EACH, len(order) // 2)
        lists.append((f"{net}, most active", tuple(card(i) for i in order[:n])))
        lists.append((f"{net}, least active", tuple(card(i) for i in order[len(order) - n :][::-1])))
    return Gallery(
        "activity",
        "Most and least active units",
        "By mean activation over all images, without inactive units.",
        tuple(lists),
    )


def signed_sum(terms: Sequence[tuple[float, str]]) -> str:
    """A weighted sum in words: ``.60·unit 3 − .25·unit 9``."""
    return " ".join(f"{_signed(weight, k == 0)}·{name}" for k, (weight, name) in enumerate(terms))


def _signed(weight: float, first: bool) -> str:
    size = f"{abs(weight):.2f}".replace("0.", ".", 1)
    if first:
        return f"−{size}" if weight < 0 else size
    return f"− {size}" if weight < 0 else f"+ {size}"


def _two(d: PairView, i: int, partner: int, title: str, text: str) -> Card:
    return Card(title, (CardUnit(d.x, int(d.units[i]), d.x), CardUnit(d.y, int(partner), d.y)), text)


def _ends(some: Any, values: Any, card: Callable[[int], Card]) -> tuple[tuple[str, tuple[Card, ...]], ...]:
    """Best, median and worst of some indices by their values; each list once over where there are few."""
    order = [int(i) for i in some[np.argsort(-values[some], kind="stable")]]
    if len(order) <= 3 * EACH:
        return (("all, best first", tuple(card(i) for i in order)),)
    middle = (len(order) - EACH) // 2
    return (
        ("best", tuple(card(i) for i in order[:EACH])),
        ("median", tuple(card(i) for i in order[middle : middle + EACH])),
        ("worst", tuple(card(i) for i in order[-EACH:])),
    )


OF_PAIRS: tuple[Callable[[ComparisonResults, PairResults], Gallery | None], ...] = (
    matched, matched_by_information, where_they_differ, recipes, clusters,
)  # fmt: skip
