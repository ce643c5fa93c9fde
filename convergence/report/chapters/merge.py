"""The chapter on merging: barriers before and after alignment, the merged nets, zipped nets, all nets at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convergence.figures.merge import WORDS, barrier_drawing, line_drawing, zip_drawing
from convergence.functional.file import FunctionalResults
from convergence.report.matters import Chapter
from convergence.report.tables import Table, interval
from convergence.uncertainty import Estimate, mean_estimate

Tree = Mapping[str, Any]
METHODS = ("none", "activation", "weights")
KINDS = ("plain", "repaired")
TOGETHER = {
    "none": "not aligned",
    "activation": "each aligned to the first by activations",
    "weights": "each aligned to the first by weights",
    "many": "each aligned to the mean of the others by weights",
}


def chapter(results: FunctionalResults) -> Chapter:
    """Words, tables and figures of a run's merging."""
    pairs: dict[str, Tree] = results.tree["pairs"]
    mean = {
        (quantity, kind, method): mean_estimate([Estimate(**pair[method][kind][quantity]) for pair in pairs.values()])
        for quantity in ("barrier", "accuracy_barrier")
        for kind in KINDS
        for method in METHODS
    }
    chance = {
        (quantity, kind): np.concatenate([np.ravel(pair["random"][kind][quantity]) for pair in pairs.values()])
        for quantity in ("barrier", "accuracy_barrier")
        for kind in KINDS
    }
    zips = {name: pair["zip"] for name, pair in pairs.items() if "refused" not in pair["zip"]}
    refused = next((pair["zip"]["refused"] for pair in pairs.values() if "refused" in pair["zip"]), "")
    sentences = [_barriers(mean, chance, len(pairs)), _merged(pairs), _zipped(zips, refused), _orders(pairs)]
    tables = [_barrier_table(pairs), _merged_table(pairs)]
    if together := results.tree.get("together"):
        sentences.append(_together(together))
        tables.append(_together_table(together))
    first = next(iter(pairs))
    drawings = [line_drawing(first, pairs[first]), barrier_drawing(mean, chance)]
    if zips:
        drawings.append(zip_drawing(zips))
    about = (
        "Two nets of one architecture differ in the arbitrary order of their units. The second is permuted, all layers "
        "together so that it computes the same function, and averaged with the first. Orders by activations are the "
        "one-to-one assignment of the largest correlations (Li et al. 2016); orders by weights those of the largest "
        "overlap of the weights (Ainsworth et al. 2023). The barrier is how far the loss on the line between the nets "
        "rises above the straight line between their losses (Frankle et al. 2020). Repair puts means and standard "
        "deviations of the units right (Jordan et al. 2023); in nets with batch norm its running statistics are "
        "estimated again. Zipping merges each unit with the one most like it, of either net (Stoica et al. 2024). Fits "
        "are made on training images; everything is scored on "
        f"{results.n_images} others in {results.n_groups} groups. The best merged net of a pair is the one of the "
        "least loss on training images."
    )
    return Chapter(
        "Can nets trained apart be merged into one?",
        tuple(s for s in sentences if s),
        about,
        tuple(tables),
        tuple(drawings),
    )


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _points(e: Estimate) -> str:
    """A difference of shares."""
    low, value, high = (f"{100 * x:+.1f}".replace("-", "−") for x in (e.low, e.value, e.high))
    return f"{value} percentage points [{low}, {high}]"


def _barriers(mean: Mapping[tuple[str, str, str], Estimate], chance: Mapping[tuple[str, str], Any], n: int) -> str:
    def words(kind: str) -> str:
        return ", ".join(f"{interval(mean['barrier', kind, m])} {WORDS[m]}" for m in METHODS)

    draws = chance["barrier", "plain"]
    best = min(METHODS[1:], key=lambda m: mean["barrier", "repaired", m].value)
    left = mean["accuracy_barrier", "repaired", best]
    ends = "no barrier is left to see" if left.low <= 0 else "a barrier is left"
    return (
        f"Between two nets the loss rises by {words('plain')} (nats, mean of {n} pair{'s' * (n > 1)}); random orders "
        f"give {draws.mean():.3f} ± {draws.std(ddof=1):.3f}. With repaired statistics it rises by {words('repaired')}. "
        f"In accuracy the best of these, {WORDS[best]} and repaired, loses {_percent(left)} at the worst point: {ends}."
    )


