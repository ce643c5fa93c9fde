"""Results of an analysis, typed and labelled: the one way in for the report, figures, paper tables and notebooks.

analysis_file.py  an analysis file and its comparisons
comparison.py  one comparison: members, units, all nets together, means over pairs
populations.py means over pairs of nets and their differences, with intervals over nets
pair.py        two members: matchings, sparse predictions, clusters, measures
groups.py      types of groups of units: clusters and their subspaces, dimensions that nets share
best_layers.py  the layer of another net that has a unit's best partner
growth.py      a number against width or training time
source.py      tables of ``analysis.h5``, each read and verified once
causes.py      pairs of trained nets by what their trainings share
finding.py     a question with its answer and a table
findings.py    the study's questions, each with an answer and its numbers
causes_finding.py  the question about causes of similarity
run.py, view.py  ``convergence.open``: a file or run folder in a notebook, and one comparison of it
unit_tables.py what a notebook shows of two nets
labelled.py    arrays with named axes and tables with named columns
"""

from convergence.analysis.layout import ALL_IMAGES, DIRECTIONS, HELD_OUT, WITHIN_CLASS, WITHIN_CLASS_HELD_OUT
from convergence.results.analysis_file import AnalysisResults, read_analysis
from convergence.results.best_layers import BestLayers, MeanBestLayers, mean_best_layers
from convergence.results.causes import CauseMean
from convergence.results.comparison import (
    ComparisonResults,
    ConsensusResults,
    LayerOverTime,
    NetMap,
    Trajectory,
    UnitSummary,
    kinds_of,
)
from convergence.results.growth import Growth, growths_across, growths_within
from convergence.results.pair import CODES, KINDS, TRAINED_OR_NOT, Kind, PairResults, SparsePrediction
from convergence.results.populations import Difference, Summary, difference_of, interval, title_of

__all__ = [
    "ALL_IMAGES", "CODES", "DIRECTIONS", "HELD_OUT", "KINDS", "TRAINED_OR_NOT", "WITHIN_CLASS",
    "WITHIN_CLASS_HELD_OUT", "AnalysisResults", "BestLayers", "CauseMean", "ComparisonResults", "ConsensusResults",
    "Difference", "Growth", "Kind", "LayerOverTime", "MeanBestLayers", "NetMap", "PairResults", "SparsePrediction",
    "Summary", "Trajectory", "UnitSummary", "difference_of", "growths_across", "growths_within", "interval", "kinds_of",
    "mean_best_layers", "read_analysis", "title_of",
]  # fmt: skip
