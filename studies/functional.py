"""Write docs/functional/results.md: the chapters on functional experiments of a run of configs/digits.toml.

python studies/functional.py            writes the page from runs/digits
python studies/functional.py --check    fails if the page differs from what the run gives
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from findings import tidy

from convergence.report.functional_page import Chapter, read_chapters

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "functional" / "results.md"
ABOUT = """What the functional experiments say of the nets of `configs/digits.toml`: the sentences of a page of the
report, which has tables and figures as well. `python studies/functional.py` writes them from `runs/digits`, which
`make run` makes. Intervals are 95 % intervals over image groups, for these nets."""


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="Write docs/functional/results.md from a run of configs/digits.toml.")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "digits", help="run folder (default: runs/digits)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    given = parser.parse_args()
    chapters, left_out = read_chapters(given.run / "functional", None)
    if not chapters or left_out:
        sys.exit(f"{given.run}: {'; '.join(left_out) or 'there are no functional experiments'}. Run make run first.")
    text = page(chapters)
    if not given.check:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE}: differs from what {given.run} gives; write it again: python studies/functional.py")


def page(chapters: Sequence[Chapter]) -> str:
    """The text of the page."""
    parts = ["# Functional experiments on digits", ABOUT]
    for chapter in chapters:
        parts += [f"## {chapter.title}", "\n".join(f"* {sentence}" for sentence in chapter.sentences)]
    return tidy("\n\n".join(parts))


if __name__ == "__main__":
    main()
