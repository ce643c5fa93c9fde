"""The chapter on merging: barriers before and after alignment, merged nets, zipped nets, all nets at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.figures.merge import WORDS, barrier_drawing, line_drawing, zip_drawing
from convergence.functional.file import FunctionalResults
from convergence.functional.merging.results import AveragedPair, MergingResults
from convergence.inference import Estimate, mean_estimate
from convergence.report.chapters.numbers import percent, points
from convergence.report.functional_page import Chapter
from convergence.report.tables import Table, interval

METHODS = ("none", "activation", "weights")
KINDS = ("plain", "repaired")
QUANTITIES = ("barrier", "accuracy_barrier")
ALL_NETS = {
    "none": "not aligned",
    "activation": "each aligned to the first by activations",
    "weights": "each aligned to the first by weights",
    "many": "each aligned to the mean of the others by weights",
}
ABOUT = (
    "Two nets of one architecture differ in the arbitrary order of their units. All layers of the second net are "
    "permuted together, which does not change its function, and its weights are averaged with those of the first. "
    "Permutations by activations are the one-to-one assignment of the largest correlations (Li et al. 2016); "
    "permutations by weights maximise the overlap of the weights (Ainsworth et al. 2023). The barrier is the largest "
    "rise of the loss on the line between the nets above the straight line between their losses (Frankle et al. 2020). "
    "Repair rescales units to the mean and standard deviation of both nets (Jordan et al. 2023); batch norms estimate "
    "their running statistics again. Zipping merges each unit with the most similar unit of either net (Stoica et al. "
    "2024). Fits use training images; scores are of {images} evaluation images in {groups} groups. The best merged net "
    "of a pair has the lowest loss on training images. Docs: functional/merging.md."
)
Barriers = Mapping[tuple[str, str, str], Estimate]
Nulls = Mapping[tuple[str, str], npt.NDArray[np.float64]]


def chapter(results: FunctionalResults[MergingResults]) -> Chapter:
    """The chapter of ``merge.h5``."""
    found = results.tables
    barriers: Barriers = {
        (quantity, kind, method): mean_estimate([getattr(row, quantity) for row in _averages(found, kind, method)])
        for quantity in QUANTITIES
        for kind in KINDS
        for method in METHODS
    }
    nulls: Nulls = {
        (quantity, kind): np.array([getattr(row, quantity) for row in found.random if row.kind == kind])
        for quantity in QUANTITIES
        for kind in KINDS
    }
    sentences = [
        _barriers(barriers, nulls, len(found.pairs)), _merged(found), _zipped(found), _permutations(found),
        _all_nets(found),
    ]  # fmt: skip
    tables = (_barrier_table(found), _merged_table(found), _all_nets_table(found))
    drawings = [line_drawing(found.pairs[0], found), barrier_drawing(barriers, nulls)]
    if found.zip_depths:
        drawings.append(zip_drawing(found))
    return Chapter(
        "Can nets trained apart be merged into one?",
        tuple(s for s in sentences if s),
        ABOUT.format(images=results.n_images, groups=results.n_groups),
        tuple(table for table in tables if table.rows),
        tuple(drawings),
    )


def _averages(found: MergingResults, kind: str, method: str) -> list[AveragedPair]:
    return [row for row in found.averages if (row.kind, row.method) == (kind, method)]


def _barriers(mean: Barriers, nulls: Nulls, n: int) -> str:
    def words(kind: str) -> str:
        return ", ".join(f"{interval(mean['barrier', kind, m])} {WORDS[m]}" for m in METHODS)

    draws = nulls["barrier", "plain"]
    best = min(METHODS[1:], key=lambda m: mean["barrier", "repaired", m].value)
    left = mean["accuracy_barrier", "repaired", best]
    verdict = "no barrier is visible" if left.low <= 0 else "a barrier remains"
    return (
        f"The barrier of the loss between two nets is {words('plain')} (nats, mean of {n} pair{'s' * (n > 1)}); with "
        f"random permutations it is {draws.mean():.3f} ± {draws.std(ddof=1):.3f}. With repair it is "
        f"{words('repaired')}. Nets {WORDS[best]} and repaired lose {percent(left)} accuracy at the worst point: "
        f"{verdict}."
    )


def _merged(found: MergingResults) -> str:
    difference = mean_estimate([row.minus_ends for row in found.merged])
    verdict = "better than" if difference.low > 0 else "worse than" if difference.high < 0 else "as good as"
    return (
        f"The best merged net of a pair has {percent(_mean_accuracy(found, 'merged'))} held-out accuracy, "
        f"{points(difference)} from the mean of its two nets: {verdict} these. The ensemble of both nets, at twice the "
        f"cost, has {percent(_mean_accuracy(found, 'ensemble'))}."
    )


def _mean_accuracy(found: MergingResults, net: str) -> Estimate:
    return mean_estimate([row.accuracy for row in found.merged_scores if row.net == net])


def _zipped(found: MergingResults) -> str:
    if not found.zipped:
        return f"Zipping was skipped: {found.not_zipped[0].reason}" if found.not_zipped else ""
    merged = mean_estimate([row.accuracy for row in found.zipped])
    within = np.mean([row.within for row in found.zipped_groups])
    return (
        f"Two nets zipped into one have {percent(merged)} accuracy; {100 * within:.0f} % of the merged pairs of units "
        "are from one net."
    )


def _permutations(found: MergingResults) -> str:
    both: dict[tuple[str, str, int], list[int]] = {}
    for row in found.permutations:
        both.setdefault((row.name, row.group, row.position), []).append(row.unit)
    same = np.mean([one[0] == one[-1] for one in both.values()])
    chance = len({key[:2] for key in both}) / len(both)
    none, activation, weights = (
        np.mean([row.distance for row in found.alignments if row.method == method]) for method in METHODS
    )
    return (
        f"Both alignments give {100 * same:.0f} % of the units the same partner (chance: {100 * chance:.0f} %). The "
        f"relative distance of the weights is {none:.2f} before alignment, {activation:.2f} after alignment by "
        f"activations and {weights:.2f} by weights."
    )


def _all_nets(found: MergingResults) -> str:
    if not found.all_nets:
        return ""
    accuracy = {(row.alignment, row.kind): row.accuracy for row in found.all_nets}
    repaired = "; ".join(f"{percent(accuracy[way, 'repaired'])} {words}" for way, words in ALL_NETS.items())
    n = len(found.all_nets[0].nets.split(", "))
    return (
        f"All {n} nets averaged into one and repaired have an accuracy of {repaired}. A single net has "
        f"{percent(accuracy['single', 'plain'])}, the ensemble of all {percent(accuracy['ensemble', 'plain'])}."
    )


def _barrier_table(found: MergingResults) -> Table:
    rows = []
    for row in sorted(found.averages, key=lambda r: (found.pairs.index(r.name), KINDS.index(r.kind))):
        draws = np.array([one.barrier for one in found.random if (one.name, one.kind) == (row.name, row.kind)])
        rows.append((
            row.name, WORDS[row.method], "yes" if row.kind == "repaired" else "no", interval(row.barrier),
            percent(row.accuracy_barrier), percent(row.accuracy), f"{draws.mean():.3f} ± {draws.std(ddof=1):.3f}",
        ))  # fmt: skip
    columns = ("nets", "alignment", "repaired", "barrier of the loss", "of the accuracy", "accuracy in the middle",
               "random permutation, loss")  # fmt: skip
    return Table.of("Barriers", columns, rows, wide=True)


def _merged_table(found: MergingResults) -> Table:
    rows = []
    for row in found.merged:
        scores: dict[str, Any] = {s.net: s.accuracy for s in found.merged_scores if s.name == row.name}
        how = "zipped" if row.method == "zip" else row.method.replace("-", ", ").replace("none", "not aligned")
        cells = [percent(scores[net]) for net in ("merged", "x", "y", "ensemble")]
        rows.append((row.name, how, *cells, points(row.minus_ends), row.folder))
    columns = ("nets", "best method", "merged", "first net", "second net", "ensemble", "merged − mean of both",
               "saved in")  # fmt: skip
    return Table.of("The best merged net of each pair", columns, rows, wide=True)


def _all_nets_table(found: MergingResults) -> Table:
    by_key = {(row.alignment, row.kind): row for row in found.all_nets}
    rows = [
        (words, *(percent(by_key[way, kind].accuracy) for kind in KINDS), interval(by_key[way, "repaired"].loss))
        for way, words in ALL_NETS.items()
        if (way, "plain") in by_key
    ]
    names = found.all_nets[0].nets if found.all_nets else ""
    return Table.of(f"Averages of {names}", ("alignment", "averaged", "and repaired", "loss, repaired"), rows)
