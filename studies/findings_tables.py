"""Tables and numbers of docs/findings.md from the results of several studies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from study_results import Study

from convergence.analysis.layout import ALL_IMAGES
from convergence.results.comparison import ComparisonResults
from convergence.results.growth import growths_across
from convergence.results.pair import PairResults
from convergence.results.sentences import Verdict, number, signed, verdict_of


def joined_table(studies: Iterable[Study], question: str, columns: dict[str, str]) -> str:
    """The table of a question over all studies; ``columns`` has the columns of the report and their titles here."""
    rows = []
    for study in studies:
        finding = study.finding(question)
        for row in finding.rows if finding else ():
            values = dict(zip(finding.columns, row, strict=True))
            rows.append((study.name, values["layer"], *(values.get(name, "–") for name in columns)))
    return markdown(("study", "layer", *columns.values()), rows)


def verdicts(studies: Iterable[Study], measure: str, against: str, evaluation: str = ALL_IMAGES) -> str:
    """A list: where a number of trained nets is above its chance level, or that of untrained nets, and where not."""
    found: dict[Verdict, dict[str, list[str]]] = {"above": {}, "below": {}, "neither": {}, "withheld": {}}
    for study in studies:
        for name, layer in study.layers.items():
            of = "absolute_matching" if measure == "matching" and layer.signless else measure
            summary = layer.summary(of, "trained", evaluation)
            difference = layer.difference(of, "trained", "untrained", evaluation)
            interval = summary.above_chance if against == "chance" and summary else difference
            if interval is not None:
                found[verdict_of(interval)].setdefault(study.name, []).append(name)
    words = {"above": f"above {against}", "below": f"below {against}", "neither": f"no difference from {against} found",
             "withheld": f"not compared with {against}, for want of nets or of a chance level"}  # fmt: skip
    lines = []
    for verdict, where in found.items():
        named = "; ".join(f"{study}: {', '.join(layers)}" for study, layers in where.items())
        lines.append(f"* {words[verdict]}: {named}" if named else "")
    return "\n".join(filter(None, lines))


def rotated_rows(study: Study) -> list[tuple[str, ...]]:
    """Matched r of nets in other bases, which should be that of chance."""
    found = {layer: study.get(layer, "matching", "untrained") for layer in study.layers}
    return [
        (layer, number(one), f"{one.null:.3f} ± {one.null_sd:.3f}", signed(one.above_chance))
        for layer, one in found.items()
    ]


def markdown(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def causes_table(study: Study, measures: dict[str, str], evaluation: str = ALL_IMAGES) -> str:
    """Mean similarity by what two nets share, and what each cause adds."""
    rows = []
    for layer, results in study.layers.items():
        for measure, title in measures.items():
            found = {
                one.shared: one for one in results.causes if (one.measure, one.evaluation) == (measure, evaluation)
            }
            effects = [f"{signed(one.contrast)}" for shared, one in found.items() if shared != "nothing"]
            rows.append((layer, title, number(found["nothing"].mean), *effects))
    some = next(iter(study.layers.values())).causes
    shared = dict.fromkeys(one.shared for one in some)
    titles = [f"{name}: effect" for name in shared if name != "nothing"]
    return markdown(("layer", "measure", "share nothing", *titles), rows)


def files_table(studies: Iterable[Study]) -> str:
    """SHA-256 of the results."""
    titles = ("study", "SHA-256 of analysis.h5", "of its data sets alone", "commit")
    rows = [
        (one.name, *(f"`{value}`" for value in (one.file_hash(), one.data_hash(), one.commit()))) for one in studies
    ]
    return markdown(titles, rows)


def widths_table(study: Study) -> str:
    """Matched r of two nets of a width, its chance level, and linear CKA."""
    rows = []
    series = growths_across(list(study.layers.values()), ["matching", "linear_cka"])
    of = {(one.of, one.measure): dict(one.points) for one in series if one.kind == "trained"}
    for layer in dict.fromkeys(one.of for one in series):
        for width, one in of[layer, "matching"].items():
            rows.append((layer, f"{width:.0f}", number(one), f"{one.null:.3f} ± {one.null_sd:.3f}",
                         signed(one.above_chance), number(of[layer, "linear_cka"][width])))  # fmt: skip
    return markdown(("layer", "units", "matched r", "chance", "matched r − chance", "linear CKA"), rows)


def excess_by_width(study: Study) -> dict[str, list[Any]]:
    """By layer the excess of matched r of trained nets, from narrow to wide."""
    return {
        one.of: [summary.above_chance for _, summary in one.points]
        for one in growths_across(list(study.layers.values()), ["matching"])
        if one.kind == "trained"
    }


@dataclass(frozen=True)
class KnownUnits:
    """Matched units of nets whose units are known to correspond: a mean over pairs, and its range.

    Attributes
    ----------
    own_unit : by pair, the share of units that are matched with the unit of the same number
    own_r, matched_r : by pair, mean correlation with the unit of the same number, and with the matched unit
    """

    own_unit: tuple[float, ...]
    own_r: tuple[float, ...]
    matched_r: tuple[float, ...]

    @classmethod
    def of(cls, results: ComparisonResults, pairs: Iterable[PairResults]) -> KnownUnits:
        """Of pairs of a layer."""
        rows = []
        for pair in pairs:
            found, r = pair.matching, results.correlation(pair.x, pair.y)
            own = r[found.unit_x, found.unit_x]
            rows.append(
                (float((found.unit_x == found.unit_y).mean()), float(own.mean()), float(found.correlation.mean()))
            )
        return cls(*zip(*rows, strict=True))

    @property
    def mean_own_unit(self) -> float:
        """Mean over pairs of ``own_unit``."""
        return float(np.mean(self.own_unit))

    @property
    def mean_own_r(self) -> float:
        """Mean over pairs of ``own_r``."""
        return float(np.mean(self.own_r))

    def row(self) -> tuple[str, ...]:
        """As cells of a table."""
        least, most = min(self.own_unit), max(self.own_unit)
        return (
            f"{100 * self.mean_own_unit:.0f} % ({100 * least:.0f} to {100 * most:.0f})",
            *(f"{float(np.mean(values)):.3f}" for values in (self.own_r, self.matched_r)),
        )


def style_of(net: str) -> str:
    """Label of the group of a net."""
    return net.rstrip("0123456789")


def known_units(study: Study) -> dict[str, tuple[KnownUnits, KnownUnits]]:
    """By layer: of pairs of nets of one style, and of pairs of two styles."""
    found = {}
    for name, results in study.layers.items():
        pairs = results.of_kind("same_init")
        of_one = [pair for pair in pairs if style_of(pair.x) == style_of(pair.y)]
        found[name] = (
            KnownUnits.of(results, of_one),
            KnownUnits.of(results, [pair for pair in pairs if pair not in of_one]),
        )
    return found


def known_units_table(study: Study) -> str:
    """The table of the control."""
    titles = ("own unit", "r with own unit", "matched r")
    rows = [
        (name, f"{len(study.layers[name].units(study.layers[name].nets[0]).mean)}",
         *one.row(), *two.row(), f"{study.get(name, 'matching', 'same_init').null:.3f}")
        for name, (one, two) in known_units(study).items()
    ]  # fmt: skip
    columns = [f"{style}: {title}" for style in ("one style", "two styles") for title in titles]
    return markdown(("layer", "units", *columns, "matched r, chance"), rows)


def values_of(studies: Iterable[Study], measure: str) -> list[float]:
    """A mean over pairs of trained nets, of all layers that have it."""
    found = [layer.summary(measure, "trained") for study in studies for layer in study.layers.values()]
    return [one.value for one in found if one is not None]


def in_all(*studies: Study) -> str:
    """The largest share of units that are in all trained nets, over the layers of studies."""
    found = [layer.consensus["trained"] for study in studies for layer in study.layers.values()]
    return f"{100 * max(one.shared[len(one.nets)].value for one in found):.0f} %"
