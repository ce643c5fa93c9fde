"""Write docs/findings.md, and the results in README.md, from the results of the studies.

The texts are those of findings.md.jinja and readme.md.jinja: numbers, intervals and tables are taken from
``runs/<study>/analysis.h5``. Sentences of the text state what they rest on as ``claim(…)``; nothing is written if a
claim is wrong for these results.

    python studies/findings.py            writes docs/findings.md, its figures, and the section of README.md
    python studies/findings.py --check    fails if a text differs from what the results give
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import jinja2
from findings_tables import (
    causes_table,
    excess_by_width,
    files_table,
    in_all,
    joined_table,
    known_units,
    known_units_table,
    markdown,
    rotated_rows,
    values_of,
    verdicts,
    widths_table,
)
from study_results import CHANCE, Study

from convergence.figures.export import export
from convergence.results.sentences import number, percent, signed

ROOT = Path(__file__).parents[1]
PAGE, README, IMAGES = ROOT / "docs" / "findings.md", ROOT / "README.md", ROOT / "docs" / "images"
TEMPLATE, README_TEMPLATE = (Path(__file__).with_name(f"{name}.md.jinja") for name in ("findings", "readme"))
MARKS = "<!-- written by studies/findings.py -->\n", "<!-- end of what studies/findings.py writes -->\n"
"""Before and after the section of README.md."""
IN_README = (("ani", "N.layer1"), ("ani", "N.layer3"), ("digits12", "conv1"), ("digits12", "fc1"),
             ("chars", "blocks.1.mlp.up"), ("efficientnet", "stage2"))  # fmt: skip
STUDIES = ("ani", "digits12", "chars", "efficientnet", "spliceai", "widths", "waifu2x")
WIDTHS = "widths"
"""Nets of several widths, in a separate section."""
CONTROL = "waifu2x"
"""Nets whose units are known to correspond, in a separate section."""
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
OPTIONAL = ("chars", "efficientnet", "spliceai", "widths", "waifu2x")
"""Studies that no sentence of the text needs: their rows are left out of the tables without results."""
DRAWN = ("ani", "digits12")


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
    shown = [study for study in studies.values() if study.name not in (CHANCE, WIDTHS, CONTROL)]
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
        "known_units": known_units,
        "known_units_table": known_units_table,
        "values_of": values_of,
    }
    numbers = {"about": ABOUT, "largest_excess": max(map(abs, excesses))}
    of_files = [*shown, *(studies[name] for name in (WIDTHS, CONTROL) if name in studies)]
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
