"""Stitching: whether a layer can be computed by another net, and a unit by its match."""

from __future__ import annotations

import re
from collections.abc import Sequence

from convergence.figures.stitch import accuracy_by_layer, accuracy_by_share, accuracy_by_units, effect_by_strength
from convergence.functional.file import FunctionalResults
from convergence.report.matters import Chapter
from convergence.report.stitched import WORDS, StitchedLayer, layers_of
from convergence.report.tables import MISSING, Table, interval
from convergence.uncertainty import Estimate, jackknife

TITLE = "Can a layer be computed by another net, and a unit by its match?"
ABOUT = (
    "The front of one net, an affine map from its units to those of the other, and the back of that one (Lenc & "
    "Vedaldi 2015, Bansal et al. 2021). Maps come from the sums of one half of the image groups, scores from the "
    "images of the other half, both ways; intervals are over image groups, the maps as they were fitted. One-to-one "
    "partners keep the mean and standard deviation of the unit that they stand for. Mapped values may be below zero "
    "where a ReLU would have none. A rank correlation's chance level is that of random orders of the units; units of "
    "one layer are not independent, so its p-value is rough. Docs: functional_stitch.md."
)
REPLACEMENTS = {
    "transplanted": "its partner",
    "random": "a random unit",
    "shuffled": "as correlated, the rest of the next image",
    "ablated": "its mean",
}


def chapter(results: FunctionalResults) -> Chapter:
    """The chapter of ``stitch.h5``."""
    layers = layers_of(results)
    some = [layer for layer in layers if layer.found]
    sentences = [
        *(_accuracy(layer) for layer in some if layer.pairs("trained")),
        *_ranks(some),
        *_harm(some),
        *_bypassed(some),
        *(sentence for layer in layers for sentence in layer.left_out),
    ]
    drawings = [accuracy_by_layer(some)] if some else []
    drawings += [d for make in (accuracy_by_units, effect_by_strength, accuracy_by_share) if (d := make(some))]
    tables = (_maps_table(some), _mapping_layers(some), _effects_table(some))
    return Chapter(TITLE, tuple(sentences), ABOUT, tuple(t for t in tables if t.rows), tuple(drawings))


def _accuracy(layer: StitchedLayer) -> str:
    """What a layer's maps keep of the accuracy, with chance levels."""
    own = layer.accuracy("own", "trained")
    assert own is not None
    said = [
        f"{WORDS[name]} {interval(e)}"
        for name in ("least_squares", "one_to_one")
        if (e := layer.accuracy(name, "trained")) is not None
    ]
    sentence = f"{layer.name}: of an accuracy of {interval(own)} a layer from another trained net keeps"
    sentence += f" {'; by '.join(['', *said])[2:]}" if said else " what chance does"
    levels = [
        f"{WORDS[name]} {e.value:.3f}"
        for name in ("rotated", "permuted", "mean")
        if (e := layer.accuracy(name, "trained")) is not None
    ]
    sentence += f" (chance: {', '.join(levels)})"
    untrained = [
        f"{WORDS[name]} {interval(e)}"
        for name in ("least_squares", "one_to_one")
        if (e := layer.accuracy(name, "untrained")) is not None
    ]
    if not untrained:
        return f"{sentence}."
    trained, other = (layer.accuracy("least_squares", kind) for kind in ("trained", "untrained"))
    chance = layer.accuracy("permuted", "trained")
    assert chance is not None
    no_better = trained is not None and other is not None and chance.high < trained.low <= other.high
    words = ": no less, so that what is shared here needs no learning" if no_better else ""
    return f"{sentence}; from an untrained net {', '.join(untrained)}{words}."


def _ranks(layers: Sequence[StitchedLayer]) -> list[str]:
    """Whether the strength of a match tells what its transplant does."""
    said, clear = [], []
    for layer in layers:
        rank = layer.rank("transplanted", "trained")
        if rank is None:
            continue
        n = len(layer.transplants("trained"))
        p = max(tree["ranks"]["transplanted"]["p"] for _, _, tree in layer.transplants("trained"))
        said.append(f"{layer.name} {interval(rank)} (random orders 0 ± {rank.null_sd:.2f}, largest p of {n} {p:.3f})")
        if rank.high < 0 and p < 0.05:
            clear.append(layer.name)
    if not said:
        return []
    verdict = (
        f"Stronger matches do less harm in {', '.join(clear)}."
        if clear
        else "No layer shows in every pair that stronger matches do less harm."
    )
    return [
        f"{verdict} Rank correlation of a unit's match with the loss that its transplant adds, mean over pairs: "
        f"{'; '.join(said)}."
    ]


