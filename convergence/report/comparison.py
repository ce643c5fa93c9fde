"""Two runs side by side: findings, measures with their differences, and settings that differ, as a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convergence.analysis.summaries import UNKNOWN
from convergence.errors import UserError
from convergence.figures.overview import two_runs
from convergence.figures.style import slug
from convergence.inference import NetsNumber
from convergence.io.files import confined, put_folder_in_place
from convergence.report.results import RunResults, distinguished, read_run
from convergence.report.site import Link, MenuSection, Placed, Site
from convergence.report.tables import MISSING, Table
from convergence.results import ALL_IMAGES, KINDS, Difference, Kind, Summary, difference_of
from convergence.results.finding import StudyFinding
from convergence.results.findings import findings
from convergence.results.run import find_run
from convergence.similarity import MEASURES

NOT_SETTINGS = ("name", "report", "pictures")
"""Parts of a config that change no number."""


@dataclass(frozen=True)
class MeasureDifference:
    """One measure in both runs.

    Attributes
    ----------
    layer, measure, title : names of the comparison and of the measure, and the measure's title
    nets : kind of the pairs of nets
    a, b : means over the pairs of that kind in either run
    difference : b − a with its intervals
    """

    layer: str
    measure: str
    title: str
    nets: Kind
    a: Summary
    b: Summary
    difference: Difference

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of the difference over nets excludes 0; False without one."""
        return self.difference.excludes_zero


