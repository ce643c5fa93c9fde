"""The folder of one experiment: where each stage leaves its files, and the settings on which each depends."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from convergence.config.functional import EXPERIMENT_NAMES
from convergence.config.schema import Experiment, Net
from convergence.errors import ConfigError, FileError
from convergence.io.files import CHECKPOINTS, create_for_owner, printable
from convergence.io.seal import check_regular
from convergence.provenance import (
    ANALYSIS_SCHEMA_VERSION,
    FUNCTIONAL_SCHEMA_VERSION,
    PICTURES_SCHEMA_VERSION,
    STATISTICS_SCHEMA_VERSION,
)
from convergence.runs.data_record import DataRecord
from convergence.runs.tasks import StageTask, TaskFolder, file_size, read_record
from convergence.runs.weights_record import WeightsRecord
from convergence.settings import PathSetting


class RunFolder(TaskFolder):
    """The folder of one experiment; created readable by its owner only."""

    def __init__(self, path: str | Path, experiment: Experiment) -> None:
        super().__init__(path)
        self.experiment = experiment
        self.data = DataRecord(self.path, experiment)
        self.weights = WeightsRecord(self.path, experiment)

    def create(self) -> None:
        """Make the folder unless it exists.

        Raises
        ------
        FileError
            if the folder cannot be made.
        """
        try:
            create_for_owner(self.path)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise FileError(
                f"{self.path}: the run folder could not be made: {error}. Choose another one with --runs."
            ) from error

    def net_folder(self, net: Net) -> Path:
        """Folder of the weights and metrics of a net."""
        return self.path / "nets" / net.name

    @property
    def statistics_file(self) -> Path:
        """The sums over the images; the one file that an analysis needs."""
        return self.path / "statistics.h5"

    @property
    def analysis_file(self) -> Path:
        """The results of the analysis."""
        return self.path / "analysis.h5"

    @property
    def pictures_file(self) -> Path:
        """Pictures of units; optional for the report."""
        return self.path / "pictures.h5"

    @property
    def functional_folder(self) -> Path:
        """Results of the functional experiments, one file each, and the nets that they save."""
        return self.path / "functional"

    @property
    def report_page(self) -> Path:
        """First page of the report."""
        return self.path / "report" / "index.html"

    def train_task(self, net: Net) -> StageTask:
        """Task: train one net, initialise it, or import its weights."""
        folder = self.net_folder(net)
        values: dict[str, Any] = {
            "data": self._data_values(),
            "network": net.spec.digest_values(),
            "seed": net.seed,
            "trained": net.trained,
        }
        explanations = self.data.changes
        if net.weights is not None:
            values["weights"] = net.weights.digest_values() | {"sha256": self.weights.content(net)}
            explanations = explanations | self.weights.explanations(net)
        if net.trained_here:
            values["training"] = self.experiment.training.values_of(net.order_seed, net.subset_seed)
        scratch = tuple(folder / name for name in CHECKPOINTS)
        record = folder / "record.json"
        return StageTask(f"train {net.name}", (folder,), record, values, scratch=scratch, explanations=explanations)

    def train_tasks(self) -> list[StageTask]:
        """Tasks: train all nets; none if the config gives activations."""
        if self.experiment.activations is not None:
            return []
        return [self.train_task(net) for net in self.experiment.all_nets()]

    def statistics_task(self) -> StageTask:
        """Task: both passes over the evaluation images."""
        nets = {net.name: net for net in self.experiment.all_nets()}
        joined = {ref.net: nets[ref.net] for ref in self.experiment.all_layer_refs()}
        values: dict[str, Any] = {
            "statistics_schema": STATISTICS_SCHEMA_VERSION,
            "data": self._data_values(),
            "nets": [
                [net.name, net.label, net.trained, *filter(None, [net.shared_initialisation])]
                for net in joined.values()
            ],
            "statistics": self.experiment.statistics.digest_values(),
        }
        values |= self._families_values()
        values |= self.experiment.layer_values(ref.layer for ref in self.experiment.all_layer_refs())
        inputs = {}
        if self.experiment.activations is None:
            inputs = {name: self.train_task(net).digest for name, net in joined.items()}
        scratch = (self.path / "statistics.partial",)
        return StageTask(
            "statistics", (self.statistics_file,), self.path / "statistics.json", values, inputs, scratch,
            explanations=self.data.changes,
        )  # fmt: skip

    def analyze_task(self) -> StageTask:
        """Task: the analysis of the sums."""
        return StageTask(
            "analyze",
            (self.analysis_file,),
            self.path / "analysis.json",
            {"analysis": self.experiment.analysis.digest_values(), "analysis_schema": ANALYSIS_SCHEMA_VERSION},
            {"statistics": self.statistics_task().digest},
            (self.path / "analysis.partial",),
        )

    def pictures_task(self) -> StageTask:
        """Task: pictures of units; reads the pictured nets and the statistics."""
        values = {
            "pictures": self.experiment.pictures.digest_values(),
            "pictures_schema": PICTURES_SCHEMA_VERSION,
        }
        values |= self.experiment.layer_values(layer for _, layers in self.experiment.pictured() for layer in layers)
        inputs = {net.name: self.train_task(net).digest for net, _ in self.experiment.pictured()}
        inputs["statistics"] = self.statistics_task().digest
        return StageTask(
            "pictures",
            (self.pictures_file,),
            self.path / "pictures.json",
            values,
            inputs,
            (self.path / "pictures.partial",),
        )

    def has_pictures(self) -> bool:
        """Whether the run includes pictures: enabled, with nets and layers to picture, of images as far as is known."""
        shape = self.experiment.data.known_shape() if self.experiment.data is not None else None
        has_images = shape is None or len(shape) == 3
        return self.experiment.pictures.enabled and has_images and bool(self.experiment.pictured())

    def functional_task(self, experiment: str) -> StageTask:
        """Task: a functional experiment; reads nets and statistics, or trains its own nets (``average``)."""
        values: dict[str, Any] = {
            "functional": self.experiment.functional.values_of(experiment),
            "functional_schema": FUNCTIONAL_SCHEMA_VERSION,
        }
        if experiment == "average":
            values["data"] = self._data_values()
            values["training"] = self.experiment.training.values_of(None, None)
            values["nets"] = [
                [net.name, net.spec.digest_values(), net.seed, net.order_seed, net.subset_seed]
                for net in self.experiment.all_nets()
            ]
            statistics = self.experiment.statistics  # scored images and their groups
            values["images"] = [statistics.split, statistics.max_images, statistics.groups, statistics.seed]
            values |= self._families_values()
            inputs = {}
        else:
            inputs = {net.name: self.train_task(net).digest for net in self.experiment.all_nets()}
            inputs["statistics"] = self.statistics_task().digest
        place = self.functional_folder
        outputs = (place / f"{experiment}.h5", place / experiment)
        record, scratch = place / f"{experiment}.json", (place / f"{experiment}.partial",)
        return StageTask(experiment, outputs, record, values, inputs, scratch, explanations=self.data.changes)

    def has_experiment(self, experiment: str) -> bool:
        """Whether the run includes a functional experiment: enabled, with nets and images."""
        return self.experiment.activations is None and getattr(self.experiment.functional, experiment).enabled

    def report_task(self) -> StageTask:
        """Task: figures, tables and pages of the report."""
        values = {"report": self.experiment.report.digest_values(), "name": self.experiment.name}
        inputs = {"analyze": self.analyze_task().digest}
        inputs |= shown_files(self.path)
        if self.experiment.report.compare is not None:
            inputs["the run to compare with"] = _compared_identity(self.experiment.report.compare)
        return StageTask("report", (self.path / "report",), self.path / "report.json", values, inputs)

    def _data_values(self) -> dict[str, Any]:
        """What the images or activations are: their settings without places, and their recorded content."""
        return self.data.source.digest_values() | {"content": self.data.content}

    def _families_values(self) -> dict[str, Any]:
        """The families of the images, on which statistics depend and training does not."""
        setting = getattr(self.experiment.data, "families", None)
        return {"families": [setting, self.data.families]} if setting else {}

    def held_out_accuracy(self, net: Net) -> float:
        """Read the held-out accuracy of a net from its metrics; NaN for an untrained net and images without labels.

        Raises
        ------
        FileError
            if the metrics are missing or damaged.
        """
        path = self.net_folder(net) / "metrics.csv"
        try:
            check_regular(path)
            with path.open(encoding="utf-8", newline="") as file:
                *_, last = csv.DictReader(file)
            if last["test_accuracy"] == "":
                return math.nan
            accuracy = float(last["test_accuracy"])
            if not 0 <= accuracy <= 1:
                raise ValueError(f"the accuracy {accuracy} is not between 0 and 1")
            return accuracy
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise FileError(
                f"{path}: the metrics of {net.name} cannot be read ({printable(repr(error))}). Train the net again."
            ) from error

    def tasks(self) -> list[StageTask]:
        """All tasks of the experiment, in order."""
        return [
            *self.train_tasks(),
            self.statistics_task(),
            self.analyze_task(),
            *([self.pictures_task()] if self.has_pictures() else []),
            *(self.functional_task(name) for name in EXPERIMENT_NAMES if self.has_experiment(name)),
            self.report_task(),
        ]


def shown_files(folder: Path) -> dict[str, str]:
    """Identify the files that a report shows besides the analysis (pictures, experiments), by name."""
    places = {"pictures": folder} | dict.fromkeys(EXPERIMENT_NAMES, folder / "functional")
    return {name: _identity(place, name) for name, place in places.items() if (place / f"{name}.h5").exists()}


def _compared_identity(compare: PathSetting) -> str:
    """Identify the analysis of the run to compare with; the path as it is written where it is not known."""
    try:
        return _identity(compare.expanded(), "analysis")
    except ConfigError:
        return str(compare)


def _identity(folder: Path, name: str) -> str:
    """Identify a results file: the digest in its record, and its size."""
    try:
        record = read_record(folder / f"{name}.json")
    except FileError:
        record = None
    return f"{record['digest'] if record else 'no record'}, {file_size(folder / f'{name}.h5')} bytes"
