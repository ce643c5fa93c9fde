"""Figures of a run: which there are, and each as SVG, PNG and PDF with its numbers as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convergence.figures import FIGURES, JOINT_FIGURES
from convergence.figures.style import FORMATS, Drawing
from convergence.report.slugs import slug
from convergence.summary import Layer, PairResult


@dataclass(frozen=True)
class Placed:
    """A drawing with the files that were written of it, relative to the report's folder, by ending."""

    drawing: Drawing
    files: dict[str, str]

    @property
    def image(self) -> str:
        """The one that the page shows."""
        return self.files["svg"]


def drawings_of(layer: Layer, pair: PairResult | None, names: Sequence[str] | None = None) -> list[Drawing]:
    """The figures of a comparison that have something to show; ``names`` of the registries, all if None."""
    found: list[Drawing] = []
    if not layer.whole:
        for name in JOINT_FIGURES:
            if names is None or name in names:
                found += JOINT_FIGURES.load(name)(layer)
    elif pair is not None:
        for name in FIGURES:
            if (names is None or name in names) and (drawing := FIGURES.load(name)(layer, pair)) is not None:
                found.append(drawing)
    return found


def slugged(drawing: Drawing) -> Drawing:
    """The drawing under a name that is safe in a file name."""
    return replace(drawing, name=slug(drawing.name))


def place(drawing: Drawing, folder: Path) -> Placed:
    """Write a drawing below the report's folder."""
    safe = slugged(drawing)
    written = safe.save(folder / "figures", folder / "tables", FORMATS)
    return Placed(safe, {ending: path.relative_to(folder).as_posix() for ending, path in written.items()})
