"""The style of figures, and their parts: drawing, caption and numbers."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from convergence.io.csv_files import write_csv
from convergence.io.files import atomic_write, safe_name
from convergence.results.populations import Summary

# Okabe & Ito's palette: distinguishable with any colour vision.
TRAINED, UNTRAINED, NULL, ACCENT, SECOND = "#0072B2", "#D55E00", "#7A7A7A", "#009E73", "#CC79A7"
KIND_COLOURS = {"trained": TRAINED, "untrained": UNTRAINED, "mixed": SECOND, "same_init": "#56B4E9"}
KIND_WORDS = {
    "trained": "trained nets",
    "untrained": "untrained nets",
    "mixed": "trained with untrained",
    "same_init": "trained from one initialisation",
}
KIND_MARKERS = {"trained": "o", "untrained": "s", "mixed": "D", "same_init": "^"}
BOTH_INTERVALS = "Thin bars with caps: 95 % intervals over nets and images; thick bars: over images, for these nets."
MAP = "RdBu_r"
PAGE_REM_PER_INCH = 5.4
STYLE: dict[Any, Any] = {
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E6EA",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "convergence",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}
logging.getLogger("fontTools").setLevel(logging.WARNING)  # says a hundred lines of every embedded font
FORMATS = ("svg", "png", "pdf")
METADATA: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}, "png": {}}
"""No dates in files, so that their bytes depend on the results alone."""
DPI = 160


@dataclass(frozen=True)
class Format:
    """Format of figures.

    Attributes
    ----------
    width : inches; None takes the width that a figure has on the report's page. Panels that would be too narrow go
        below each other.
    points : size of the letters
    titles : whether panels have titles; in a publication the caption says what they are
    """

    width: float | None = None
    points: float = 9.5
    titles: bool = True


PAGE = Format()
_FORMAT: ContextVar[Format] = ContextVar("format", default=PAGE)


@contextmanager
def drawing_for(wanted: Format) -> Iterator[None]:
    """Figures made inside are drawn for this format."""
    token = _FORMAT.set(wanted)
    try:
        yield
    finally:
        _FORMAT.reset(token)


def printing() -> bool:
    """Whether the format has a given width, that of a column."""
    return _FORMAT.get().width is not None


def drawing_style() -> AbstractContextManager[None]:
    """Matplotlib's settings for the present format."""
    thin = 0.7 if printing() else 1.0
    sizes = {
        "font.size": _FORMAT.get().points,
        "axes.linewidth": 0.8 * thin,
        "xtick.major.width": 0.8 * thin,
        "ytick.major.width": 0.8 * thin,
    }
    return mpl.rc_context(STYLE | sizes)


