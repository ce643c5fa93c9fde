"""The chapter on stitching: layers computed from another net, and single units replaced by their match."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from convergence.figures.stitch import (
    WORDS,
    accuracy_by_layer,
    accuracy_by_share,
    accuracy_by_units,
    effect_by_strength,
)
from convergence.functional.file import FunctionalResults
from convergence.functional.stitching.results import StitchedLayer, StitchingResults
from convergence.inference import Estimate, jackknife
from convergence.report.chapters.numbers import millinats
from convergence.report.functional_page import Chapter
from convergence.report.tables import MISSING, Table, interval

TITLE = "Can a layer be computed from another net, and a unit be replaced by its match?"
ABOUT = (
    "A stitched net is the front part of one net, an affine map between units, and the back part of another net (Lenc "
    "& Vedaldi 2015, Bansal et al. 2021). Maps are fitted on the sums of one half of the image groups and scored on "
    "the images of the other half, both ways; intervals are over image groups, with the maps as given. One-to-one "
    "partners are scaled to the mean and standard deviation of the replaced unit. Mapped values are not clipped at "
    "zero after a ReLU. The null of a rank correlation is random orders of the units; the units of a layer are not "
    "independent, so that p-values are rough. Docs: functional/stitching.md."
)
METHODS = ("least_squares", "one_to_one")
REPLACEMENTS = {
    "transplanted": "its partner",
    "random": "a random unit",
    "shuffled": "a shuffled partner: same correlation, error of the next image",
    "ablated": "its mean",
}


def chapter(results: FunctionalResults[StitchingResults]) -> Chapter:
    """The chapter of ``stitch.h5``."""
    layers = results.tables.layers()
    some = [layer for layer in layers if layer.pairs()]
    sentences = [
        *(_accuracy(layer) for layer in some if layer.pairs("trained")),
        *_ranks(some),
        *_harm(some),
        *_bypassed(some),
        *(f"{row.a} and {row.b} skipped: {row.reason}" for layer in layers for row in layer.skipped()),
    ]
    drawings = [accuracy_by_layer(some)] if some else []
    drawings += [d for make in (accuracy_by_units, effect_by_strength, accuracy_by_share) if (d := make(some))]
    tables = (_maps_table(some), _mapping_layers(some), _effects_table(some))
    return Chapter(TITLE, tuple(sentences), ABOUT, tuple(t for t in tables if t.rows), tuple(drawings))


def _accuracy(layer: StitchedLayer) -> str:
    """Accuracy that a layer's maps keep, with nulls."""
    own = layer.accuracy("own", "trained")
    assert own is not None
    nulls = ", ".join(
        f"{WORDS[name]} {e.value:.3f}"
        for name in ("rotated", "permuted", "mean")
        if (e := layer.accuracy(name, "trained")) is not None
    )
    maps = {kind: [(_method(n), e) for n in METHODS if (e := layer.accuracy(n, kind))] for kind in layer.kinds}
    if maps["trained"]:
        (method, e), *others = maps["trained"]
        more = "".join(f", {how} {interval(other)}" for how, other in others)
        sentence = (
            f"Stitching {layer.name} from another trained net by {method} keeps {interval(e)} of {own.value:.3f} "
            f"accuracy{more} (chance: {nulls})."
        )
    else:
        sentence = f"{layer.name}: accuracy {interval(own)} (chance: {nulls})."
    if maps.get("untrained"):
        parts = " and ".join(f"{interval(e)} by {how}" for how, e in maps["untrained"])
        sentence += f" An untrained {layer.name} keeps {parts}."
    trained, other = (layer.accuracy("least_squares", kind) for kind in ("trained", "untrained"))
    chance = layer.accuracy("permuted", "trained")
    if trained is not None and other is not None and chance is not None and chance.high < trained.low <= other.high:
        sentence += " The untrained layer is as good: sharing this layer needs no training."
    return sentence


def _method(name: str) -> str:
    return "least squares" if name == "least_squares" else "one-to-one matching"


def _ranks(layers: Sequence[StitchedLayer]) -> list[str]:
    """Whether stronger matches do less harm."""
    said, clear = [], []
    for layer in layers:
        rank, rows = layer.rank("transplanted", "trained"), layer.ranks("transplanted", "trained")
        if rank is None:
            continue
        p = max(row.p for row in rows)
        pairs = f"largest p of {len(rows)} pairs {p:.3f}" if len(rows) > 1 else f"p {p:.3f}"
        said.append(f"{layer.name} {interval(rank)} (random orders 0 ± {rank.null_sd:.2f}, {pairs})")
        if rank.high < 0 and p < 0.05:
            clear.append(layer.name)
    if not said:
        return []
    verdict = (
        f"Stronger matches do less harm in {', '.join(clear)}."
        if clear
        else "In no layer do stronger matches do less harm in every pair."
    )
    return [f"{verdict} Rank correlation of match strength and rise of the loss, mean over pairs: {'; '.join(said)}."]


