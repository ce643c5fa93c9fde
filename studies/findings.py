"""Write docs/findings.md, and the results in README.md, from the results of the studies.

The texts are those of findings.md.jinja and readme.md.jinja: numbers, intervals and tables are taken from
``runs/<study>/analysis.h5``. Sentences of the text state what they rest on as ``claim(…)``; nothing is written if a
claim is wrong for these results.

    python studies/findings.py            writes docs/findings.md, its figures, and the section of README.md
    python studies/findings.py --check    fails if a text differs from what the results give
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import jinja2
import numpy as np

import convergence
from convergence.analysis.layout import ALL_IMAGES
from convergence.figures.export import export
from convergence.results.comparison import ComparisonResults
from convergence.results.finding import StudyFinding
from convergence.results.growth import growths_across
from convergence.results.sentences import Verdict, number, percent, signed, verdict_of

ROOT = Path(__file__).parents[1]
PAGE, README, IMAGES = ROOT / "docs" / "findings.md", ROOT / "README.md", ROOT / "docs" / "images"
TEMPLATE, README_TEMPLATE = (Path(__file__).with_name(f"{name}.md.jinja") for name in ("findings", "readme"))
MARKS = "<!-- written by studies/findings.py -->\n", "<!-- end of what studies/findings.py writes -->\n"
"""Before and after the section of README.md."""
IN_README = (("ani", "N.layer1"), ("ani", "N.layer3"), ("digits12", "conv1"), ("digits12", "fc1"),
             ("chars", "blocks.1.mlp.up"), ("efficientnet", "stage2"))  # fmt: skip
STUDIES = ("ani", "digits12", "chars", "efficientnet", "spliceai", "widths")
CHANCE = "ani_chance"
"""Nets in other bases, studies/ani/chance.toml: a check of the chance level."""
WIDTHS = "widths"
"""Nets of several widths, in a separate section."""
ABOUT = {
    "ani": ("nets of ANI-1x, by their authors", "initial weights and training data", "conformers, an atom each"),
    "digits12": (
        "convolutional nets",
        "initial weights, order, images, apart from each other",
        "digits of 28 × 28 pixels",
    ),
    "chars": ("transformers, next character", "initial weights and order of the text", "pieces of documentation"),
    "efficientnet": ("ImageNet classifiers, by their authors", "depth and initial weights", "tiles of photographs"),
    "spliceai": ("nets of SpliceAI, by their authors", "training apart from each other", "windows of human DNA"),
}
"""The nets, what they differ in, and the inputs of each study."""
OPTIONAL = ("chars", "efficientnet", "spliceai", "widths")
"""Studies that no sentence of the text needs: their rows are left out of the tables without results."""
DRAWN = ("ani", "digits12")


class Study:
    """The results of one study, as the template reads them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path = name, folder / "analysis.h5"
        how = "convergence run studies/ani/chance.toml" if name == CHANCE else f"make study NAME={name}"
        if not self.path.exists():
            sys.exit(f"{self.path}: there is no such file. Run {how} first.")
        self.run = convergence.open(folder)
        self.layers: dict[str, ComparisonResults] = {name: self.run[name].results for name in self.run.comparisons}
        self._findings = {finding.question: finding for finding in self.run.findings()}

    def finding(self, question: str) -> StudyFinding | None:
        """The answer to a question of the report; None where the study has none."""
        return self._findings.get(question)

    def get(self, layer: str, measure: str, kind: str = "trained", evaluation: str = ALL_IMAGES) -> Any:
        """Mean over pairs of a kind (``Summary``)."""
        found = self.layers[layer].summary(measure, kind, evaluation)  # type: ignore[arg-type]
        if found is None:
            raise KeyError(f"{self.name}, {layer}: {measure} of {kind} nets ({evaluation})")
        return found

    def difference(
        self, layer: str, measure: str, first: str = "trained", second: str = "untrained", evaluation: str = ALL_IMAGES
    ) -> Any:
        """Mean over pairs of one kind minus that of another (``Difference``)."""
        return self.layers[layer].difference(measure, first, second, evaluation)  # type: ignore[arg-type]

    def show(
        self, layer: str, measure: str, kind: str = "trained", evaluation: str = ALL_IMAGES, digits: int = 3
    ) -> str:
        """The mean with its interval, as text."""
        return number(self.get(layer, measure, kind, evaluation), digits)

    def excess(self, layer: str, measure: str, kind: str = "trained") -> Any:
        """The mean minus its chance level (``Excess``)."""
        return self.get(layer, measure, kind).above_chance

    def cause(self, layer: str, measure: str, shared: str) -> Any:
        """The mean over pairs of trained nets that share a cause (``CauseMean``)."""
        rows = self.layers[layer].causes
        return next(one for one in rows if (one.measure, one.evaluation, one.shared) == (measure, ALL_IMAGES, shared))

    def low_units(self, layer: str, below: float) -> str:
        """Smallest and largest share, over trained nets, of units with a mean activation below a value."""
        results = self.layers[layer]
        nets = [net for net, trained in zip(results.nets, results.trained, strict=True) if trained]
        shares = [float((results.units(net).mean < below).mean()) for net in nets]
        return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"

    def n(self, trained: bool = True) -> int:
        """Number of trained, or of untrained, nets."""
        layer = next(iter(self.layers.values()))
        return sum(one is trained for one in map(bool, layer.trained))

    def n_images(self) -> str:
        """Number of images, molecules or texts."""
        return f"{self.run.n_images:,}"

    def commit(self) -> str:
        """Commit of the code that made the file, as far as it is known."""
        with h5py.File(self.path) as file:
            return str(json.loads(file.attrs["provenance"]).get("git commit", "–"))[:12]

    def file_hash(self) -> str:
        """SHA-256 of analysis.h5."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def data_hash(self) -> str:
        """SHA-256 of all data sets in analysis.h5 by name, without its attributes: versions and the commit."""
        digest = hashlib.sha256()

        def add(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                values = item[()]
                content = repr(values).encode() if item.dtype.kind == "O" else np.asarray(values).tobytes()
                digest.update(f"{name} {item.dtype} {item.shape} ".encode() + content)

        with h5py.File(self.path) as file:
            file.visititems(add)
        return digest.hexdigest()


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


def values_of(studies: Iterable[Study], measure: str) -> list[float]:
    """A mean over pairs of trained nets, of all layers that have it."""
    found = [layer.summary(measure, "trained") for study in studies for layer in study.layers.values()]
    return [one.value for one in found if one is not None]


def in_all(*studies: Study) -> str:
    """The largest share of units that are in all trained nets, over the layers of studies."""
    found = [layer.consensus["trained"] for study in studies for layer in study.layers.values()]
    return f"{100 * max(one.shared[len(one.nets)].value for one in found):.0f} %"


def tidy(text: str) -> str:
    """The text with paragraphs and lists wrapped, and single blank lines."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if not block.startswith(("|", "!", "#")):
            parts = re.split(r"\n(?=\* )", block)
            bullets = [" ".join(part.split()) for part in parts]
            wrapped = [
                textwrap.fill(one, 125, subsequent_indent="  " * one.startswith("* "), break_on_hyphens=False,
                              break_long_words=False)
                for one in bullets
            ]  # fmt: skip
            block = "\n".join(wrapped)
        blocks.append("\n".join(line.rstrip() for line in block.splitlines()))
    return "\n\n".join(blocks) + "\n"