@dataclass(frozen=True)
class SettingDifference:
    """A setting, by its dotted name, with its value in either run; None where a run does not have it."""

    setting: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Compared:
    """The content of a comparison page.

    Attributes
    ----------
    same_images : whether both runs used the same images in the same groups; differences are then taken group by group
    findings : each question with the finding of either run, None where a run has none
    differences : every measure that both runs have
    changed : settings that differ
    only_a, only_b : layers of one run alone
    """

    a: RunResults
    b: RunResults
    same_images: bool
    findings: tuple[tuple[str, str, StudyFinding | None, StudyFinding | None], ...]
    differences: tuple[MeasureDifference, ...]
    changed: tuple[SettingDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def measures(self) -> Table:
        """The differences of measures as a table of text."""
        columns = (
            "layer", "measure", "nets", self.a.title, self.b.title, "difference", "for these nets",
            "interval excludes 0",
        )  # fmt: skip
        rows = tuple(
            (
                item.layer, item.title, item.nets, str(item.a), str(item.b),
                str(item.difference), _over_images(item.difference),
                "yes" if item.excludes_zero else MISSING if item.difference.missing else "no",
            )
            for item in self.differences
        )  # fmt: skip
        return Table("Measures of both runs", columns, rows, wide=True)

    @property
    def settings(self) -> Table:
        """The settings that differ as a table of text."""
        rows = tuple((item.setting, _quoted(item.a), _quoted(item.b)) for item in self.changed)
        return Table("Settings that differ", ("setting", self.a.title, self.b.title), rows)


def compare(a: RunResults, b: RunResults) -> Compared:
    """Compare two runs: findings, measures and settings."""
    same_images = a.images == b.images
    return Compared(
        a=a,
        b=b,
        same_images=same_images,
        findings=_findings(a, b),
        differences=_measures(a, b, same_images),
        changed=_settings(a, b),
        only_a=tuple(layer.name for layer in a.whole if layer.name not in {one.name for one in b.whole}),
        only_b=tuple(layer.name for layer in b.whole if layer.name not in {one.name for one in a.whole}),
    )


def difference(a: NetsNumber, b: NetsNumber, same_images: bool, measure: str, kind: str = "") -> Difference:
    """B − a with its intervals over nets and over images.

    Nets of one initialisation, known by its weights, are matched; nets of unknown initialisation are others in either
    run. On the same image groups, what an image adds to both cancels.
    """
    first, second = (number.renamed(partial(_unit_of, run)) for run, number in (("b", b), ("a", a)))
    return difference_of(first, second, same_images, measure, ALL_IMAGES, (kind, kind))


def _unit_of(run: str, unit: str) -> str:
    return f"{unit} of {run}" if unit.startswith(UNKNOWN) else unit


def _measures(a: RunResults, b: RunResults, same_images: bool) -> tuple[MeasureDifference, ...]:
    found = []
    of_b = {layer.name: layer for layer in b.whole}
    for layer in a.whole:
        other = of_b.get(layer.name)
        if other is None:
            continue
        for name in (name for name in MEASURES if name in layer.measures and name in other.measures):
            for kind in KINDS:
                ours, theirs = (one.summary(name, kind) for one in (layer, other))
                numbers = [one.number(name, kind) for one in (layer, other)]
                if ours is None or theirs is None or numbers[0] is None or numbers[1] is None:
                    continue
                d = difference(numbers[0], numbers[1], same_images, name, kind)
                found.append(MeasureDifference(layer.name, name, MEASURES.load(name).title, kind, ours, theirs, d))
    return tuple(found)


def _findings(a: RunResults, b: RunResults) -> tuple[tuple[str, str, StudyFinding | None, StudyFinding | None], ...]:
    ours, theirs = ({finding.question: finding for finding in findings(run.whole)} for run in (a, b))
    questions = {finding.question: finding.asks for finding in (*ours.values(), *theirs.values())}
    order = sorted(questions, key=lambda question: questions[question])
    return tuple((questions[q], q, ours.get(q), theirs.get(q)) for q in order)


def _settings(a: RunResults, b: RunResults) -> tuple[SettingDifference, ...]:
    old, new = (
        {key: value for key, value in flat(run.config) if key.split(".")[0] not in NOT_SETTINGS} for run in (a, b)
    )
    return tuple(
        SettingDifference(key, old.get(key), new.get(key))
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    )


def _over_images(found: Difference) -> str:
    known = np.isfinite(found.image_low)
    return f"[{found.image_low:+z.3f}, {found.image_high:+z.3f}]".replace("-", "−") if known else MISSING


def _quoted(value: Any) -> str:
    return MISSING if value is None else json.dumps(value, ensure_ascii=False)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names; items of lists of sections by their number."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for k, item in enumerate(value):
            yield from flat(item, f"{path}.{k}")
    else:
        yield path, value


def shown_summaries(compared: Compared, layers: Sequence[str]) -> list[tuple[str, str, Summary]]:
    """Numbers of the comparison's figure: layer, run, and mean over pairs."""
    return [
        (layer.name, run.title, found)
        for run in (compared.a, compared.b)
        for layer in run.whole
        if layer.name in layers
        for name in ("matching", "semi_matching", "linear_cka")
        for kind in KINDS
        if (found := layer.summary(name, kind)) is not None
    ]


def compare_runs(run_a: str, run_b: str, runs: str, out: str | None) -> tuple[Path, Compared]:
    """Write the comparison of two runs; return its page and its content.

    Parameters
    ----------
    run_a, run_b, runs
        Run folders, or configs whose run folders are below ``runs``.
    out
        Folder of the page, which is replaced; None takes ``comparisons/<b>/`` in the folder of a.

    Raises
    ------
    UserError
        if either is no analysed run, both are the same, or ``out`` holds something else.
    """
    folders = [find_run(run, runs) for run in (run_a, run_b)]
    if folders[0].resolve() == folders[1].resolve():
        raise UserError(f"{run_a} and {run_b} are the same run. Give two different ones.")
    a, b = distinguished(read_run(folders[0]), read_run(folders[1]), folders)
    default = f"comparisons/{slug(folders[1].resolve().name)}"
    target = confined(folders[0], default) if out is None else Path(out)
    if target.exists() and not (target / "index.html").exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} holds something else than a comparison. Choose another folder with --out.")
    building = target.with_name(target.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    for name in ("figures", "tables"):
        (building / name).mkdir(parents=True)
    page = Link("Comparison", "index")
    site = Site(building, f"{a.title} and {b.title}", (MenuSection("", (page,)),), (*a.notices, *b.notices))
    site.write_assets()
    compared = compare(a, b)
    write_comparison(site, page, compared)
    put_folder_in_place(building, target)
    return target / "index.html", compared


def write_comparison(site: Site, link: Link, compared: Compared) -> None:
    """Write the page of two runs side by side, with its figure."""
    there = {layer.name for layer in compared.b.whole}
    layers = [layer.name for layer in compared.a.whole if layer.name in there]
    names = (compared.a.title, compared.b.title)
    drawing = two_runs(names, layers, shown_summaries(compared, layers))
    placed: Placed | None = None if drawing is None else site.place(drawing)
    site.write(link, "compare.html", c=compared, drawing=placed)
