"""The chapter on compression: which units can go, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from convergence.figures.compress import WORDS, Point, by_layer, curves
from convergence.functional.file import FunctionalResults, Tree
from convergence.functional.scoring import RANGE, Scores, mean_scores
from convergence.report.matters import Chapter
from convergence.report.tables import MISSING, Table, interval
from convergence.uncertainty import Estimate

TOLERATED = 0.01
"""A loss of accuracy that counts as none in a sentence."""
RIVALS = {
    "random": "random units",
    "magnitude": "the units of the smallest weights (L1 norm)",
    "random_folded": "random units with the same folding",
    "magnitude_folded": "those of the smallest weights with the same folding",
}
ABOUT = (
    "Who stands in for whom is learnt from {n} training images, none of which is scored: second moments of the units "
    "where the next layer reads them, behind activation function and pooling. That unit goes first whose outgoing "
    "weights times what the others cannot predict of it change the next layer's expected input least (optimal brain "
    "surgeon, Hassibi & Stork 1993, for whole units); its outgoing weights are folded into the units that predict it "
    "by least squares: all that stay, or few by orthogonal matching pursuit (one: neuron merging, Kim et al. 2020). "
    "Beside it: units of the smallest incoming weights (L1 norm, Li et al. 2017, as torch.nn.utils.prune ranks them), "
    "random ones, and principal components of the layers at no more multiply–adds. Nothing is trained again. All "
    "layers lose their units at once, by the moments of the whole net. Accuracies are of {images} held-out images, "
    "with jackknife intervals over {groups} image groups, which say nothing of other nets."
)


def chapter(results: FunctionalResults) -> Chapter:
    """How many units can go, beside random and magnitude pruning."""
    nets = results.tree
    whole = _mean(_scores(tree["about"]["whole"]) for tree in nets.values())
    base = whole.accuracy().within(RANGE)
    steps = _together([tree["all"] for tree in nets.values()])
    totals = {key: sum(tree["about"]["whole"][key] for tree in nets.values()) for key in ("units", "multiply_adds")}
    points = [_point(share, m, trees, totals) for share, methods in steps.items() for m, trees in methods.items()]
    saved = _saved_share(nets)
    drawings = [curves(points, base, len(nets))]
    tables = [_curve_table(points), _saved_table(nets, steps[saved], saved)]
    layers = _by_layer(nets, totals)
    if layers:
        drawings.append(by_layer(layers, base))
        tables.append(_layer_table(layers))
    tables.append(_spaces_table(nets))
    first = next(iter(nets.values()))
    return Chapter(
        "How many units can go, because others stand in for them?",
        tuple(_sentences(nets, steps, saved, whole, totals)),
        ABOUT.format(n=first["about"]["n_learning"], images=results.n_images, groups=results.n_groups),
        tuple(tables),
        tuple(drawings),
    )


Steps = dict[float, dict[str, list[Tree]]]
"""By share removed and method: the result of each net."""


def _together(trees: list[Tree]) -> Steps:
    found: Steps = {}
    for tree in trees:
        for step in tree.values():
            for method in (m for m in WORDS if m in step["methods"]):
                found.setdefault(float(step["share"]), {}).setdefault(method, []).append(step["methods"][method])
    # A method that not every net has at a share has no mean there that could be compared.
    return {
        share: {method: own for method, own in methods.items() if len(own) == len(trees)}
        for share, methods in sorted(found.items())
    }


def _saved_share(nets: Tree) -> float:
    """The share at which methods were compared image by image."""
    first = next(iter(nets.values()))
    (found,) = (s["share"] for s in first["all"].values() if all("minus" in m for m in s["methods"].values()))
    return float(found)


def _scores(tree: Tree) -> Scores:
    return Scores(**tree["scores"])


def _mean(scores: Iterable[Scores]) -> Scores:
    return mean_scores(list(scores))


def _point(share: float, method: str, trees: list[Tree], totals: dict[str, Any]) -> Point:
    accuracy = _mean(_scores(tree) for tree in trees).accuracy()
    null = float(np.mean([tree["accuracy"]["null"] for tree in trees]))
    # The spread of draws of a mean over nets whose draws are independent of each other.
    spread = float(np.sqrt(np.sum([tree["accuracy"]["null_sd"] ** 2 for tree in trees])) / len(trees))
    left = sum(tree["units"] for tree in trees) / totals["units"]
    cost = sum(tree["multiply_adds"] for tree in trees) / totals["multiply_adds"]
    return Point(method, share, left, cost, accuracy.against((null, spread)))


def _sentences(nets: Tree, steps: Steps, saved: float, whole: Scores, totals: dict[str, Any]) -> Iterable[str]:
    methods = steps[saved]
    ours = next((m for m in ("redundancy", "few", "one") if m in methods), None)
    if ours is not None:
        mine = _mean(_scores(tree) for tree in methods[ours])
        point = _point(saved, ours, methods[ours], totals)
        yield (
            f"With {100 * (1 - point.left):.0f} % of the units of every layer gone, and with them "
            f"{100 * (1 - point.multiply_adds):.0f} % of the multiply–adds, nets whose remaining units stand in for "
            f"the removed ones answer correctly for {interval(point.accuracy)} of the images; whole, for "
            f"{interval(whole.accuracy())}, a difference of {interval(mine.accuracy_minus(whole))}. Nothing was "
            "trained again."
        )
        for rival, words in RIVALS.items():
            if rival in methods:
                yield _verdict(words, mine, methods[ours], methods[rival])
    most = [(method, _most(steps, method, whole)) for method in WORDS]
    said = [f"{100 * share:.0f} % ({WORDS[method]})" for method, share in most if share is not None]
    if said:
        yield (
            f"The largest share of every layer's units that can go while accuracy drops by no more than "
            f"{100 * TOLERATED:.0f} point: {'; '.join(said)}."
        )
    dead = sum(space["dead"] for tree in nets.values() for space in tree["about"]["spaces"].values())
    yield (
        f"{dead} of the {totals['units']} units of {', '.join(nets)} never told the next layer anything; they are the "
        "first to go."
    )


def _verdict(words: str, mine: Scores, ours: list[Tree], trees: list[Tree]) -> str:
    other = _mean(_scores(tree) for tree in trees)
    difference = mine.accuracy_minus(other)
    means = interval(other.accuracy())
    if "draws" in trees[0]:
        spread = float(np.mean([np.std(tree["draws"], ddof=1) for tree in trees]))
        n = sum(len(tree["draws"]) for tree in trees)
        beaten = sum(
            int(np.sum(own["accuracy"]["value"] > tree["draws"])) for own, tree in zip(ours, trees, strict=True)
        )
        means += f", ± {spread:.3f} from one draw to the next, below it in {beaten} of {n} draws"
    if difference.low > 0:
        return f"That beats {words} ({means}) by {interval(difference)}."
    if difference.high < 0:
        return f"That does not beat {words}: they reach {means}, better by {interval(other.accuracy_minus(mine))}."
    return f"It cannot be told from {words}: they reach {means}, a difference of {interval(difference)}."


def _most(steps: Steps, method: str, whole: Scores) -> float | None:
    """The largest share up to which a method loses no more than is tolerated; None if none, or for components."""
    found = None
    for share, methods in steps.items():
        if method == "subspace" or method not in methods:
            break
        if _mean(_scores(tree) for tree in methods[method]).accuracy_minus(whole).value < -TOLERATED:
            break
        found = share
    return found


def _curve_table(points: list[Point]) -> Table:
    shares = sorted({p.share for p in points})
    methods = [m for m in WORDS if any(p.method == m for p in points)]
    cells = {(p.method, p.share): interval(p.accuracy) for p in points}
    cost = {p.share: f"{100 * p.multiply_adds:.0f} %" for p in points if p.method != "subspace"}
    rows = [
        [f"{100 * share:.0f} %", cost.get(share, MISSING), *(cells.get((m, share), MISSING) for m in methods)]
        for share in shares
    ]
    names = ["units removed", "multiply–adds left", *(WORDS[m] for m in methods)]
    return Table.of("Accuracy by share of units removed, mean over nets", names, rows, wide=True)


def _saved_table(nets: Tree, methods: dict[str, list[Tree]], share: float) -> Table:
    rows = []
    for method, trees in methods.items():
        for name, tree in zip(nets, trees, strict=True):
            minus = {other: interval(Estimate(**e)) for other, e in tree["minus"].items()}
            rows.append(
                [
                    WORDS[method], name, interval(Estimate(**tree["accuracy"])), interval(Estimate(**tree["loss"])),
                    *(minus.get(other, MISSING) for other in ("whole", *RIVALS)),
                    f"{tree['parameters']:,}", f"{tree['multiply_adds']:,}",
                ]
            )  # fmt: skip
    columns = (
        "method", "net", "accuracy", "loss (nats)", "minus whole net", "minus random", "minus smallest weights",
        "minus random, folded", "minus smallest, folded", "parameters", "multiply–adds",
    )  # fmt: skip
    return Table.of(f"{100 * share:.0f} % of units removed, net by net", columns, rows, wide=True)


def _by_layer(nets: Tree, totals: dict[str, Any]) -> dict[str, list[Point]]:
    """Points of each layer that all nets have; {} where layers were not done one at a time."""
    found: dict[str, list[Point]] = {}
    first = next(iter(nets.values()))
    for space in first["about"]["order_of_spaces"].split("\n"):
        trees = [tree["layers"][space] for tree in nets.values() if space in tree.get("layers", {})]
        if trees and len(trees) == len(nets):
            steps = _together(trees)
            found[space] = [_point(s, m, own, totals) for s, methods in steps.items() for m, own in methods.items()]
    return found


def _layer_table(layers: dict[str, list[Point]]) -> Table:
    methods = [m for m in WORDS if any(p.method == m for several in layers.values() for p in several)]
    rows = []
    for layer, several in layers.items():
        for share in sorted({p.share for p in several}):
            cells = {p.method: interval(p.accuracy) for p in several if p.share == share}
            rows.append([layer, f"{100 * share:.0f} %", *(cells.get(m, MISSING) for m in methods)])
    names = ["layer", "units removed", *(WORDS[m] for m in methods)]
    return Table.of("Accuracy with units of one layer removed", names, rows, wide=True)


def _spaces_table(nets: Tree) -> Table:
    rows = []
    for name, tree in nets.items():
        about = tree["about"]
        for space in about["order_of_spaces"].split("\n"):
            of = about["spaces"][space]
            lost = np.cumsum(of["loss"])
            half = f"{100 * lost[max(len(lost) // 2 - 1, 0)]:.1f} %"
            rows.append([name, space, str(of["units"]), str(of["dead"]), of["readers"], half, ""])
        for line in filter(None, about["left_out"].split("\n")):
            space, _, reason = line.partition(": ")
            rows.append([name, space, MISSING, MISSING, MISSING, MISSING, reason])
    columns = (
        "net", "layer", "units", "never active", "read by", "of what is read, lost without half of them",
        "why it is left whole",
    )  # fmt: skip
    return Table.of("Units that can be removed", columns, rows, wide=True)