def _merged(pairs: Mapping[str, Tree]) -> str:
    def mean(*path: str) -> Estimate:
        found = []
        for pair in pairs.values():
            tree: Any = pair["merged"]
            for key in path:
                tree = tree[key]
            found.append(Estimate(**tree))
        return mean_estimate(found)

    difference = mean("minus_ends")
    verdict = (
        "as well as"
        if difference.low <= 0 <= difference.high
        else "better than"
        if difference.low > 0
        else "worse than"
    )
    return (
        f"The best merged net of a pair answers {_percent(mean('merged', 'accuracy'))} of held-out images correctly, "
        f"{_points(difference)} against the mean of its two nets: {verdict} they do. The ensemble of both, which "
        f"costs twice as much, reaches {_percent(mean('ensemble', 'accuracy'))}."
    )


def _zipped(zips: Mapping[str, Tree], refused: str) -> str:
    if not zips:
        return f"Zipping was not possible: {refused}" if refused else ""
    merged = mean_estimate([Estimate(**tree["merged"]["accuracy"]) for tree in zips.values()])
    within = np.mean([np.mean(tree["within"]) for tree in zips.values()])
    return (
        f"Zipped to the last layer, two nets are one that answers {_percent(merged)} correctly; {100 * within:.0f} % "
        "of the merged pairs are of two units of the same net."
    )


def _orders(pairs: Mapping[str, Tree]) -> str:
    same, chance, near = [], [], []
    for pair in pairs.values():
        a, w = pair["activation"]["orders"], pair["weights"]["orders"]
        same.append(sum(int((np.ravel(a[s]) == np.ravel(w[s])).sum()) for s in a) / sum(np.size(a[s]) for s in a))
        chance.append(len(a) / sum(np.size(a[s]) for s in a))
        near.append([pair[method]["distance"] for method in METHODS])
    none, activation, weights = np.mean(near, axis=0)
    return (
        f"Both alignments give {100 * np.mean(same):.0f} % of the units the same partner (chance: "
        f"{100 * np.mean(chance):.0f} %). The distance of the weights, relative to their length, is {none:.2f} before, "
        f"{activation:.2f} after alignment by activations and {weights:.2f} by weights."
    )


def _together(tree: Tree) -> str:
    n = len(tree["names"].split("\n"))
    ways = {(way, kind): Estimate(**tree["ways"][way][kind]["accuracy"]) for way in TOGETHER for kind in KINDS}
    repaired = "; ".join(f"{_percent(ways[way, 'repaired'])} {words}" for way, words in TOGETHER.items())
    return (
        f"All {n} nets averaged into one and repaired answer: {repaired}. One of them alone reaches "
        f"{_percent(Estimate(**tree['single']['accuracy']))}, their ensemble "
        f"{_percent(Estimate(**tree['ensemble']['accuracy']))}."
    )


def _barrier_table(pairs: Mapping[str, Tree]) -> Table:
    rows = []
    for name, pair in pairs.items():
        for kind in KINDS:
            draws = np.ravel(pair["random"][kind]["barrier"])
            for method in METHODS:
                found = pair[method][kind]
                rows.append(
                    (
                        name,
                        WORDS[method],
                        "yes" if kind == "repaired" else "no",
                        interval(Estimate(**found["barrier"])),
                        _percent(Estimate(**found["accuracy_barrier"])),
                        _percent(Estimate(**found["merged"]["accuracy"])),
                        f"{draws.mean():.3f} ± {draws.std(ddof=1):.3f}",
                    )
                )
    columns = ("nets", "alignment", "repaired", "barrier of the loss", "of the accuracy", "accuracy in the middle",
               "random order, loss")  # fmt: skip
    return Table.of("Barriers", columns, rows, wide=True)


def _merged_table(pairs: Mapping[str, Tree]) -> Table:
    rows = []
    for name, pair in pairs.items():
        tree = pair["merged"]
        cells = [_percent(Estimate(**tree[key]["accuracy"])) for key in ("merged", "x", "y", "ensemble")]
        how = "zipped" if tree["method"] == "zip" else tree["method"].replace("-", ", ").replace("none", "not aligned")
        rows.append((name, how, *cells, _points(Estimate(**tree["minus_ends"])), tree["folder"]))
    columns = (
        "nets",
        "best method",
        "merged",
        "first net",
        "second net",
        "ensemble",
        "merged − mean of both",
        "saved in",
    )
    return Table.of("The best merged net of each pair", columns, rows, wide=True)


def _together_table(tree: Tree) -> Table:
    rows = [
        (words, *(_percent(Estimate(**tree["ways"][way][kind]["accuracy"])) for kind in KINDS),
         interval(Estimate(**tree["ways"][way]["repaired"]["loss"])))
        for way, words in TOGETHER.items()
    ]  # fmt: skip
    names = tree["names"].replace("\n", ", ")
    return Table.of(f"Averages of {names}", ("nets", "averaged", "and repaired", "loss, repaired"), rows)
