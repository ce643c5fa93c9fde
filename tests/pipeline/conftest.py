"""Slurm's commands as scripts, for tests that need no Slurm; reports whose figures are not drawn."""

import pytest

from tests.helpers.drawing import undrawn
from tests.helpers.fake_slurm import fake  # noqa: F401


@pytest.fixture(autouse=True)
def _undrawn(request):
    """No test of this folder draws figures in its own process, but those marked so."""
    if request.node.get_closest_marker("drawn"):
        yield
    else:
        with undrawn():
            yield
