"""What the data of a run are: ``data/manifest.json`` in the run folder, and ``data/files.json`` with every file.

Stages that read images call :func:`check_data` first. It lists the files, reads those whose size or time has changed
since they were recorded, and records what they are. Other commands use the record and need no images.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convergence.config.schema import Experiment
from convergence.data.files import MissingDataError, Part, counted, describe_problems, listed, name_text, unusable
from convergence.data.images import DataSource
from convergence.data.manifest import (
    FAMILIES,
    FORMAT,
    FileData,
    KnownFiles,
    Manifest,
    describe_changed_times,
    describe_differences,
    from_json,
    make_manifest,
    pillow_version,
    to_json,
)
from convergence.errors import ConfigError, FileError, SharedError, UserError
from convergence.io.files import atomic_write, create_for_owner
from convergence.progress import readable_bytes
from convergence.runs.signals import Stopped, is_stopping

if TYPE_CHECKING:
    from convergence.runs.run_folder import RunFolder
    from convergence.runs.tasks import StageTask

logger = logging.getLogger(__name__)
UNCHECKED = "not checked"
"""Content of data that were never read by a stage of the run."""
MAX_CHANGES = 20
RECHECK_S = 60.0
"""The stages of one command list the files again after this time."""


@dataclass(frozen=True)
class DataStatus:
    """State of the data of a run, without reading them, and a sentence about it."""

    state: Literal["unchanged", "changed", "missing", "not checked"]
    about: str


class DataRecord:
    """The record of a run's data.

    Attributes
    ----------
    source : the settings of the images or activations
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.path, self._files = folder / "data" / "manifest.json", folder / "data" / "files.json"
        self._unfinished = folder / "data" / "unfinished.json"
        self._statistics = folder / "statistics.json"
        self.source: FileData = experiment.images if experiment.activations is None else experiment.activations
        self._summary: dict[str, Any] | None = None
        self._checked = -float("inf")
        self._doubted = False

    @property
    def content(self) -> str:
        """SHA-256 (hex) of the recorded data, or :data:`UNCHECKED`."""
        if self._doubted:
            return UNCHECKED
        summary = self._read()
        return str(summary["content"]) if summary else self._of_statistics()

    @property
    def families(self) -> str:
        """SHA-256 (hex) of the recorded file of families; "" if there is none."""
        summary = self._read()
        return str(summary["parts"].get(FAMILIES, {}).get("sha256", "")) if summary else ""

    @property
    def changes(self) -> dict[str, str]:
        """What changed in the data, by their content before the change."""
        summary = self._read()
        return {change["from"]: change["what"] for change in summary["changes"]} if summary else {}

    def check(self) -> None:
        """Compare the files with their record, read changed files, and record what the data are now.

        Raises
        ------
        MissingDataError
            if there are no data at their place.
        FileError
            for files that cannot be used, unless ``data.unreadable`` is "skip".
        Stopped
            after a signal; what was read is kept.
        """
        if time.monotonic() - self._checked < RECHECK_S:
            return
        parts = self._list_parts()
        if parts is None:
            self._record(None, self._loaded_content(), "")
            self._checked = time.monotonic()
            return
        old, known = self._manifest(), KnownFiles()
        if old is not None:
            known.add(*old)
        with contextlib.suppress(OSError, ValueError):
            known.add(*from_json(json.loads(self._unfinished.read_text(encoding="utf-8"))))
        try:
            new = make_manifest(self.source, parts, known, _raise_if_stopping)
        except BaseException:
            self._write(self._unfinished, to_json(known.manifest(), pillow_version()))
            raise
        problems = new.all_problems()
        root = name_text(str(getattr(self.source, "root", "data")))
        if problems and not self.source.skips_unreadable:
            self._write(self._unfinished, to_json(new, pillow_version()))
            raise unusable(root, problems)
        for part in new.parts.values():
            if not part.files:
                raise FileError(f"{root}: all images of {part.title} are unusable: {describe_problems(problems)}.")
        changed = describe_differences(old[0], new) if old is not None else ""
        self.source.read_from(new)
        if old is None or old[0] != new or self._read() is None:
            self._write(self._files, to_json(new, pillow_version()))
            self._unfinished.unlink(missing_ok=True)
            self._record(new, new.content, changed)
            _log(new, problems, changed)
        self._checked = time.monotonic()

    def attach(self) -> None:
        """Have this process read the recorded files, after :meth:`check` in another process."""
        self._summary = None
        found = self._manifest()
        if found is not None:
            self.source.read_from(found[0])

    def status(self) -> DataStatus:
        """Compare names, sizes and times of the files with the record; reads no file."""
        summary = self._read()
        if summary is None:
            return DataStatus(
                "not checked", f"not checked: {self.path} is written by the first stage that reads the data"
            )
        since = f"recorded {summary['recorded']}"
        try:
            parts = self._list_parts()
        except MissingDataError:
            return DataStatus("missing", f"not found here; the record is used ({since})")
        if parts is None:
            return DataStatus("unchanged", f"{since}; not read from files, so changes are seen by the next stage only")
        found = self._manifest()
        if found is None:
            return DataStatus(
                "changed", f"{self._files.name} is missing or damaged; the next stage reads the data again"
            )
        changed = describe_changed_times(found[0], parts)
        if changed:
            return DataStatus("changed", f"{changed}; the next stage that reads the data compares their content")
        return DataStatus("unchanged", f"{_counts(summary)}, unchanged by size and time since they were {since}")

    def doubt_changes(self) -> None:
        """Treat data that may have changed as unknown, so that all stages that read them count as unfinished."""
        try:
            self._doubted = self.status().state == "changed"
        except FileError:  # a stage reports it
            self._doubted = True

    def _list_parts(self) -> dict[str, Part] | None:
        try:
            return self.source.list_parts()
        except ConfigError as error:  # a path with a variable that is not set on this machine
            raise MissingDataError(str(error)) from error

    def _read(self) -> dict[str, Any] | None:
        """The content of ``manifest.json``; None if there is none."""
        if self._summary is None:
            try:
                content = self.path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
            try:
                summary = json.loads(content.decode("utf-8"))
                if summary["format"] != FORMAT:
                    raise ValueError(f"format {summary['format']}")
                str(summary["content"]), str(summary["recorded"]), _counts(summary)
                {change["from"]: change["what"] for change in summary["changes"]}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise FileError(
                    f"{self.path}: the record of the data is damaged ({error!r}). Remove it; the next stage that reads "
                    "the data makes it again."
                ) from error
            self._summary = summary
        return self._summary

    def _of_statistics(self) -> str:
        """The content that the statistics were made of, for a run without ``manifest.json``."""
        try:
            found = json.loads(self._statistics.read_text(encoding="utf-8"))["values"]["data"]["content"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return UNCHECKED
        return str(found)

    def _manifest(self) -> tuple[Manifest, str] | None:
        """The recorded files and the version of Pillow; None if they do not belong to the record."""
        summary = self._read()
        try:
            found = from_json(json.loads(self._files.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
        return found if summary is not None and found[0].content == summary["content"] else None

    def _loaded_content(self) -> str:
        """Content of data that are not read from files: the hashes of both splits."""
        assert isinstance(self.source, DataSource)
        splits = self.source.load()
        return hashlib.sha256("\n".join(split.manifest_hash() for split in splits).encode()).hexdigest()

    def _record(self, manifest: Manifest | None, content: str, changed: str) -> None:
        """Write ``manifest.json`` unless it says the same."""
        old = self._read()
        changes = old["changes"] if old else []
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if old is not None and old["content"] != content:
            what = changed or "the images or labels differ"
            changes = [*changes, {"from": old["content"], "to": content, "what": what, "when": now}][-MAX_CHANGES:]
        elif old is not None and manifest is None:
            return
        self._write(
            self.path,
            {
                "format": FORMAT,
                "content": content,
                "recorded": now,
                "root": str(getattr(self.source, "root", "")),
                "parts": {} if manifest is None else {name: _summarise(p) for name, p in manifest.parts.items()},
                "n_in_both": 0 if manifest is None else len(manifest.in_both()),
                "changes": changes,
            },
        )
        self._summary = None

    def _write(self, path: Path, values: dict[str, Any]) -> None:
        create_for_owner(self.path.parent)
        with atomic_write(path, shared=True) as temporary:  # tasks of an array job record the same data at a time
            temporary.write_text(json.dumps(values, indent=1 if path == self.path else None), encoding="utf-8")


def check_data(folder: RunFolder, tasks_of: Callable[[RunFolder], list[StageTask]], comm: Any) -> None:
    """Check the data and the given weights of a stage on the first rank; the other ranks then read what it recorded.

    Data that are missing are an error only if one of the stage's tasks, which ``tasks_of`` lists, has to run.
    """
    failed: Exception | None = None
    if comm.rank == 0:
        try:
            folder.data.check()
        except MissingDataError as error:
            tasks = tasks_of(folder)
            if tasks and all(folder.state(task) == "done" for task in tasks):
                logger.info("data: not found here; the record of the run is used")
            else:
                failed = error
        except (UserError, Stopped) as error:
            failed = error
        try:
            folder.weights.check(lambda net: folder.state(folder.train_task(net)) == "done")
        except UserError as error:
            failed = failed or error
    if comm.share(isinstance(failed, Stopped)):
        raise Stopped("stopped by a signal")
    if comm.share(failed is not None):
        raise failed if comm.size == 1 and failed is not None else SharedError(str(failed)) from failed
    if comm.rank > 0:
        folder.data.attach()
        folder.weights.attach()


def _raise_if_stopping() -> None:
    if is_stopping():
        raise Stopped("stopped by a signal")


def _summarise(part: Any) -> dict[str, Any]:
    return {
        "title": part.title,
        "n_files": len(part.files),
        "n_classes": len(part.class_names),
        "bytes": sum(file.size for file in part.files),
        "sha256": part.sha256,
        "n_hidden": part.n_hidden,
        "left_out": [[file.name, file.kind] for file in part.unusable] + [[p.name, p.kind] for p in part.problems],
    }


def _counts(summary: dict[str, Any]) -> str:
    parts = summary["parts"].values()
    return ", ".join(f"{counted(part['n_files'], 'file')} of {part['title']}" for part in parts)


def _log(manifest: Manifest, problems: list[Any], changed: str) -> None:
    """Report what a check has found."""
    for part in manifest.parts.values():
        classes = f" in {counted(len(part.class_names), 'class')}" if part.class_names else ""
        size = readable_bytes(sum(file.size for file in part.files))
        hidden = f"; {counted(part.n_hidden, 'hidden name')} ignored" if part.n_hidden else ""
        logger.info("data: %s: %s%s, %s%s", part.title, counted(len(part.files), "file"), classes, size, hidden)
    if changed:
        logger.warning("data: %s", changed)
    if problems:
        logger.warning("data: %s left out: %s", counted(len(problems), "item"), describe_problems(problems))
    both = manifest.in_both()
    if both:
        test = manifest.parts["test"].title
        logger.warning(
            "data: %d of %d images of %s are also training images (equal files): %s",
            len(both), len(manifest.parts["test"].files), test, listed(both),
        )  # fmt: skip