@dataclass(frozen=True)
class Drawing:
    """A figure for the report.

    Attributes
    ----------
    name : file name without ending
    title, caption : what it is, and what it shows, with the numbers that matter
    alt : text for those who do not see it
    figure : the drawing
    columns, rows : its numbers
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    @property
    def width_rem(self) -> float:
        """Width on the page, the same scale for all figures so that their letters are of one size."""
        return float(self.figure.get_figwidth()) * PAGE_REM_PER_INCH

    @property
    def file_name(self) -> str:
        """The name, as any file system takes it."""
        return safe_name(self.name)

    def save(self, figures: Path, tables: Path, formats: Sequence[str] = FORMATS) -> dict[str, Path]:
        """Write the drawing in each format to ``figures`` and its numbers as CSV to ``tables``; the files by ending."""
        written = {}
        with drawing_style():
            engine = self.figure.get_layout_engine()
            if engine is not None and formats:
                engine.execute(self.figure)  # the layout is found once, and then holds for every format
                self.figure.set_layout_engine("none")
            for ending in formats:
                written[ending] = figures / f"{self.file_name}.{ending}"
                with atomic_write(written[ending]) as temporary:
                    if ending == "svg":
                        _write_svg(self.figure, temporary)
                    else:
                        dpi = 300 if printing() else DPI
                        self.figure.savefig(temporary, format=ending, dpi=dpi, metadata=METADATA[ending])
        written["csv"] = tables / f"{self.file_name}.csv"
        write_csv(written["csv"], self.columns, self.rows)
        return written


def _write_svg(figure: Figure, path: Path) -> None:
    """Draw a figure as SVG. ``savefig`` would draw it twice, once for its layout, which is known."""
    figure.set_dpi(DPI)  # of parts that are drawn as images
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata=METADATA["svg"])
    path.write_text(text.getvalue(), encoding="utf-8")


def new_figure(
    width: float,
    height: float,
    columns: int = 1,
    ratios: Sequence[float] | None = None,
    narrowest: float = 2.1,
) -> tuple[Figure, Any]:
    """A figure in inches with a row of axes; no window system is touched.

    In a format with a given width, panels keep their shape and break into rows before they are narrower than
    ``narrowest`` inches (or than the format, if that is narrower).
    """
    wanted = _FORMAT.get()
    with drawing_style():
        if wanted.width is None:
            figure = Figure(figsize=(width, height), layout="constrained")
            return figure, figure.subplots(1, columns, width_ratios=ratios, squeeze=False)[0]
        n_rows = math.ceil(columns / max(1, int(wanted.width / narrowest)))
        per_row = math.ceil(columns / n_rows)
        shape = min(max(height / (width / columns), 0.62), 0.9)
        figure = Figure(figsize=(wanted.width, n_rows * wanted.width / per_row * shape), layout="constrained")
        axes = figure.subplots(n_rows, per_row, width_ratios=ratios if n_rows == 1 else None, squeeze=False).ravel()
        for empty in axes[columns:]:
            empty.remove()
        return figure, axes[:columns]


def draw_intervals(
    axes: Any, at: float, summary: Summary, colour: str, marker: str = "", label: str | None = None
) -> None:
    """Draw a mean over pairs with both intervals: thin with caps over nets and images, thick over images alone."""
    e = summary
    if np.isfinite(e.image_low):
        axes.plot([at, at], [e.image_low, e.image_high], color=colour, linewidth=4.5, alpha=0.45, solid_capstyle="butt")
    if np.isfinite(e.low):
        ends = [[max(e.value - e.low, 0.0)], [max(e.high - e.value, 0.0)]]
        axes.errorbar(at, e.value, ends, fmt="none", ecolor=colour, elinewidth=1.0, capsize=3, capthick=1.0, zorder=3)
    if marker:
        axes.plot(at, e.value, marker, color=colour, markersize=5.5, label=label, zorder=4)


def interval_legend(axes: Any, summaries: Iterable[Summary], below: bool = False, **options: Any) -> None:
    """A legend that also says which bars are over nets and which over images; ``below`` all panels, or in one."""
    handles, labels = axes.get_legend_handles_labels()
    drawn = list(summaries)
    for has, width, alpha, word in (
        (any(np.isfinite(s.low) for s in drawn), 1.0, 1.0, "95 % over nets"),
        (any(np.isfinite(s.image_low) for s in drawn), 4.5, 0.45, "95 % over images"),
    ):
        if has:
            handles.append(Line2D([], [], color=NULL, linewidth=width, alpha=alpha))
            labels.append(word)
    if below:
        columns = legend_columns(labels, axes.figure.get_figwidth(), 0.83 * mpl.rcParams["font.size"])
        axes.figure.legend(handles, labels, fontsize="small", loc="outside lower center", ncols=columns)
    else:
        axes.legend(handles, labels, fontsize="small", **options)


def legend_columns(labels: Sequence[str], width: float, points: float, most: int = 6) -> int:
    """The largest number of columns, at most ``most``, with which a legend is not wider than ``width`` inches.

    Entries fill columns from top to bottom. A letter is assumed to be half as wide as it is high. Line, gap and space
    between columns together are as wide as 5 letters are high.
    """
    widths = [(0.5 * len(label) + 5) * points / 72 for label in labels]
    for columns in range(min(len(labels), most), 1, -1):
        rows, longer = divmod(len(labels), columns)
        lengths = [rows + (k < longer) for k in range(columns)]
        ends = np.cumsum(lengths)
        if sum(max(widths[end - n : end]) for n, end in zip(lengths, ends, strict=True)) <= width:
            return columns
    return 1


def name_ticks(axes: Any, names: Sequence[str]) -> None:
    """Name the ticks 0, 1, … of the horizontal axis, slanted if the names are wider than their places."""
    panels = axes.get_subplotspec().get_gridspec().ncols
    place = 0.8 * axes.figure.get_figwidth() / panels / max(len(names), 1)
    slanted = max(map(len, names), default=0) * 0.6 * mpl.rcParams["font.size"] / 72 > place
    axes.set_xticks(range(len(names)), names)
    if slanted:
        axes.tick_params("x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")


def intervals_caption(summaries: Iterable[Summary]) -> str:
    """What the bars are, and which kinds of nets have no interval over nets."""
    missing = dict.fromkeys(summary.missing for summary in summaries if summary.missing)
    return " ".join([BOTH_INTERVALS, *(f"{reason[0].upper()}{reason[1:]}." for reason in missing)])


def finish_for_print(drawing: Drawing) -> None:
    """Label the shared axis of panels in rows again, and remove titles if the format has none."""
    donor = None
    for ax in drawing.figure.axes:
        place = ax.get_subplotspec()
        if place is None:
            continue
        if ax.get_ylabel():
            donor = ax
        elif donor is not None and place.is_first_col() and ax.get_ylim() == donor.get_ylim():
            ax.set_ylabel(donor.get_ylabel())
        if not _FORMAT.get().titles:
            ax.set_title("", loc="left")


def show_matrix(axes: Any, matrix: Any, title: str, x_label: str, y_label: str) -> Any:
    """A correlation matrix between −1 and 1, blue for negative and red for positive."""
    image = axes.imshow(matrix, cmap=MAP, vmin=-1, vmax=1, interpolation="nearest", aspect="equal", rasterized=True)
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(False)
    return image


def slug(name: str) -> str:
    """A name as part of file names and addresses: unchanged if it is safe, else its safe characters and a hash.

    >>> slug("conv1"), slug("net1:conv2@5")
    ('conv1', 'net1-conv2-5-93711b')
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:80] or "x"
    return (
        safe if safe == name and not name.startswith("_") else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    )


def slugged(drawing: Drawing) -> Drawing:
    """The drawing under a name that is safe in file names and addresses."""
    return replace(drawing, name=slug(drawing.name))
