"""Reports without the time that figures take: most tests read their pages, numbers and names only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from convergence.figures import style


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures are set up and their numbers written; their files hold no drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "get_layout_engine", lambda self: None)
        patch.setattr(style, "_write_svg", lambda figure, path: path.write_text("<svg/>", "utf-8"))
        patch.setattr(Figure, "savefig", lambda self, path, **options: Path(path).write_text("<svg/>", "utf-8"))
        yield
