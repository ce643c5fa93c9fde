"""The chapter on compression: how many units can be pruned, and at what loss of accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from convergence.figures.compress import WORDS, Point, by_layer, curves
from convergence.functional.compression.results import CompressionResults, PrunedNet
from convergence.functional.file import FunctionalResults
from convergence.functional.scores import RANGE, Scores, mean_scores
from convergence.report.functional_page import Chapter
from convergence.report.tables import MISSING, Table, interval

TOLERATED = 0.01
"""Loss of accuracy that a sentence tolerates."""
RIVALS = {
    "random": "random units",
    "magnitude": "units of the smallest weights (L1 norm)",
    "random_folded": "random units with the same folding",
    "magnitude_folded": "units of the smallest weights with the same folding",
}
ABOUT = (
    "The moments of the units, at the input of the next layer, come from {n} training images, none of which is scored. "
    "The unit is removed first whose outgoing weights times the part that the other units cannot predict change the "
    "next layer's expected input least (optimal brain surgeon, Hassibi & Stork 1993, for whole units). Its outgoing "
    "weights are folded into the units that predict it by least squares: all kept units, or few by orthogonal matching "
    "pursuit (one: neuron merging, Kim et al. 2020). References: units of the smallest incoming weights (L1 norm, Li "
    "et al. 2017, as in torch.nn.utils.prune), random units, and principal components of the layers at no more "
    "multiply–adds. Nets are not fine-tuned. All layers are pruned at once, with the moments of the whole net. "
    "Accuracies are of {images} held-out images, with jackknife intervals over {groups} image groups, which do not "
    "include variation over nets. Docs: functional/compression.md."
)
Steps = dict[float, dict[str, list[PrunedNet]]]
"""By share removed and method: one row per net."""


def chapter(results: FunctionalResults[CompressionResults]) -> Chapter:
    """The chapter of ``compress.h5``."""
    return _Chapter(results.tables).chapter(results.n_images, results.n_groups)


class _Chapter:
    """What the sentences, tables and figures share."""

    def __init__(self, found: CompressionResults) -> None:
        self.found = found
        self.nets = [net.net for net in found.nets]
        self.whole = mean_scores([net.scores for net in found.nets])
        self.units = sum(net.units for net in found.nets)
        self.multiply_adds = sum(net.multiply_adds for net in found.nets)
        self.steps = self._steps("")
        (self.saved,) = {row.share for row in found.differences} or {max(self.steps)}

    def chapter(self, n_images: int, n_groups: int) -> Chapter:
        base = self.whole.accuracy().within(RANGE)
        points = self._points(self.steps)
        drawings = [curves(points, base, len(self.nets))]
        tables = [_curve_table(points), self._saved_table()]
        layers = self._layers()
        if layers:
            drawings.append(by_layer(layers, base))
            tables.append(_layer_table(layers))
        tables.append(self._groups_table())
        return Chapter(
            "How many units can be pruned, because other units predict them?",
            tuple(self._sentences()),
            ABOUT.format(n=self.found.nets[0].n_learning, images=n_images, groups=n_groups),
            tuple(tables),
            tuple(drawings),
        )

    def _steps(self, layer: str) -> Steps:
        """Rows by share and method; methods that a net lacks at a share are left out."""
        found: Steps = {}
        for row in self.found.pruned:
            if row.layer == layer:
                found.setdefault(row.share, {}).setdefault(row.method, []).append(row)
        return {
            share: {m: methods[m] for m in WORDS if len(methods.get(m, ())) == len(self.nets)}
            for share, methods in sorted(found.items())
        }

    def _points(self, steps: Steps) -> list[Point]:
        return [self._point(rows) for methods in steps.values() for rows in methods.values()]

    def _point(self, rows: Sequence[PrunedNet]) -> Point:
        null = float(np.mean([row.accuracy.null for row in rows]))
        # The standard deviation of a mean over nets whose draws are independent.
        spread = float(np.sqrt(np.sum([row.accuracy.null_sd**2 for row in rows])) / len(rows))
        left = sum(row.units for row in rows) / self.units
        cost = sum(row.multiply_adds for row in rows) / self.multiply_adds
        return Point(rows[0].method, rows[0].share, left, cost, _mean(rows).accuracy().against((null, spread)))

    def _layers(self) -> dict[str, list[Point]]:
        """Points of each layer that was pruned alone in all nets."""
        first = [row.group for row in self.found.groups if row.net == self.nets[0]]
        found = {group: self._points(self._steps(group)) for group in first}
        return {group: points for group, points in found.items() if points}

    def _sentences(self) -> Iterable[str]:
        methods = self.steps[self.saved]
        ours = next((m for m in ("redundancy", "few", "one") if m in methods), None)
        if ours is not None:
            mine, point = _mean(methods[ours]), self._point(methods[ours])
            yield (
                f"Pruning {100 * (1 - point.left):.0f} % of the units of every layer, and "
                f"{100 * (1 - point.multiply_adds):.0f} % of the multiply–adds, by redundancy with folding keeps "
                f"{interval(point.accuracy)} of {self.whole.accuracy().value:.3f} accuracy, a difference of "
                f"{interval(mine.accuracy_minus(self.whole))}, without fine-tuning."
            )
            for rival, words in RIVALS.items():
                if rival in methods:
                    yield self._verdict(words, mine, methods[ours], methods[rival])
        most = [(method, self._most(method)) for method in WORDS]
        said = [f"{100 * share:.0f} % ({WORDS[method]})" for method, share in most if share is not None]
        if said:
            yield (
                f"The largest share of the units of every layer that can be pruned within {100 * TOLERATED:.0f} point "
                f"of accuracy: {'; '.join(said)}."
            )
        dead = sum(group.dead for group in self.found.groups)
        yield f"{dead} of the {self.units} units of {', '.join(self.nets)} are dead; they are removed first."

    def _verdict(self, words: str, mine: Scores, ours: Sequence[PrunedNet], rows: Sequence[PrunedNet]) -> str:
        other = _mean(rows)
        difference = mine.accuracy_minus(other)
        means = interval(other.accuracy())
        draws = [[d.accuracy for d in self.found.draws if _of(d, row)] for row in rows]
        if all(draws):
            spread = float(np.mean([np.std(one, ddof=1) for one in draws]))
            beaten = sum(own.accuracy.value > one for own, each in zip(ours, draws, strict=True) for one in each)
            means += f", ± {spread:.3f} over draws, lower in {beaten} of {sum(map(len, draws))} draws"
        if difference.low > 0:
            return f"This is better than {words} ({means}) by {interval(difference)}."
        if difference.high < 0:
            return f"This is worse than {words} ({means}) by {interval(other.accuracy_minus(mine))}."
        return f"This does not differ clearly from {words} ({means}): the difference is {interval(difference)}."

    def _most(self, method: str) -> float | None:
        """The largest share up to which a method loses no more than is tolerated; None for components."""
        found = None
        for share, methods in self.steps.items():
            if method == "subspace" or method not in methods:
                break
            if _mean(methods[method]).accuracy_minus(self.whole).value < -TOLERATED:
                break
            found = share
        return found

    def _saved_table(self) -> Table:
        rows = []
        for method, own in self.steps[self.saved].items():
            for row in own:
                minus = {d.against: interval(d.accuracy_minus) for d in self.found.differences
                         if (d.net, d.method) == (row.net, method)}  # fmt: skip
                rows.append(
                    [
                        WORDS[method], row.net, interval(row.accuracy), interval(row.loss),
                        *(minus.get(other, MISSING) for other in ("whole", *RIVALS)),
                        f"{row.parameters:,}", f"{row.multiply_adds:,}",
                    ]
                )  # fmt: skip
        columns = (
            "method", "net", "accuracy", "loss (nats)", "minus whole net", "minus random", "minus smallest weights",
            "minus random, folded", "minus smallest, folded", "parameters", "multiply–adds",
        )  # fmt: skip
        return Table.of(f"{100 * self.saved:.0f} % of units pruned, by net", columns, rows, wide=True)

    def _groups_table(self) -> Table:
        rows = []
        for group in self.found.groups:
            steps = [e.loss for e in self.found.eliminations if (e.net, e.group) == (group.net, group.group)]
            half = f"{100 * sum(steps[: max(len(steps) // 2, 1)]):.1f} %"
            rows.append([group.net, group.group, str(group.units), str(group.dead), group.consumers, half, ""])
        for one in self.found.skipped:
            rows.append([one.net, one.group, MISSING, MISSING, MISSING, MISSING, one.reason])
        columns = ("net", "layer", "units", "dead units", "read by", "change of the next layer without half of them",
                   "why it is not pruned")  # fmt: skip
        return Table.of("Units that can be pruned", columns, rows, wide=True)


def _mean(rows: Sequence[PrunedNet]) -> Scores:
    return mean_scores([row.scores for row in rows])


def _of(draw: object, row: PrunedNet) -> bool:
    return all(getattr(draw, name) == getattr(row, name) for name in ("net", "layer", "share", "method"))


def _curve_table(points: list[Point]) -> Table:
    shares = sorted({p.share for p in points})
    methods = [m for m in WORDS if any(p.method == m for p in points)]
    cells = {(p.method, p.share): interval(p.accuracy) for p in points}
    cost = {p.share: f"{100 * p.multiply_adds:.0f} %" for p in points if p.method != "subspace"}
    rows = [
        [f"{100 * share:.0f} %", cost.get(share, MISSING), *(cells.get((m, share), MISSING) for m in methods)]
        for share in shares
    ]
    names = ["units removed", "remaining multiply–adds", *(WORDS[m] for m in methods)]
    return Table.of("Accuracy by share of units removed, mean over nets", names, rows, wide=True)


def _layer_table(layers: dict[str, list[Point]]) -> Table:
    methods = [m for m in WORDS if any(p.method == m for several in layers.values() for p in several)]
    rows = []
    for layer, several in layers.items():
        for share in sorted({p.share for p in several}):
            cells = {p.method: interval(p.accuracy) for p in several if p.share == share}
            rows.append([layer, f"{100 * share:.0f} %", *(cells.get(m, MISSING) for m in methods)])
    names = ["layer", "units removed", *(WORDS[m] for m in methods)]
    return Table.of("Accuracy with units of one layer removed", names, rows, wide=True)
