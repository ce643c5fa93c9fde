"""``convergence figures RUN``: figures of an analysed run for a publication, with their numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from convergence.errors import FileError, UserError, did_you_mean
from convergence.figures import FIGURES, JOINT_FIGURES, drawings_of
from convergence.figures.overview import overview
from convergence.figures.style import Drawing, Format, drawing_for, finish_for_print, slugged
from convergence.io.files import confined
from convergence.results import ComparisonResults, read_analysis
from convergence.results.run import find_run

logger = logging.getLogger(__name__)
INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
NARROWEST, WIDEST = 1.5, 20.0
OVERVIEW = "overview"


def export(
    run: str,
    runs: str,
    formats: Sequence[str],
    width: str | None,
    points: float,
    layers: Sequence[str],
    figures: Sequence[str],
    pair: tuple[str, str] | None,
    titles: bool,
    out: str | None,
) -> list[Path]:
    """Draw figures of a run and return the files, numbers (CSV) included.

    Parameters
    ----------
    run, runs
        A run folder, or a config whose run folder is below ``runs``.
    formats
        Endings: svg, png, pdf.
    width
        Of every figure, with its unit (3.25in, 8.25cm, 82.5mm, 234pt; inches without one); None takes the width on the
        report's page.
    points
        Size of the letters.
    layers, figures
        Names of those to draw; all if empty.
    pair
        Nets to show unit by unit; the first trained pair if None.
    titles
        Whether panels have titles.
    out
        Folder; None takes ``figures/`` in the run folder.

    Raises
    ------
    UserError
        for an unknown layer, figure or pair, a width that is none, and where nothing can be drawn.
    """
    wanted = Format(None if width is None else inches(width), points, titles)
    _check("--figure", figures, [OVERVIEW, *FIGURES, *JOINT_FIGURES])
    folder = find_run(run, runs)
    analysis = read_analysis(folder / "analysis.h5")
    _check("--layer", layers, analysis.comparisons)
    found = analysis.all([name for name in analysis.comparisons if not layers or name in layers])
    target = confined(folder, "figures") if out is None else Path(out)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{target}: no folder for figures: {error}. Choose another with --out.") from error
    written: list[Path] = []
    with drawing_for(wanted):
        for drawing in _drawings(found, figures, pair):
            if wanted.width is not None or not titles:
                finish_for_print(drawing)
            written += slugged(drawing).save(target, target, formats).values()
            logger.info("  %s", drawing.name)
    if not written:
        raise UserError(
            f"{folder}: the analysis has nothing for {', '.join(figures) or 'any figure'} in "
            f"{', '.join(layer.name for layer in found)}."
        )
    return written


def _drawings(
    layers: Sequence[ComparisonResults], figures: Sequence[str], pair: tuple[str, str] | None
) -> list[Drawing]:
    drawings: list[Drawing] = []
    whole = [layer for layer in layers if layer.whole and layer.pairs]
    if whole and (not figures or OVERVIEW in figures):
        drawings.append(overview(whole))
    for layer in layers:
        shown = None if not layer.whole else layer.either_pair(*pair) if pair else layer.first_pair
        if layer.whole and pair is not None and shown is None:
            raise UserError(
                f"--pair {' '.join(pair)}: {layer.name} has no results of these two; its nets are "
                f"{', '.join(layer.nets)}."
            )
        drawings += drawings_of(layer, shown, figures or None)
    return drawings


def _check(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name}: unknown name; {did_you_mean(name, known)}.")


def inches(text: str) -> float:
    """A width in inches.

    >>> inches("3.25in"), round(inches("8.255cm"), 3)
    (3.25, 3.25)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(in|cm|mm|pt)?\s*", text)
    if not found:
        raise UserError(f"--width {text}: give a number and its unit, for example 3.25in, 8.25cm, 82.5mm or 234pt.")
    width = float(found[1]) * INCHES[found[2] or "in"]
    if not NARROWEST <= width <= WIDEST:
        raise UserError(f"--width {text}: {width:.2f} inches; figures can be {NARROWEST:g} to {WIDEST:g} inches wide.")
    return width