def _harm(layers: Sequence[StitchedLayer]) -> list[str]:
    """Transplants beside taking units away, and beside errors of the same size."""
    said = []
    for layer in layers:
        share, random = (layer.effect(kind, "trained", "of_ablation") for kind in ("transplanted", "random"))
        real, shuffled = (layer.effect(kind, "trained") for kind in ("transplanted", "shuffled"))
        if real is None or shuffled is None:
            continue
        beyond = difference(real, shuffled)
        what = "less than" if beyond.high < 0 else "more than" if beyond.low > 0 else "no differently from"
        millinats = f"{1000 * beyond.value:+.2f} [{1000 * beyond.low:+.2f}, {1000 * beyond.high:+.2f}] millinats"
        of_all = (
            f"a unit's partner adds {interval(share)} of the loss that taking the unit away adds, a random unit "
            f"{interval(random)}"
            if share is not None and random is not None
            else "taking single units away does not clearly raise the loss in every pair"
        )
        said.append(
            f"{layer.name}: {of_all}; the partner harms {what} a change of the same size and correlation that is of "
            f"another image ({millinats})."
        )
    return said


def difference(x: Estimate, y: Estimate) -> Estimate:
    """X − y of the same image groups."""
    return jackknife(x.value - y.value, x.without - y.without)


def _bypassed(layers: Sequence[StitchedLayer]) -> list[str]:
    """Layers that paths lead past: these keep the receiving net's own values."""
    found = [layer.name for layer in layers if any(tree["stitched"]["bypassing"] for _, _, tree in layer.found)]
    if not found:
        return []
    return [
        f"In {', '.join(found)} paths lead past the layer, as in a residual block; they keep the receiving net's own "
        "values, so accuracy there is not the stitched layer's alone."
    ]


def _maps_table(layers: Sequence[StitchedLayer]) -> Table:
    """Accuracy by map, a column a layer and kind of giving net."""
    columns = [(layer, kind) for layer in layers for kind in layer.kinds]
    names = [name for name in WORDS if any(name in layer.names() for layer in layers)]
    numbers = sorted({k for layer in layers for k in layer.units_per_target()})
    rows = []
    for name, words in [(n, WORDS[n]) for n in names] + [(f"sparse_{k}", f"at most {k} units") for k in numbers]:
        cells = [interval(e) if (e := layer.accuracy(name, kind)) else MISSING for layer, kind in columns]
        rows.append((words, *cells))
    titles = [f"{layer.name}, {'trained' if kind == 'trained' else 'from untrained'}" for layer, kind in columns]
    return Table.of("Accuracy of stitched nets, mean over pairs", ("the layer computed by", *titles), rows, wide=True)


def _mapping_layers(layers: Sequence[StitchedLayer]) -> Table:
    """The paper's mapping layers: optimum beside SGD, held-out R² and stitched accuracy."""
    rows = []
    for layer in layers:
        for name in sorted(layer.names(), key=_penalty):
            found = re.fullmatch(r"(lasso|sgd(\d+))_(.+)", name)
            accuracy, loss = layer.accuracy(name, "trained"), layer.loss(name, "trained")
            if not found or accuracy is None or loss is None:
                continue
            pairs = layer.pairs("trained")
            explained = sum(tree["stitched"]["maps"][name]["explained"] for _, _, tree in pairs) / len(pairs)
            how = f"SGD, {found[2]} steps" if found[2] else "optimum"
            rows.append((layer.name, found[3], how, f"{explained:.3f}", interval(accuracy), interval(loss)))
    columns = ("layer", "penalty λ", "trained by", "R² on other images", "accuracy", "loss, nats")
    return Table.of("The paper's mapping layers in the stitched net", columns, rows)


def _penalty(name: str) -> tuple[float, int]:
    found = re.fullmatch(r"(?:lasso|sgd(\d+))_(.+)", name)
    return (float(found[2]), int(found[1] or 10**9)) if found else (-1.0, 0)


def _effects_table(layers: Sequence[StitchedLayer]) -> Table:
    """What replacing one unit does, by what takes its place."""
    rows = []
    for layer in layers:
        for kind in layer.kinds:
            for name, words in REPLACEMENTS.items():
                gain, share = layer.effect(name, kind), layer.effect(name, kind, "of_ablation")
                if gain is None:
                    continue
                rank = layer.rank(name, kind)
                rows.append((
                    layer.name, kind, words, f"{1000 * gain.value:.2f} [{1000 * gain.low:.2f}, {1000 * gain.high:.2f}]",
                    "1" if name == "ablated" else interval(share) if share else MISSING,
                    f"{interval(rank)}; chance ± {rank.null_sd:.2f}" if rank else MISSING,
                ))  # fmt: skip
            shared = layer.rank("share", kind)
            if shared is not None:
                n = min(int(tree["ranks"]["share"]["n_units"]) for _, _, tree in layer.transplants(kind))
                rows.append((layer.name, kind, f"share of harm avoided, units that matter (at least {n} a pair)",
                             MISSING, MISSING, f"{interval(shared)}; chance ± {shared.null_sd:.2f}"))  # fmt: skip
    columns = ("layer", "giving net", "one unit replaced by", "loss gained, millinats", "of taking it away",
               "rank correlation with the match")  # fmt: skip
    return Table.of("Single units replaced, means over units and pairs", columns, rows, wide=True)
