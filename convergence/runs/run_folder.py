"""Run folders: what each stage left, for which settings, and whether it still stands.

Beside its output every piece of work keeps a record: the settings on which it depends, the digests of what it read,
and whether it was finished. Before work starts, :meth:`WorkFolder.begin` compares:

* the same digest and finished: nothing to do;
* the same digest, unfinished: it goes on from its checkpoints;
* another digest: the old output moves to ``superseded/`` (nothing is overwritten), and comes back from there when the
  settings do. ``overwrite=True`` deletes it instead.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from convergence.config.schema import Experiment, Net
from convergence.errors import FileError
from convergence.functional import EXPERIMENTS
from convergence.io.files import CHECKPOINTS, atomic_write
from convergence.provenance import provenance
from convergence.runs.signals import check_claim

RECORD_FORMAT = 1
State = Literal["missing", "unfinished", "damaged", "stale", "done"]


@dataclass(frozen=True)
class StageTask:
    """A piece of work that leaves files: one net's training, or one of the later stages.

    Attributes
    ----------
    name : shown to people, for example "train net1"
    outputs : files or folders below the run folder; the first one tells whether the work was ever begun
    record : path of the JSON record
    values : the settings on which the result depends
    inputs : digests of the works that it reads, by name
    scratch : files or folders of unfinished work, removed when it is finished
    shelf : name of its place among superseded results; made of the name if not given
    """

    name: str
    outputs: tuple[Path, ...]
    record: Path
    values: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    scratch: tuple[Path, ...] = ()
    shelf: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over settings and inputs."""
        text = json.dumps([RECORD_FORMAT, self.values, self.inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TaskStatus:
    """What :meth:`WorkFolder.begin` found: whether there is work to do, and a sentence on why."""

    needed: bool
    reason: str


class WorkFolder:
    """A folder in which works leave their files and records."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def state(self, work: StageTask) -> State:
        """Where a piece of work stands for the present settings; reads its record, computes nothing."""
        record = read_record(work.record)
        if record is None:
            return "missing"
        if record["digest"] != work.digest:
            return "stale"
        if record["finished"] is None:
            return "unfinished"
        return "damaged" if self.damage(work) else "done"

    def damage(self, work: StageTask) -> str:
        """Files of finished work that are missing or of another size than it left them, as one phrase; "" if none."""
        record = read_record(work.record)
        outputs = record["outputs"] if record else {}
        found = {name: _size(self.path / name) for name in outputs}
        return ", ".join(
            f"{name} is missing" if size is None else f"{name} holds {size:,} bytes of {outputs[name]:,}"
            for name, size in found.items()
            if size != outputs[name]
        )

    def begin(self, work: StageTask, overwrite: bool = False) -> TaskStatus:
        """Decide whether work is needed and clear its place; leaves an unfinished record if it is."""
        state = self.state(work)
        if state == "done":
            for scratch in work.scratch:  # left by a kill between the record and the clearing up
                _remove(scratch)
            return TaskStatus(False, "done already, for the same settings")
        reason = {"missing": "", "unfinished": "goes on where it stopped"}.get(state, "")
        record = read_record(work.record)
        if state == "stale" and record is not None:
            reason = describe_changes(record, work)
            self.set_aside(work, record["digest"], overwrite)
            if self._bring_back(work):
                return TaskStatus(False, f"{reason}; found again among superseded results")
        elif state == "damaged" and record is not None:
            reason = f"{self.damage(work)}; done again"
            self.set_aside(work, record["digest"], overwrite)
        self._write(work, finished=None, seconds=None, outputs={})
        return TaskStatus(True, reason)

    def finish(self, work: StageTask, seconds: float) -> None:
        """Record that the work is done, with the size of every file it left, and remove its scratch.

        Raises
        ------
        Stopped
            if a later attempt has taken the work over: it is for that one to finish.
        """
        check_claim()
        outputs = {
            file.relative_to(self.path).as_posix(): file.stat().st_size
            for output in work.outputs
            for file in _files(output)
            if file != work.record and file not in work.scratch
        }
        self._write(work, finished=datetime.now(UTC).isoformat(timespec="seconds"), seconds=seconds, outputs=outputs)
        for scratch in work.scratch:
            _remove(scratch)

    def adopt(self, work: StageTask, digest: str) -> None:
        """Record an output that came without its record: it is that of ``digest``, whatever the settings were."""
        paths = [file for output in work.outputs for file in _files(output)]
        sizes = {file.relative_to(self.path).as_posix(): file.stat().st_size for file in paths}
        made = datetime.fromtimestamp(max(file.stat().st_mtime for file in paths), UTC)
        record = {"work": work.name, "digest": digest, "finished": made.isoformat(timespec="seconds"), "seconds": 0.0,
                  "outputs": sizes, "values": {}, "inputs": {}, "provenance": {}}  # fmt: skip
        with atomic_write(work.record) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def set_aside(self, work: StageTask, digest: str, overwrite: bool = False) -> None:
        """Move what a work left, and its record, to ``superseded/``; ``overwrite`` deletes it instead."""
        for here, there in self._places(work, digest):
            if not overwrite and here.exists():
                there.parent.mkdir(parents=True, exist_ok=True)
                _remove(there)
                os.replace(here, there)
            _remove(here)

    def _write(self, work: StageTask, finished: str | None, seconds: float | None, outputs: dict[str, int]) -> None:
        record = {
            "work": work.name,
            "digest": work.digest,
            "finished": finished,
            "seconds": seconds,
            "outputs": outputs,
            "values": work.values,
            "inputs": work.inputs,
            "provenance": provenance(),
        }
        with atomic_write(work.record) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _places(self, work: StageTask, digest: str) -> list[tuple[Path, Path]]:
        """Each file or folder of the work and its place among superseded results."""
        shelf = self.path / "superseded" / f"{work.shelf or work.name.replace(' ', '-')}-{digest[:12]}"
        paths = [*work.outputs, *work.scratch]
        if not any(work.record.is_relative_to(path) for path in paths):
            paths.append(work.record)
        return [(path, shelf / path.name) for path in paths]

    def _bring_back(self, work: StageTask) -> bool:
        places = self._places(work, work.digest)
        shelved = [there for _, there in places if there.exists()]
        if not shelved:
            return False
        for here, there in places:
            if there.exists():
                os.replace(there, here)
        shutil.rmtree(shelved[0].parent, ignore_errors=True)
        return self.state(work) == "done"


class RunFolder(WorkFolder):
    """The folder of one experiment, readable by its owner only when it is created."""

    def __init__(self, path: str | Path, experiment: Experiment) -> None:
        super().__init__(path)
        self.experiment = experiment

    def create(self) -> None:
        """Make the folder if it is not there, and keep the config in it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise FileError(
                f"{self.path}: the run folder could not be made: {error}. Choose another with --runs."
            ) from error

    def net_folder(self, net: Net) -> Path:
        """Where a net's weights and metrics are."""
        return self.path / "nets" / net.name

    @property
    def statistics_file(self) -> Path:
        """The sums: the file one downloads."""
        return self.path / "statistics.h5"

    @property
    def analysis_file(self) -> Path:
        """The results."""
        return self.path / "analysis.h5"

    @property
    def pictures_file(self) -> Path:
        """Pictures of units; the report can do without."""
        return self.path / "pictures.h5"

    @property
    def functional_folder(self) -> Path:
        """Results of functional experiments, a file each, and the nets that they leave."""
        return self.path / "functional"

    @property
    def report_page(self) -> Path:
        """The page that people open."""
        return self.path / "report" / "index.html"

    def train_work(self, net: Net) -> StageTask:
        """Training (or initialising) one net."""
        folder = self.net_folder(net)
        values: dict[str, Any] = {
            "data": self.experiment.images.digest_values(),
            "network": net.spec.digest_values(),
            "seed": net.seed,
            "trained": net.trained,
        }
        if net.trained:
            values["training"] = self.experiment.training.digest_values()
        scratch = tuple(folder / name for name in CHECKPOINTS)
        return StageTask(f"train {net.name}", (folder,), folder / "record.json", values, scratch=scratch)

    def train_works(self) -> list[StageTask]:
        """Training of all nets; none where there are activations already."""
        if self.experiment.activations is not None:
            return []
        return [self.train_work(net) for net in self.experiment.all_nets()]

    def statistics_work(self) -> StageTask:
        """Both passes over the evaluation images."""
        nets = {net.name: net for net in self.experiment.all_nets()}
        joined = {member.net: nets[member.net] for member in self.experiment.all_members()}
        given = self.experiment.activations
        values: dict[str, Any] = {
            "data": self.experiment.images.digest_values() if given is None else given.digest_values(),
            "nets": [[net.name, net.label, net.trained] for net in joined.values()],
            "statistics": self.experiment.statistics.digest_values(),
        }
        inputs = {}
        if given is None:
            inputs = {name: self.train_work(net).digest for name, net in joined.items()}
        else:
            values["files"] = [list(file) for file in given.files()]
        scratch = (self.path / "statistics.partial",)
        return StageTask("statistics", (self.statistics_file,), self.path / "statistics.json", values, inputs, scratch)

    def analyze_work(self) -> StageTask:
        """Everything computed from the sums."""
        return StageTask(
            "analyze",
            (self.analysis_file,),
            self.path / "analysis.json",
            {"analysis": self.experiment.analysis.digest_values()},
            {"statistics": self.statistics_work().digest},
            (self.path / "analysis.partial",),
        )

    def pictures_work(self) -> StageTask:
        """Pictures of units; inputs are the nets of which there are pictures, and the statistics."""
        values = {"pictures": self.experiment.pictures.digest_values()}
        inputs = {net.name: self.train_work(net).digest for net, _ in self.experiment.pictured()}
        inputs["statistics"] = self.statistics_work().digest
        return StageTask(
            "pictures",
            (self.pictures_file,),
            self.path / "pictures.json",
            values,
            inputs,
            (self.path / "pictures.partial",),
        )

    def has_pictures(self) -> bool:
        """Whether pictures belong to the run: they are enabled, and there are nets and layers to make them of."""
        return self.experiment.pictures.enabled and bool(self.experiment.pictured())

    def functional_work(self, experiment: str) -> StageTask:
        """A functional experiment: reads nets and statistics, but where it trains nets of its own."""
        values: dict[str, Any] = {"functional": self.experiment.functional.values_of(experiment)}
        if experiment == "average":
            values["data"] = self.experiment.images.digest_values()
            values["training"] = self.experiment.training.digest_values()
            values["nets"] = [[net.name, net.spec.digest_values(), net.seed] for net in self.experiment.all_nets()]
            statistics = self.experiment.statistics  # what is scored, in which groups
            values["images"] = [statistics.split, statistics.max_images, statistics.groups, statistics.seed]
            inputs = {}
        else:
            inputs = {net.name: self.train_work(net).digest for net in self.experiment.all_nets()}
            inputs["statistics"] = self.statistics_work().digest
        place = self.functional_folder
        outputs = (place / f"{experiment}.h5", place / experiment)
        record, scratch = place / f"{experiment}.json", (place / f"{experiment}.partial",)
        return StageTask(experiment, outputs, record, values, inputs, scratch)

    def has_experiment(self, experiment: str) -> bool:
        """Whether a functional experiment belongs to the run: it is enabled, and there are nets and images."""
        return self.experiment.activations is None and getattr(self.experiment.functional, experiment).enabled

    def report_work(self) -> StageTask:
        """Figures, tables and the page."""
        values = {"report": self.experiment.report.digest_values(), "name": self.experiment.name}
        inputs = {"analyze": self.analyze_work().digest}
        inputs |= shown_too(self.path)
        if self.experiment.report.compare is not None:
            inputs["the run to compare with"] = _mark(Path(self.experiment.report.compare), "analysis")
        return StageTask("report", (self.path / "report",), self.path / "report.json", values, inputs)

    def held_out_accuracy(self, net: Net) -> float:
        """A net's accuracy on the held-out images, from its metrics; FileError if they are not there."""
        path = self.net_folder(net) / "metrics.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                *_, last = csv.DictReader(file)
            return float(last["test_accuracy"])
        except (OSError, ValueError, KeyError) as error:
            raise FileError(
                f"{path}: the metrics of {net.name} cannot be read ({error!r}). Train the net again."
            ) from error

    def works(self) -> list[StageTask]:
        """All work of the experiment, in order."""
        return [
            *self.train_works(),
            self.statistics_work(),
            self.analyze_work(),
            *([self.pictures_work()] if self.has_pictures() else []),
            *(self.functional_work(name) for name in EXPERIMENTS if self.has_experiment(name)),
            self.report_work(),
        ]


def read_record(path: Path) -> dict[str, Any] | None:
    """A work's record, or None if it was never begun; a damaged record is a FileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record: dict[str, Any] = json.loads(text)
        record["digest"], record["finished"], record["outputs"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise FileError(
            f"{path}: the record of a stage is damaged ({error!r}). Remove it to have the stage done again."
        ) from error
    return record


def describe_changes(record: dict[str, Any], work: StageTask) -> str:
    """Which settings differ between a record and the work that is wanted, as one phrase."""
    if not record["values"]:
        return "of other settings, which are not known"
    old, new = dict(_flat(record["values"])), dict(_flat(work.values))
    changes = [
        f"{key}: {_show(old.get(key))} → {_show(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    inputs = {**record.get("inputs", {}), **work.inputs}
    read = [name for name in inputs if record.get("inputs", {}).get(name) != work.inputs.get(name)]
    if read and not changes:
        changes = [f"{', '.join(read)} changed"]
    return "; ".join(changes[:6]) + ("; …" if len(changes) > 6 else "") or "the format of records changed"


def shown_too(folder: Path) -> dict[str, str]:
    """What a report shows beside the analysis, by name with what tells one file from another: pictures, experiments."""
    places = {"pictures": folder} | dict.fromkeys(EXPERIMENTS, folder / "functional")
    return {name: _mark(place, name) for name, place in places.items() if (place / f"{name}.h5").exists()}


def _mark(folder: Path, name: str) -> str:
    """What tells one file of results from another: the digest in its record, and its size."""
    try:
        record = read_record(folder / f"{name}.json")
    except FileError:
        record = None
    return f"{record['digest'] if record else 'no record'}, {_size(folder / f'{name}.h5')} bytes"


def _show(value: Any) -> str:
    return "(none)" if value is None else json.dumps(value)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
