"""Tasks of the stages: the files that a task leaves, the settings on which they depend, and whether they are valid.

Each task keeps a JSON record beside its output: its settings, the digests of its inputs, and whether it has finished.
:meth:`TaskFolder.begin` compares that record with the present settings:

* same digest, finished: the task is skipped;
* same digest, unfinished: the task resumes from its checkpoints;
* another digest: the old output moves to ``superseded/`` and returns from there when the old settings return.
  ``overwrite=True`` deletes the old output instead.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from convergence.errors import FileError
from convergence.io.files import (
    atomic_write,
    check_inside,
    confined,
    move,
    printable,
    relative_name,
    remove_leftovers_of,
)
from convergence.provenance import provenance
from convergence.runs.signals import check_lease

RECORD_FORMAT = 1
LONGEST_SECONDS = 1e10
DEEPEST = 50
"""Most levels of objects and lists in a record."""
CONTENT = "data.content"
"""Path of the SHA-256 of the data among the values of a task."""
State = Literal["missing", "unfinished", "damaged", "stale", "done"]


@dataclass(frozen=True)
class StageTask:
    """A unit of work that leaves files: the training of one net, or one of the later stages.

    Attributes
    ----------
    name : label in messages, for example "train net1"
    outputs : files or folders below the run folder
    record : path of the JSON record
    values : settings on which the result depends
    inputs : digests of the tasks whose output is read, by name
    scratch : files or folders of an unfinished task, removed when the task finishes
    shelf : name of the folder below ``superseded/``; derived from ``name`` if empty
    explanations : what changed since an earlier content of the data, by that content; what changed in other values,
        by their path
    """

    name: str
    outputs: tuple[Path, ...]
    record: Path
    values: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    scratch: tuple[Path, ...] = ()
    shelf: str = ""
    explanations: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over settings and inputs."""
        text = json.dumps([RECORD_FORMAT, self.values, self.inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TaskStatus:
    """Result of :meth:`TaskFolder.begin`: whether the task has to run, and the reason."""

    needed: bool
    reason: str


class TaskFolder:
    """A folder that holds the output and the records of tasks."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def state(self, task: StageTask) -> State:
        """Return the state of a task for the present settings; reads its record only."""
        record = read_record(task.record)
        if record is None:
            return "missing"
        if record["digest"] != task.digest:
            return "stale"
        if record["finished"] is None:
            return "unfinished"
        return "damaged" if self.damage(task) else "done"

    def damage(self, task: StageTask) -> str:
        """List the files of a finished task that are missing or have changed size, as one phrase; "" if none."""
        record = read_record(task.record)
        outputs = record["outputs"] if record else {}
        found = {name: file_size(self.path / name) for name in outputs}
        return ", ".join(
            f"{name} is missing" if size is None else f"{name} holds {size:,} bytes of {outputs[name]:,}"
            for name, size in found.items()
            if size != outputs[name]
        )

    def begin(self, task: StageTask, overwrite: bool = False) -> TaskStatus:
        """Decide whether a task has to run; if so, move old output away and write an unfinished record.

        Raises
        ------
        FileError
            for a damaged record, and for a symbolic link from a place of the task out of the folder.
        """
        for path in (*task.outputs, *task.scratch, task.record):
            check_inside(self.path, path)
        state = self.state(task)
        for path in (*task.outputs, task.record):
            remove_leftovers_of(path)
        if state == "done":
            for scratch in task.scratch:  # left by a kill between writing the record and removing scratch files
                with suppress(OSError):  # another command removes them too, or the folder is read-only
                    _remove(scratch)
            return TaskStatus(False, "already done with the same settings")
        reason = {"missing": "", "unfinished": "resuming"}.get(state, "")
        record = read_record(task.record)
        if state == "stale" and record is not None:
            reason = describe_changes(record, task)
            self.set_aside(task, record["digest"], overwrite)
            if self._bring_back(task):
                return TaskStatus(False, f"{reason}; restored from superseded results")
        elif state == "damaged" and record is not None:
            reason = f"{self.damage(task)}; running again"
            self.set_aside(task, record["digest"], overwrite)
        self._write(task, finished=None, seconds=None, outputs={})
        return TaskStatus(True, reason)

    def finish(self, task: StageTask, seconds: float) -> None:
        """Record that a task has finished, with the size of every output file, and remove its scratch files.

        Raises
        ------
        Stopped
            if a later attempt holds the lease of the task.
        """
        check_lease()
        outputs = {
            file.relative_to(self.path).as_posix(): file.stat().st_size
            for output in task.outputs
            for file in _files(output)
            if file != task.record and file not in task.scratch
        }
        self._write(task, finished=datetime.now(UTC).isoformat(timespec="seconds"), seconds=seconds, outputs=outputs)
        for scratch in task.scratch:
            _remove(scratch)

    def adopt(self, task: StageTask, digest: str) -> None:
        """Write a record for an output that has none, with ``digest`` and unknown settings."""
        paths = [file for output in task.outputs for file in _files(output)]
        sizes = {file.relative_to(self.path).as_posix(): file.stat().st_size for file in paths}
        made = datetime.fromtimestamp(max(file.stat().st_mtime for file in paths), UTC)
        record = {"task": task.name, "digest": digest, "finished": made.isoformat(timespec="seconds"), "seconds": 0.0,
                  "outputs": sizes, "values": {}, "inputs": {}, "provenance": {}}  # fmt: skip
        with atomic_write(task.record) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def set_aside(self, task: StageTask, digest: str, overwrite: bool = False) -> None:
        """Move the output and the record of a task to ``superseded/``; ``overwrite`` deletes them instead."""
        for here, there in self._places(task, digest):
            if not overwrite and here.exists():
                _remove(there)
                move(here, there)
            _remove(here)

    def _write(self, task: StageTask, finished: str | None, seconds: float | None, outputs: dict[str, int]) -> None:
        record = {
            "task": task.name,
            "digest": task.digest,
            "finished": finished,
            "seconds": seconds,
            "outputs": outputs,
            "values": task.values,
            "inputs": task.inputs,
            "provenance": provenance(),
        }
        with atomic_write(task.record) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _places(self, task: StageTask, digest: str) -> list[tuple[Path, Path]]:
        """Pair each file or folder of a task with its place below ``superseded/``."""
        name = f"{task.shelf or task.name.replace(' ', '-')}-{re.sub('[^0-9A-Za-z]', '_', digest[:12])}"
        shelf = confined(self.path, f"superseded/{name}")
        paths = [*task.outputs, *task.scratch]
        if not any(task.record.is_relative_to(path) for path in paths):
            paths.append(task.record)
        return [(path, shelf / path.name) for path in paths]

    def _bring_back(self, task: StageTask) -> bool:
        places = self._places(task, task.digest)
        shelved = [there for _, there in places if there.exists()]
        if not shelved:
            return False
        for here, there in places:
            if there.exists():
                move(there, here)
        shutil.rmtree(shelved[0].parent, ignore_errors=True)
        return self.state(task) == "done"


def read_record(path: Path) -> dict[str, Any] | None:
    """Read the record of a task; None if there is none.

    Raises
    ------
    FileError
        for a damaged record.
    """
    if path.exists() and not path.is_file():
        raise FileError(f"{path}: the record of a stage is not a regular file. Remove it; the stage then runs again.")
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    try:
        record: dict[str, Any] = json.loads(text)
        _check_record(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FileError) as error:
        raise _damaged(path, error) from error
    return record


def _check_record(record: dict[str, Any]) -> None:
    """Raise an error unless a record has the keys and types of :meth:`TaskFolder.finish`, and names files below it."""
    if not isinstance(record, dict) or _depth(record) > DEEPEST:
        raise ValueError(f"it is no table of at most {DEEPEST} levels")
    digest, finished = record["digest"], record["finished"]
    if not isinstance(digest, str) or not digest.isprintable() or len(digest) > 128:
        raise ValueError("its digest is not a digest")
    if finished is not None and not isinstance(finished, str):
        raise ValueError("its time is not a text")
    for name, size in record["outputs"].items():
        relative_name(name)
        if type(size) is not int or size < 0:
            raise ValueError("a size in it is not a number of bytes")
    for key in ("values", "inputs"):
        if not isinstance(record.setdefault(key, {}), dict):
            raise ValueError(f"its {key} are not a table")
    if not all(isinstance(digest, str) for digest in record["inputs"].values()):
        raise ValueError("its inputs are not digests")
    seconds = record.setdefault("seconds", None)
    if seconds is not None and (type(seconds) not in (int, float) or not 0 <= seconds < LONGEST_SECONDS):
        raise ValueError("its seconds are not a duration")


def _depth(value: Any) -> int:
    """Levels of tables and lists inside each other."""
    depth, level = 0, [value]
    while level:
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [one for item in inner for one in (item.values() if isinstance(item, dict) else item)]
        depth += bool(inner)
    return depth


def _damaged(path: Path, error: Exception) -> FileError:
    reason = str(error) if isinstance(error, FileError | ValueError) else repr(error)
    return FileError(
        f"{path}: the record of a stage is damaged ({printable(reason)}). Remove the record; the stage then runs again."
    )


def describe_changes(record: dict[str, Any], task: StageTask) -> str:
    """Describe the settings that differ between a record and a task, as one phrase."""
    if not record["values"]:
        return "made with other, unknown settings"
    old, new = dict(_flat(record["values"])), dict(_flat(task.values))
    changes = [
        _data_change(old.get(key), task)
        if key == CONTENT
        else task.explanations.get(key) or f"{key}: {_show(old.get(key))} → {_show(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    inputs = {**record.get("inputs", {}), **task.inputs}
    read = [name for name in inputs if record.get("inputs", {}).get(name) != task.inputs.get(name)]
    if read and not changes:
        changes = [f"{', '.join(read)} changed"]
    return "; ".join(changes[:6]) + ("; …" if len(changes) > 6 else "") or "the record format changed"


def _data_change(old: Any, task: StageTask) -> str:
    return f"data: {task.explanations.get(str(old), 'the images or labels differ, or were not checked')}"


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


def file_size(path: Path) -> int | None:
    """Return the size of a file in bytes; None if it is missing."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
