"""An analysis file from sums in memory: pairs and nets computed in this process, without training or statistics."""

from __future__ import annotations

import itertools
from pathlib import Path

from convergence.analysis.active_units import active_units, pooled_correlation
from convergence.analysis.assembly import ComparisonRows
from convergence.analysis.layout import SCHEMA, VERSION
from convergence.analysis.nets import analyze_nets
from convergence.analysis.pair import analyze_pair
from convergence.config.stages import AnalysisConfig
from convergence.io import hdf5
from convergence.results import AnalysisResults, read_analysis
from convergence.statistics.file import ComparisonSums


def analysed(path: Path, comparisons: dict[str, ComparisonSums], config: AnalysisConfig) -> AnalysisResults:
    """Write the analysis of comparisons by name to ``path`` and open it."""
    attributes = {"digest": "", "statistics_digest": "", "provenance": "{}"}
    with hdf5.create(path, SCHEMA, VERSION, attributes) as file:
        places = file.create_group("comparisons", track_order=True)
        for name, sums in comparisons.items():
            live = active_units(sums)
            rows = ComparisonRows(sums, live)
            for x, y in itertools.combinations(sums.nets, 2):
                rows.add_pair(x, y, analyze_pair(sums, live, x, y, config))
            rows.add_nets(analyze_nets(sums, live, config, {}))
            rows.add_summaries()
            rows.add_matrix("correlation", pooled_correlation(sums, live))
            rows.write(places.create_group(name))
    return read_analysis(path)
