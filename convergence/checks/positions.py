"""Masks of positions: whether layers and the settings of positions fit the valid positions of the images."""

from __future__ import annotations

from collections.abc import Iterator

from convergence.checks.context import CheckContext
from convergence.checks.findings import Finding
from convergence.statistics.masks import masked_units, read_masks


def check_positions(context: CheckContext) -> Iterator[Finding]:
    """Yield no finding; raise ConfigError for what does not fit, and set the valid positions of ``context.joined``."""
    if context.joined:
        config = context.experiment.statistics
        context.joined = masked_units(context.joined, read_masks(context.images, config), config)
    yield from ()
