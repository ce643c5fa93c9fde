"""How figures look, and what a figure is: the drawing, one sentence on what it shows, and its numbers."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from convergence.files import atomic_write, safe_name

# Okabe & Ito's palette: told apart with any colour vision.
TRAINED, UNTRAINED, NULL, ACCENT, SECOND = "#0072B2", "#D55E00", "#7A7A7A", "#009E73", "#CC79A7"
KIND_COLOURS = {"trained": TRAINED, "untrained": UNTRAINED, "mixed": SECOND}
KIND_WORDS = {"trained": "trained nets", "untrained": "untrained nets", "mixed": "trained with untrained"}
MAP = "RdBu_r"
PAGE_REM_PER_INCH = 5.4
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10,
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
}


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

    def save(self, figures: Path, tables: Path) -> str:
        """Write SVG and PNG to ``figures`` and CSV to ``tables``; returns the SVG as a data address to inline."""
        svg, name = io.BytesIO(), self.file_name
        with mpl.rc_context(STYLE):
            self.figure.savefig(svg, format="svg", metadata={"Date": None}, bbox_inches="tight")
            with atomic_write(figures / f"{name}.png") as temporary:
                self.figure.savefig(temporary, format="png", dpi=160, bbox_inches="tight")
        with atomic_write(figures / f"{name}.svg") as temporary:
            temporary.write_bytes(svg.getvalue())
        with (
            atomic_write(tables / f"{name}.csv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(self.rows)
        return "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode()


def new_figure(
    width: float, height: float, columns: int = 1, ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure in inches with a row of axes; no window system is touched."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, width_ratios=ratios, squeeze=False)[0]
    return figure, axes


def show_matrix(axes: Any, matrix: Any, title: str, x_label: str, y_label: str) -> Any:
    """A correlation matrix between −1 and 1, blue for negative and red for positive."""
    image = axes.imshow(matrix, cmap=MAP, vmin=-1, vmax=1, interpolation="nearest", aspect="equal", rasterized=True)
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(False)
    return image
