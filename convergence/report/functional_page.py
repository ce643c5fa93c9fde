"""The page of the functional experiments, with a chapter for each experiment of the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convergence.errors import FileError
from convergence.figures.style import Drawing
from convergence.functional.file import made_by, read_results
from convergence.registry import Registry
from convergence.report.tables import Table

logger = logging.getLogger(__name__)
CHAPTERS = Registry(
    "chapter",
    {
        "stitch": "convergence.report.chapters.stitch:chapter",
        "merge": "convergence.report.chapters.merge:chapter",
        "compress": "convergence.report.chapters.compress:chapter",
        "ensemble": "convergence.report.chapters.ensemble:chapter",
        "average": "convergence.report.chapters.average:chapter",
    },
)


@dataclass(frozen=True)
class Chapter:
    """The results of one experiment.

    Attributes
    ----------
    title : a question
    sentences : the answer, with numbers, intervals and nulls
    about : method and sources
    tables, drawings : all numbers
    """

    title: str
    sentences: tuple[str, ...]
    about: str
    tables: tuple[Table, ...]
    drawings: tuple[Drawing, ...]


def read_chapters(folder: Path | None, digests: Mapping[str, str] | None) -> tuple[list[Chapter], list[str]]:
    """Chapters of the experiments whose files are in a folder, and a sentence for each file that is skipped.

    ``digests`` are the expected digests by experiment; None accepts any.
    """
    chapters, left_out = [], []
    for name in CHAPTERS:
        path = folder / f"{name}.h5" if folder else None
        if path is None or not path.exists():
            continue
        try:
            results = read_results(path)
            if digests is not None and digests.get(name) != results.digest:
                raise FileError(f"{path} was made with other settings. Run `{made_by(name)}` again.")
        except FileError as error:
            left_out.append(f"The experiment {name} is skipped: {error}")
            logger.warning("report: %s", left_out[-1])
            continue
        chapters.append(CHAPTERS.load(name)(results))
    return chapters, left_out
