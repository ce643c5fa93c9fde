"""Figures for a notebook, in the report's style; no window system is touched and pyplot is not needed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from convergence.alignment.matching import aligned_order
from convergence.figures.style import NULL, STYLE, TRAINED, show_matrix

if TYPE_CHECKING:
    from convergence.results.unit_tables import UnitMatching


class NotebookFigure(Figure):
    """A matplotlib figure that a notebook shows by itself."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    out = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="png", dpi=110, bbox_inches="tight")
    return out.getvalue()


def shown(figure: Figure) -> Figure:
    """A figure of the report, made to show itself in a notebook."""
    figure.__class__ = NotebookFigure
    return figure


def matching_figure(found: UnitMatching) -> Figure:
    """Correlations in natural order, with pairs on the diagonal, and of the pairs, best first."""
    between = np.asarray(found.correlations)
    order_x, order_y = aligned_order(between)
    with mpl.rc_context(STYLE):
        figure = NotebookFigure(figsize=(11.5, 3.5), layout="constrained")
        axes = figure.subplots(1, 3)
        show_matrix(axes[0], between, f"{found.layer}, natural order", f"unit of {found.y}", f"unit of {found.x}")
        image = show_matrix(
            axes[1], between[np.ix_(order_x, order_y)], "matched units aligned", f"unit of {found.y}, matched",
            f"unit of {found.x}, by match",
        )  # fmt: skip
        figure.colorbar(image, ax=list(axes[:2]), shrink=0.8, label="correlation r")
        order = np.argsort(-found.correlation, kind="stable")
        r, at = found.correlation[order], np.arange(len(order))
        if found.standard_error is not None:
            wide = 2 * found.standard_error[order]
            axes[2].fill_between(at, r - wide, r + wide, color=TRAINED, alpha=0.2, linewidth=0)
        axes[2].plot(at, r, color=TRAINED, linewidth=1.8, label="matched pairs")
        axes[2].axhline(found.mean, color=TRAINED, linestyle=":", label=f"mean {found.mean:.3f}")
        if found.estimate is not None and np.isfinite(found.estimate.null):
            null = found.estimate.null
            axes[2].axhline(null, color=NULL, linestyle="--", label=f"mean after rotation {null:.3f}")
        axes[2].set(title="correlation of matched pairs", xlabel="pairs, best first", ylim=(min(0, r.min()), 1.02))
        axes[2].legend(loc="lower left", fontsize=8.5)
    return figure
