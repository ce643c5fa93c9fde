"""The chapter on ensembling: what members gain, whether dissimilar members gain more, and shared cores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convergence.figures.ensemble import Point, accuracy_by_cost, accuracy_by_size
from convergence.functional.ensembling.results import (
    FULL,
    SINGLE,
    CoreLayer,
    EnsembleSize,
    EnsemblingResults,
    Reference,
)
from convergence.functional.file import FunctionalResults
from convergence.inference import Estimate
from convergence.report.chapters.numbers import difference, is_clear
from convergence.report.functional_page import Chapter
from convergence.report.tables import MISSING, Table, interval

TITLE = "Do ensembles of different nets gain accuracy, and which layers can they share?"
ABOUT = (
    "Members' probabilities are averaged (Lakshminarayanan et al. 2017), and for comparison their logits. All subsets "
    "of each size are scored. The best single net, and the least similar members by linear CKA, are chosen on one half "
    "of the image groups and scored on the other, both ways. A shared core is the first layers of one member, mapped "
    "by affine maps into the tails of the others; maps are fitted on one half of the groups and scored on the other. "
    "Cost is multiply–adds of products and convolutions. Docs: functional/ensembling.md."
)
FEW = 10
"""Number of subsets below which the rank of the chosen one is no evidence."""
SYSTEMS = {
    SINGLE: "one net",
    FULL: "full ensemble",
    "least_squares": "core, least squares",
    "one_to_one": "core, one-to-one",
    "permuted": "core, random partners",
}


def chapter(results: FunctionalResults[EnsemblingResults]) -> Chapter:
    """The chapter of ``ensemble.h5``."""
    found = results.tables
    layers = found.core_layers()
    sentences = [*_gain(found), _logits(found.sizes[-1]), *_dissimilar(found), *map(_core, layers)]
    if layers:
        sentences.append(_worth(layers))
    sentences += dict.fromkeys(f"No shared core: {row.reason}" for row in found.skipped)
    drawings = [accuracy_by_size(found)]
    if layers:
        drawings.append(accuracy_by_cost([(layer.name, _points(layer)) for layer in layers]))
    tables = [_sizes_table(found), _cores_table(layers)]
    return Chapter(TITLE, tuple(sentences), ABOUT, tuple(t for t in tables if t.rows), tuple(drawings))


def _words(system: str) -> str:
    """The name of a system."""
    if system.startswith("sparse_"):
        return f"core, {system.removeprefix('sparse_')} units per target"
    if system.startswith("core_"):
        share = float(system.removeprefix("core_").removesuffix("_random"))
        how = "random" if system.endswith("_random") else "best matched"
        return f"core of the {100 * share:.0f} % {how} units"
    return SYSTEMS[system]


def _unclear(e: Estimate) -> str:
    return "" if is_clear(e) else ", not clearly different from zero"


def _gain(found: EnsemblingResults) -> list[str]:
    size = found.sizes[-1]
    over, best, loss = size.accuracy_minus_single, size.accuracy_minus_best, size.loss_minus_single
    repeated = found.reference("repeated")
    assert repeated is not None
    assert repeated.accuracy_minus_single is not None
    said = [
        f"The ensemble of all {size.members} members has an accuracy of {interval(size.accuracy)}: {difference(over)} "
        f"against the mean single net{_unclear(over)}, {difference(best)} against the best single net on other images"
        f"{_unclear(best)}. The loss changes by {difference(loss)} nats{_unclear(loss)}. One net {size.members} times "
        f"gains {repeated.accuracy_minus_single.value:.4f}."
    ]
    mixed, untrained = found.reference("with_untrained"), found.reference("untrained")
    if mixed is not None and untrained is not None:
        n = len(found.single) - len(found.members)
        said.append(
            f"With {n} untrained nets as further members the accuracy is {interval(mixed.accuracy)} and the loss "
            f"{interval(mixed.loss)} nats; the untrained nets alone have an accuracy of {interval(untrained.accuracy)}."
        )
    return said


def _logits(size: EnsembleSize) -> str:
    e = size.logit_loss_minus
    what = "lower" if e.high < 0 else "raise" if e.low > 0 else "do not clearly change"
    return f"Mean logits {what} the loss against mean probabilities ({difference(e)} nats)."


def _dissimilar(found: EnsemblingResults) -> list[str]:
    if not found.chosen:
        return []
    said = [
        f"of {row.members}: {difference(row.accuracy_minus_random)}, ranks {row.rank_0:g} and {row.rank_1:g} of "
        f"{row.n_subsets}"
        for row in found.chosen
    ]
    sentences = [f"Accuracy of the least similar members against random members, {'; '.join(said)}."]
    if any(row.n_subsets < FEW for row in found.chosen):
        sentences.append(
            "Intervals are over images; with few subsets of one set of nets they are no evidence that dissimilar "
            "members are better."
        )
    elif not any(row.accuracy_minus_random.low > 0 for row in found.chosen):
        sentences.append("Choosing members by dissimilarity does not clearly help.")
    return sentences


def _core(layer: CoreLayer) -> str:
    name = "least_squares"
    return (
        f"A core up to {layer.name} has {interval(layer.accuracy(name))} accuracy at {layer.cost(name):.2f} times the "
        f"multiply–adds of one net (all nets: {layer.cost(FULL):.2f}): {difference(layer.minus_full(name), 3)} against "
        f"the full ensemble, {difference(layer.minus_trunk(name), 3)} against the trunk's net alone. With random "
        f"partners it has {layer.accuracy('permuted').value:.3f}."
    )


def _worth(layers: Sequence[CoreLayer]) -> str:
    better = [
        layer.name
        for layer in layers
        if any(layer.minus_trunk(key).low > 0 for key in layer.systems() if key not in (SINGLE, FULL))
    ]
    if better:
        return f"A shared core is clearly more accurate than its trunk's net alone at {', '.join(better)}."
    return "No shared core is clearly more accurate than its trunk's net alone, which costs less."


def _points(layer: CoreLayer) -> list[Point]:
    return [
        (key.split("_")[0] if key.startswith("sparse_") else key, _words(key), layer.cost(key), layer.accuracy(key))
        for key in layer.systems()
        if not key.startswith("core_")
    ]


def _sizes_table(found: EnsemblingResults) -> Table:
    single = f"{np.mean([row.calibration.value for row in found.members]):.4f}"
    mean = found.reference("mean_single")
    assert mean is not None
    rows = [("1", str(len(found.members)), *_cells(mean), single, MISSING, MISSING)]
    for size in found.sizes:
        subsets, chosen = found.subsets_of(size.members), found.chosen_of(size.members)
        rows.append((
            str(size.members), f"{len(subsets)} of {size.n_possible}", *_cells(size),
            f"{np.mean([row.calibration for row in subsets]):.4f}", interval(size.logit_loss),
            difference(chosen.accuracy_minus_random) if chosen else MISSING,
        ))  # fmt: skip
    columns = ("members", "subsets", "accuracy", "loss, nats", "calibration error", "loss with mean logits",
               "least similar minus random members, accuracy")  # fmt: skip
    return Table.of("Ensembles by size, mean over subsets", columns, rows, wide=True)


def _cells(row: Reference | EnsembleSize) -> tuple[str, str]:
    return interval(row.accuracy), interval(row.loss)


def _cores_table(layers: Sequence[CoreLayer]) -> Table:
    rows = [
        (
            layer.name, _words(key), f"{layer.cost(key):.2f}", interval(layer.accuracy(key)), interval(layer.loss(key)),
            MISSING if key == FULL else interval(layer.minus_full(key)),
        )
        for layer in layers
        for key in layer.systems()
    ]  # fmt: skip
    columns = ("core up to", "system", "cost, one net = 1", "accuracy", "loss, nats", "accuracy minus full ensemble")
    return Table.of("Shared cores, mean over trunks", columns, rows, wide=True)