def claim(holds: bool) -> str:
    """Nothing; ValueError for a claim that is wrong."""
    if not holds:
        raise ValueError("a claim of the text is wrong for these results; correct the text")
    return ""


def rendered(template: Path, **values: Any) -> str:
    """A text, tidied."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    words = {
        "claim": claim,
        "share": lambda value: f"{100 * value:.0f} %",
        "number": number,
        "percent": percent,
        "signed": signed,
        "abs": abs,
        "in_all": in_all,
    }
    return tidy(environment.from_string(template.read_text(encoding="utf-8")).render(**words, **values))


def readme(studies: dict[str, Study]) -> str:
    """README.md with its section of results."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    shown = [(studies[name], layer) for name, layer in IN_README]
    return before + MARKS[0] + rendered(README_TEMPLATE, shown=shown, **studies) + MARKS[1] + after


def page(studies: dict[str, Study]) -> str:
    """The text of docs/findings.md."""
    shown = [study for study in studies.values() if study.name not in (CHANCE, WIDTHS)]
    excesses = [studies[CHANCE].excess(layer, "matching", "untrained").value for layer in studies[CHANCE].layers]
    tables = {
        "joined": joined_table,
        "markdown": markdown,
        "causes": causes_table,
        "files": files_table,
        "verdicts": verdicts,
        "rotated_rows": rotated_rows,
        "widths_table": widths_table,
        "excess_by_width": excess_by_width,
        "values_of": values_of,
    }
    numbers = {"about": ABOUT, "largest_excess": max(map(abs, excesses))}
    of_files = [*shown, *([studies[WIDTHS]] if WIDTHS in studies else [])]
    return rendered(TEMPLATE, **studies, studies=shown, of_files=of_files, **tables, **numbers)


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="Write docs/findings.md from the results of the studies.")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the run folders (default: runs)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    given = parser.parse_args()
    there = [name for name in STUDIES if name not in OPTIONAL or (given.runs / name / "analysis.h5").exists()]
    studies = {name: Study(name, given.runs / name) for name in (*there, CHANCE)}
    for name in set(STUDIES) - set(there):
        print(f"{name} is left out: it has no results in {given.runs}; make study NAME={name}", file=sys.stderr)
    texts = {PAGE: page(studies)}
    if set(STUDIES) == set(there):
        texts[README] = readme(studies)
    if given.check:
        for path, text in texts.items():
            if path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path}: differs from what {given.runs} gives; write it again: python studies/findings.py")
        return
    for name in DRAWN:
        with tempfile.TemporaryDirectory() as folder:
            run = str(given.runs / name)
            export(run, "", ("png",), "9in", 8.0, (), ("overview",), None, titles=True, out=folder)
            shutil.copy(Path(folder) / "overview.png", IMAGES / f"findings-{name}.png")
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
