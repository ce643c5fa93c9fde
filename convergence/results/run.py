"""``convergence.open``: a downloaded file or a run folder in a notebook; run folders by name or config."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from convergence.analysis.file import open_analysis
from convergence.analysis.layout import SCHEMA as ANALYSIS
from convergence.analysis.standalone import STATISTICS, analysis_path, analyze_file, report_file, statistics_path
from convergence.config.load import read_config
from convergence.errors import FileError, StaleOutputError, UserError, did_you_mean
from convergence.io import hdf5
from convergence.io.files import LastingScratch
from convergence.registry import load_object
from convergence.results.analysis_file import read_analysis
from convergence.results.finding import StudyFinding
from convergence.results.findings import findings
from convergence.results.labelled import Labelled, ResultsTable, to_dataset
from convergence.results.source import LEVELS
from convergence.results.view import ComparisonView
from convergence.runs.run_folder import RunFolder
from convergence.statistics.file import open_statistics


def open(path: str | Path) -> Run:
    """Open a statistics file, an analysis file or a run folder.

    Beside ``statistics.h5`` its ``analysis.h5`` is found, and the other way round; not one of other statistics.
    Files are open only while something is read, so that a notebook holds no lock.

    Raises
    ------
    UserError
        for a path that is none of these, and for files that are damaged, cut short, of a newer version or another kind.
    """
    place = Path(path)
    if place.is_dir() and not (place / STATISTICS).exists():
        if not (place / "analysis.h5").exists():
            raise FileError(
                f"{place}: this folder holds neither {STATISTICS} nor analysis.h5. Give a run folder or a file."
            )
        place = place / "analysis.h5"
    place = statistics_path(place)
    if hdf5.schema_of(place) != ANALYSIS:
        return Run(place, _matching_analysis(place))
    with open_analysis(place) as file:
        wanted = file.statistics_digest
    beside = place.with_name(STATISTICS if place.name == "analysis.h5" else place.name.replace(".analysis.", ".", 1))
    return Run(beside if beside != place and _digest(beside) == wanted else None, place)


def find_run(run: str, runs: str) -> Path:
    """The run folder that is meant: the folder itself, or that of a config, whose results must be of its settings."""
    path = Path(run)
    if path.is_dir():
        return path
    if not path.is_file():
        known = sorted(p.parent.name for p in Path(runs).glob("*/analysis.h5"))
        raise FileError(
            f"{run}: there is no such run folder or config. "
            + (
                f"Below {runs}/: {did_you_mean(path.name, known)}."
                if known
                else "Give the folder of a run, or a .toml file."
            )
        )
    experiment = read_config(path)
    folder = RunFolder(Path(runs) / experiment.name, experiment)
    for work in (folder.statistics_task(), folder.analyze_task()):
        state = folder.state(work)
        if state != "done":
            raise StaleOutputError(
                f'{folder.path}: "{work.name}" is {state} for this config. Run `convergence run {run}` first, or give '
                "the run folder instead of the config to read what is there."
            )
    return folder.path


class Run:
    """Results of an experiment; ``run["conv1"]`` is one of its comparisons.

    Attributes
    ----------
    statistics, analysis : paths; None where there is no such file
    comparisons : names of the layers that are compared
    nets : a row a net
    n_images, n_groups : evaluation images, and groups of them; 0 without statistics
    provenance : versions of what computed the statistics (or the analysis, where there are no others)
    notes : what was chosen or left out when the results were made in this process
    """

    def __init__(self, statistics: Path | None, analysis: Path | None) -> None:
        self.statistics, self.analysis = statistics, analysis
        self.notes: list[str] = []
        self._folder: LastingScratch | None = None
        self._layers: dict[str, ComparisonView] = {}
        self._analysed: tuple[str, ...] = ()
        self.n_images = self.n_groups = 0
        if analysis is not None:
            found_analysis = read_analysis(analysis)
            self.provenance = found_analysis.provenance
            self._analysed = self.comparisons = found_analysis.comparisons
            trained: dict[str, bool] = {}
            for one in found_analysis.all():
                trained |= dict(zip(one.of_net, one.trained, strict=True))
            self.nets = ResultsTable({"name": np.array(list(trained)), "trained": np.array(list(trained.values()))})
        if statistics is not None:
            with open_statistics(statistics) as found:
                self.provenance = found.provenance
                self.comparisons = tuple(found.comparisons)
                self.n_images, self.n_groups = found.n_images, found.n_groups
                columns = ("name", "seed", "order_seed", "subset_seed", "trained", "held_out_accuracy")
                self.nets = ResultsTable({key: np.array([net[key] for net in found.nets]) for key in columns})

    def __getitem__(self, name: str) -> ComparisonView:
        if name not in self.comparisons:
            raise UserError(f'the run has no comparison "{name}"; {did_you_mean(name, self.comparisons)}.')
        if name not in self._layers:
            self._layers[name] = ComparisonView(self, name)
        return self._layers[name]

    def __iter__(self) -> Iterator[ComparisonView]:
        return (self[name] for name in self.comparisons)

    def __len__(self) -> int:
        return len(self.comparisons)

    def __contains__(self, name: object) -> bool:
        return name in self.comparisons

    def is_analysed(self, comparison: str) -> bool:
        """Whether the analysis holds a comparison."""
        return comparison in self._analysed

    def measures(self) -> ResultsTable:
        """A row a layer, pair of nets, measure and direction, over all layers that are analysed."""
        if not self._analysed:
            raise UserError("there is no analysis. Make it with run.analyze().")
        tables = [(name, self[name].measures()) for name in self._analysed]
        columns: dict[str, Any] = {"layer": np.concatenate([np.repeat(name, len(table)) for name, table in tables])}
        for key in tables[0][1].columns:
            columns[key] = np.concatenate([table[key] for _, table in tables])
        return ResultsTable(columns)

    def findings(self) -> list[StudyFinding]:
        """The questions of the study, each with its answer in sentences and a table of its numbers."""
        layers = [self[name].results for name in self._analysed]
        return findings([layer for layer in layers if layer.whole and layer.pairs])

    def to_pandas(self) -> Any:
        """A pandas DataFrame: a row a layer, pair of nets, measure and direction; UserError without pandas."""
        return self.measures().to_dataframe()

    def to_xarray(self) -> Any:
        """An xarray Dataset over layer, measure, net x and net y; UserError without xarray.

        Its variables are the columns of :meth:`measures`: ``value``, ``low``, ``high``, ``null``, … A measure without a
        direction has the same numbers for (x, y) and (y, x). NaN where there is no number.
        """
        return to_dataset({level: self.labelled(level) for level in LEVELS})

    def labelled(self, column: str = "value") -> Labelled:
        """A column of :meth:`measures` as an array (layer, measure, x, y); NaN where there is no number."""
        table = self.measures()
        nets = list(dict.fromkeys([*table["x"].tolist(), *table["y"].tolist()]))
        axes = {
            "layer": list(dict.fromkeys(table["layer"].tolist())),
            "measure": list(dict.fromkeys(table["measure"].tolist())),
            "x": nets,
            "y": nets,
        }
        directed = set(table["measure"][table["direction"] == "yx"].tolist())
        values = np.full([len(labels) for labels in axes.values()], np.nan)
        for row in ResultsTable({key: table[key] for key in (*axes, "direction", column)}):
            layer, measure, x, y = (labels.index(row[axis]) for axis, labels in axes.items())
            place = (x, y) if row["direction"] == "xy" else (y, x)
            values[(layer, measure, *place)] = row[column]
            if row["measure"] not in directed:
                values[layer, measure, y, x] = row[column]
        labels = {axis: np.array(names) for axis, names in axes.items()}
        return Labelled(values, tuple(axes), labels, column)

    def report(self, folder: str | Path | None = None, title: str | None = None) -> Path:
        """Write the report as pages that open offline, and return the path of the first one.

        Parameters
        ----------
        folder
            Where the pages go; ``report`` beside the statistics if None.
        title
            Of the report; the name of the experiment if None.
        """
        if self.statistics is None:
            raise UserError("a report is made of statistics and their analysis, and this run has only its analysis.")
        if folder is None and self._folder is not None:
            raise UserError("the results are in a temporary folder. Name a folder for the report: report('report').")
        overrides = [] if title is None else [f"report.title={_toml(title)}"]
        return report_file(self.statistics, overrides, self.analysis, folder)

    def keep(self, folder: LastingScratch | None, notes: list[str]) -> None:
        """Hold a temporary folder that is removed with the run, and notes on how the results were made."""
        self._folder, self.notes = folder, notes

    def analyze(self, *comparisons: str, workers: int | None = 1, settings: dict[str, Any] | None = None) -> Run:
        """Analyse the statistics beside which the results go, as `convergence analyze` does; gives the run with them.

        Parameters
        ----------
        comparisons
            Names; none for all.
        workers
            Processes; None for as many as work, cores and memory make sensible. A script that starts several has to be
            guarded by ``if __name__ == "__main__":``, a notebook has not.
        settings
            ``{"rotations": 50, "sparse.alphas": 10}``, over those that the file carries.
        """
        if self.statistics is None:
            raise UserError("an analysis is made of statistics, and this run has only its analysis.")
        overrides = [f"analysis.{key}={_toml(value)}" for key, value in (settings or {}).items()]
        executors = load_object("hpc.dask_executor:executors")(load_object("hpc.dask_executor:Workers")(workers))
        analyze_file(self.statistics, overrides, comparisons, executors=executors)
        again = open(self.statistics)
        again.keep(self._folder, self.notes)
        return again

    def verify(self) -> None:
        """Hold both files against their checksums; FileError for the first dataset that is damaged."""
        for path, opened in ((self.statistics, open_statistics), (self.analysis, open_analysis)):
            if path is not None:
                with opened(path) as file:
                    hdf5.verify(file.raw_file)

    def __repr__(self) -> str:
        return "\n".join([f"<run {self._title()}>", *self._sentences()])

    def _sentences(self) -> list[str]:
        """Notes, and the answer to each question that the results answer."""
        return self.notes + [finding.verdict for finding in self.findings()]

    def _title(self) -> str:
        files = " and ".join(path.name for path in (self.statistics, self.analysis) if path is not None)
        images = f", {self.n_images:,} images" if self.n_images else ""
        return f"{files}: {len(self.nets)} nets{images}, layers {', '.join(self.comparisons)}"

    def _repr_html_(self) -> str:
        sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self._sentences())
        listed = f"<ul>{sentences}</ul>" if sentences else ""
        return f"<p>{html.escape(self._title())}</p>{listed}{self.nets._repr_html_()}"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.comparisons)


def _matching_analysis(statistics: Path) -> Path | None:
    """The analysis beside a statistics file, if it is of these statistics."""
    path = analysis_path(statistics)
    with open_statistics(statistics) as file:
        digest = file.digest
    if not path.exists():
        return None
    with open_analysis(path) as found:
        return path if found.statistics_digest == digest else None


def _digest(path: Path) -> str | None:
    if not path.exists():
        return None
    with open_statistics(path) as file:
        return file.digest


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'
