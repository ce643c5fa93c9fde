"""Figures for print: legends and names of layers fit into the width that was asked for."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from convergence.figures.style import Format, drawing_for, drawing_style, interval_legend, name_ticks, new_figure

KINDS = ["trained nets", "another basis", "untrained nets", "trained with untrained", "trained from one initialisation"]


@pytest.mark.parametrize("width", [3.25, 6.5])
def test_legend_below_fits_the_width(width):
    with drawing_for(Format(width=width)), drawing_style():
        figure, axes = new_figure(11.2, 3.5, 3)
        for kind in KINDS:
            axes[0].plot([0, 1], [0, 1], label=kind)
        interval_legend(axes[0], [], below=True)
        FigureCanvasAgg(figure).draw()
        box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


@pytest.mark.parametrize(("names", "slanted"), [(["conv1", "fc1"], False), ([f"C.layer{k}" for k in range(6)], True)])
def test_names_of_ticks_do_not_overlap(names, slanted):
    with drawing_for(Format(width=6.5)), drawing_style():
        figure, axes = new_figure(11.2, 3.5, 3)
        name_ticks(axes[0], names)
        FigureCanvasAgg(figure).draw()
        labels = axes[0].get_xticklabels()
        boxes = [label.get_window_extent() for label in labels]
    assert all((label.get_rotation() > 0) == slanted for label in labels)
    assert slanted or all(first.x1 < second.x0 for first, second in itertools.pairwise(boxes))