def _harm(layers: Sequence[StitchedLayer]) -> list[str]:
    """Partners compared with ablation, and with errors of the same size."""
    said = []
    for layer in layers:
        share, random = (layer.share_of_ablation(kind, "trained") for kind in ("transplanted", "random"))
        real, shuffled = (layer.effect(kind, "trained") for kind in ("transplanted", "shuffled"))
        if real is None or shuffled is None:
            continue
        beyond = _difference(real, shuffled)
        what = "less harm than" if beyond.high < 0 else "more harm than" if beyond.low > 0 else "as much harm as"
        parts = (
            f"Replacing a unit of {layer.name} by its partner does {interval(share)} of the harm of ablating it, a "
            f"random unit {interval(random)}."
            if share is not None and random is not None
            else f"Ablating single units of {layer.name} does not clearly raise the loss in every pair."
        )
        said.append(
            f"{parts} In {layer.name} the partner does {what} a shuffled partner of the same correlation "
            f"({millinats(beyond)})."
        )
    return said


def _difference(x: Estimate, y: Estimate) -> Estimate:
    """X − y on the same image groups."""
    return jackknife(x.value - y.value, x.without - y.without)


def _bypassed(layers: Sequence[StitchedLayer]) -> list[str]:
    found = [layer.name for layer in layers if any(pair.bypassing for pair in layer.pairs())]
    if not found:
        return []
    return [
        f"Values bypass {', '.join(found)}, as in a residual block. The receiving net keeps these values, so that the "
        "accuracy is not due to the stitched layer alone."
    ]


def _maps_table(layers: Sequence[StitchedLayer]) -> Table:
    """Accuracy by map, with a column per layer and kind of the other net."""
    columns = [(layer, kind) for layer in layers for kind in layer.kinds]
    names = [name for name in WORDS if any(name in layer.map_names() for layer in layers)]
    numbers = sorted({k for layer in layers for k in layer.units_per_target()})
    rows = []
    for name, words in [(n, WORDS[n]) for n in names] + [(f"sparse_{k}", f"at most {k} units") for k in numbers]:
        cells = [interval(e) if (e := layer.accuracy(name, kind)) else MISSING for layer, kind in columns]
        rows.append((words, *cells))
    titles = [f"{layer.name}, {'trained' if kind == 'trained' else 'from untrained'}" for layer, kind in columns]
    return Table.of("Accuracy of stitched nets, mean over pairs", ("map", *titles), rows, wide=True)


def _mapping_layers(layers: Sequence[StitchedLayer]) -> Table:
    """The paper's mapping layers: optimum and SGD, held-out R² and stitched accuracy."""
    rows = []
    for layer in layers:
        for name in sorted(layer.map_names(), key=_penalty):
            found = re.fullmatch(r"(lasso|sgd(\d+))_(.+)", name)
            accuracy, loss = layer.accuracy(name, "trained"), layer.loss(name, "trained")
            if not found or accuracy is None or loss is None:
                continue
            explained = np.mean([row.explained for row in layer.maps(name, "trained")])
            how = f"SGD, {found[2]} steps" if found[2] else "optimum"
            rows.append((layer.name, found[3], how, f"{explained:.3f}", interval(accuracy), interval(loss)))
    columns = ("layer", "penalty λ", "trained by", "held-out R²", "accuracy", "loss, nats")
    return Table.of("The paper's mapping layers in stitched nets", columns, rows)


def _penalty(name: str) -> tuple[float, int]:
    found = re.fullmatch(r"(?:lasso|sgd(\d+))_(.+)", name)
    return (float(found[2]), int(found[1] or 10**9)) if found else (-1.0, 0)


def _effects_table(layers: Sequence[StitchedLayer]) -> Table:
    """Effects of replacing single units, by replacement."""
    rows = []
    for layer in layers:
        for kind in layer.kinds:
            for name, words in REPLACEMENTS.items():
                gain, share = layer.effect(name, kind), layer.share_of_ablation(name, kind)
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
                n = min(row.n_units for row in layer.ranks("share", kind))
                rows.append((layer.name, kind, f"share of harm avoided, units with a clear ablation (≥ {n} per pair)",
                             MISSING, MISSING, f"{interval(shared)}; chance ± {shared.null_sd:.2f}"))  # fmt: skip
    columns = ("layer", "other net", "unit replaced by", "rise of the loss, millinats", "share of ablation",
               "rank correlation with match strength")  # fmt: skip
    return Table.of("Single units replaced, means over units and pairs", columns, rows, wide=True)
