"""The verbs ``slice`` and ``fetch``; each gives what the command prints."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def slice(options: argparse.Namespace) -> str:
    """Selection a statistics file."""
    from convergence.downloaded import statistics_path
    from convergence.statistics.subset import Selection, parse_groups, subset_statistics

    groups = parse_groups(options.groups) if options.groups is not None else ()
    cut = Selection(tuple(options.comparisons), tuple(options.nets), groups)
    target = Path(options.target)
    if not subset_statistics(statistics_path(options.source), target, cut, options.overwrite):
        logger.info("slice: there already")
    return str(target.resolve())


def fetch(options: argparse.Namespace) -> str:
    """Bring a run's results."""
    from convergence.fetching import fetch as bring

    folder = bring(
        options.run, options.dest, options.comparisons, options.nets, options.ssh, options.remote_command,
        options.pictures, options.functional,
    )  # fmt: skip
    return str(folder.resolve())
