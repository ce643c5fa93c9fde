"""The pipeline from arrays to results, in this process: given activations, the passes, the analysis, the results.

Everything is the code of the stages. What is left out are the files between them: sums are taken from the partial
results of the passes, and the analysis of a pair does not leave part files.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.truth.populations import Population
from convergence.analysis.active_units import active_units, pooled_correlation
from convergence.analysis.assembly import ComparisonRows
from convergence.analysis.layout import SCHEMA, VERSION
from convergence.analysis.nets import NetsAnalysis
from convergence.analysis.pair import PairAnalysis
from convergence.analysis.steps import computed
from convergence.config.load import validated
from convergence.config.schema import Experiment
from convergence.io import hdf5
from convergence.results import AnalysisResults, read_analysis
from convergence.statistics.activation_source import open_source
from convergence.statistics.assembly import Assembly
from convergence.statistics.file import ComparisonSums, Matrix
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import StatisticsPasses

MAP_MEASURE = "shape_distance"
MEMORY = "/dev/shm"
"""A file system in memory, where there is one."""
STATISTICS: dict[str, Any] = {
    "groups": 8, "threads": 1, "top_images": 0, "subset": 0, "image_gram": False, "loader_workers": 0,
    "mutual_information": {"enabled": False},
}  # fmt: skip
MATRICES = (
    "group_products", "group_shifted_products", "class_sums", "image_gram", "mutual_information",
    "mutual_information_without",
)  # fmt: skip
"""Matrices of the sums that are read in blocks."""
ANALYSIS: dict[str, Any] = {
    "measures": ["matching", "absolute_matching", "linear_cka", "r_squared"],
    "sparse": {"enabled": False}, "clustering": {"enabled": False},
}  # fmt: skip


@contextmanager
def results_of(
    layers: Mapping[str, Population],
    statistics: Mapping[str, Any] | None = None,
    analysis: Mapping[str, Any] | None = None,
    light: bool = False,
) -> Iterator[AnalysisResults]:
    """Results of populations, a comparison each, of nets with the same names on the same images.

    ``light``: without histograms, as in a file with some of the groups, and so without distances of distributions.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        folder = Path(name)
        experiment = described(layers, folder, STATISTICS | dict(statistics or {}), ANALYSIS | dict(analysis or {}))
        assembly = summed(experiment, folder)
        with hdf5.create(
            folder / "analysis.h5", SCHEMA, VERSION, {"digest": "", "statistics_digest": "", "provenance": "{}"}
        ) as out:
            places = out.create_group("comparisons", track_order=True)
            for layer in layers:
                sums = in_memory(assembly.sums(layer))
                rows = analysed(replace(sums, histograms=None) if light else sums, experiment)
                rows.write(places.create_group(layer))
        yield read_analysis(folder / "analysis.h5")


def described(
    layers: Mapping[str, Population], folder: Path, statistics: Mapping[str, Any], analysis: Mapping[str, Any]
) -> Experiment:
    """Write the arrays of populations to a folder, and describe them as a config does."""
    nets: dict[str, dict[str, str]] = {}
    pre: dict[str, dict[str, str]] = {}
    first = next(iter(layers.values()))
    for layer, population in layers.items():
        for net, values in population.activations.items():
            nets.setdefault(net, {})[layer] = f"{net}_{layer}.npy"
            np.save(folder / f"{net}_{layer}.npy", values.astype(np.float32))
            if population.nonlinearity != "none":
                pre.setdefault(net, {})[layer] = f"{net}_{layer}_pre.npy"
                np.save(folder / f"{net}_{layer}_pre.npy", population.pre[net].astype(np.float32))
    given: dict[str, Any] = {"root": str(folder), "nets": nets, "untrained": list(first.untrained)}
    given |= {"pre": pre, "nonlinearity": {layer: population.nonlinearity for layer, population in layers.items()}}
    for name in ("labels", "families"):
        if getattr(first, name) is not None:
            given[name] = f"{name}.npy"
            np.save(folder / f"{name}.npy", getattr(first, name))
    values = {
        "name": "truth",
        "activations": given,
        "statistics": {"comparisons": list(layers)} | dict(statistics),
        "analysis": dict(analysis),
    }
    return validated(Experiment, values, "simulated population")


def summed(experiment: Experiment, folder: Path) -> Assembly:
    """Sums of all groups, by the passes."""
    partial = PartialResults(folder / "partial", "")
    partial.prepare()
    source = open_source(experiment, {})
    passes = StatisticsPasses(source, experiment.statistics, partial)
    for one in passes:
        for item in one.items:
            partial.write(one.name(item), functools.partial(one.compute, item))
    return passes.assembly


def in_memory(sums: ComparisonSums) -> ComparisonSums:
    """The sums with all matrices read."""
    null = sums.null
    if null is not None:
        null = replace(null, **{name: _whole(getattr(null, name)) for name in ("products", "own")})
    return replace(sums, null=null, **{name: _whole(getattr(sums, name)) for name in MATRICES})


def _whole(matrix: Matrix | None) -> npt.NDArray[Any] | None:
    if matrix is None:
        return None
    out = np.empty(matrix.shape)
    for index in hdf5.blocks(matrix.shape):
        out[index] = matrix[index]
    return out


def analysed(sums: ComparisonSums, experiment: Experiment) -> ComparisonRows:
    """All results of a comparison."""
    config, live = experiment.analysis, active_units(sums)
    rows = ComparisonRows(sums, live)
    distances = {}
    for x, y in itertools.combinations(sums.nets, 2):
        tree = computed(PairAnalysis(sums, live, x, y, config))
        if MAP_MEASURE in tree.get("measures", {}):
            distances[x, y] = float(tree["measures"][MAP_MEASURE]["xy"]["value"])
        rows.add_pair(x, y, tree)
    rows.add_nets(computed(NetsAnalysis(sums, live, config, distances)))
    rows.add_summaries()
    rows.add_matrix("correlation", pooled_correlation(sums, live))
    return rows
