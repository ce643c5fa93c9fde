"""What the weights of trained nets are: ``data/weights.json`` in the run folder, by the content of their files.

Stages that read nets call :meth:`WeightsRecord.check` first. It reads the files whose size or time has changed since
they were recorded. Digests use the content: a file that was moved changes nothing, one that was replaced is noticed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from convergence.config.schema import Experiment, Net
from convergence.data.files import hash_file, name_text
from convergence.errors import ConfigError, FileError
from convergence.io.files import atomic_write, create_for_owner, printable
from convergence.networks.weight_files import MissingWeightsError, combined_sha256, weight_files
from convergence.networks.zoo import check_named_hash
from convergence.runs.data_record import RECHECK_S, UNCHECKED
from convergence.settings import expand_path

logger = logging.getLogger(__name__)
FORMAT = 1
CONTENT = "weights.sha256"
"""Path of the SHA-256 of the weights among the values of a task."""


class RecordedFile(NamedTuple):
    """A file of weights that was read: name, size, time and SHA-256."""

    name: str
    size: int
    mtime_ns: int
    sha256: str


class RecordedWeights(NamedTuple):
    """The weights of a net: where they were found, their files, one SHA-256 of all of them, and when it was taken."""

    source: str
    files: tuple[RecordedFile, ...]
    sha256: str
    recorded: str


class WeightsRecord:
    """The record of the weights of a run's nets that are trained already."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.path = folder / "data" / "weights.json"
        given = experiment.activations is None
        self.nets = [net for net in experiment.all_nets() if net.weights is not None] if given else []
        self._folder = folder
        self._known: dict[str, RecordedWeights] | None = None
        self._doubted: set[str] = set()
        self._checked = -float("inf")

    def content(self, net: Net) -> str:
        """SHA-256 (hex) of the recorded weights of a net, or ``UNCHECKED``."""
        found = self._read().get(net.name)
        if net.name in self._doubted:
            return UNCHECKED
        return found.sha256 if found is not None else self._of_import(net)

    @property
    def contents(self) -> str:
        """The contents of all nets as one text; "" without such nets."""
        return " ".join(self.content(net) for net in self.nets)

    def explanations(self, net: Net) -> dict[str, str]:
        """What changed in the weights of a net, by any content before the change."""
        found = self._read().get(net.name)
        if found is None:
            return {}
        return {CONTENT: f"weights: {found.source} holds other weights (SHA-256 {found.sha256[:12]}…) than before"}

    def check(self, is_done: Callable[[Net], bool] = lambda net: False) -> None:
        """Find the files of all nets, read changed ones, and record what they are.

        ``is_done`` says whether a net has been imported with the recorded weights: its files may then be missing.

        Raises
        ------
        MissingWeightsError
            for files that are not on this machine.
        FileError
            for files that cannot be used.
        ConfigError
            for two nets of equal weights.
        """
        if not self.nets or time.monotonic() - self._checked < RECHECK_S:
            return
        old, new = self._read(), {}
        for net in self.nets:
            try:
                new[net.name] = self._recorded(net, old.get(net.name))
            except MissingWeightsError as error:
                if not is_done(net):
                    raise MissingWeightsError(f"{net.name}: {error}") from error
                logger.info("weights: the files of %s are not here; its weights in the run folder are used", net.name)
                if net.name in old:
                    new[net.name] = old[net.name]
            except FileError as error:
                raise FileError(f"{net.name}: {error}") from error
        self._refuse_equal(new)
        if new != old:
            for name, found in new.items():
                if name in old and old[name].sha256 != found.sha256:
                    logger.warning(
                        "weights: %s: %s holds other weights than those recorded %s", name, found.source,
                        old[name].recorded,
                    )  # fmt: skip
            self._write(new)
        self._doubted.clear()
        self._checked = time.monotonic()

    def attach(self) -> None:
        """Use what another process has recorded."""
        self._known = None

    def doubt_changes(self) -> None:
        """Treat weights whose files have another size or time as unknown, so that their nets count as unfinished."""
        known = self._read()
        for net in self.nets:
            found = known.get(net.name)
            try:
                stats = [path.stat() for path in source_files(net)] if found is not None else []
            except (FileError, ConfigError):
                continue  # missing here, or a stage reports it
            if found is not None and [(s.st_size, s.st_mtime_ns) for s in stats] != [f[1:3] for f in found.files]:
                self._doubted.add(net.name)

    def _recorded(self, net: Net, known: RecordedWeights | None) -> RecordedWeights:
        """The weights of a net; reads the files whose name, size or time has changed."""
        assert net.weights is not None
        unchanged = {file[:3]: file.sha256 for file in known.files} if known is not None else {}
        records = []
        for path in source_files(net, net.weights.download):
            stat = path.stat()
            key = (name_text(path.name), stat.st_size, stat.st_mtime_ns)
            sha256 = unchanged.get(key) or _sha256(path)
            if net.weights.named:
                check_named_hash(path, sha256)
            records.append(RecordedFile(*key, sha256))
        content = combined_sha256([(file.name, file.sha256) for file in records])
        if known is not None and known.sha256 == content:
            return known._replace(source=net.weights.source, files=tuple(records))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return RecordedWeights(net.weights.source, tuple(records), content, now)

    def _refuse_equal(self, found: dict[str, RecordedWeights]) -> None:
        seen: dict[Any, Net] = {}
        for net in self.nets:
            if net.name in found and net.weights is not None:
                key = (found[net.name].sha256, net.weights.key, net.weights.key_map)
                other = seen.setdefault(key, net)
                if other is not net:
                    raise ConfigError(
                        f"{other.name} and {net.name} have equal weights: {found[other.name].source} and "
                        f"{found[net.name].source} have the same content. List each net once."
                    )

    def _of_import(self, net: Net) -> str:
        """The content that a net was imported from, for a run without ``weights.json``."""
        try:
            record = json.loads((self._folder / "nets" / net.name / "record.json").read_text(encoding="utf-8"))
            return str(record["values"]["weights"]["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return UNCHECKED

    def _read(self) -> dict[str, RecordedWeights]:
        if self._known is None:
            try:
                values = json.loads(self.path.read_text(encoding="utf-8"))
                if values["format"] != FORMAT:
                    raise ValueError(f"format {values['format']}")
                self._known = {
                    str(name): RecordedWeights(
                        str(one["source"]), tuple(_file(file) for file in one["files"]), str(one["sha256"]),
                        str(one["recorded"]),
                    )
                    for name, one in values["nets"].items()
                }  # fmt: skip
            except (FileNotFoundError, NotADirectoryError):
                return {}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise FileError(
                    f"{self.path}: the record of the weights is damaged ({printable(repr(error))}). Remove it; the "
                    "next stage that reads the nets makes it again."
                ) from error
        return self._known

    def _write(self, found: dict[str, RecordedWeights]) -> None:
        create_for_owner(self.path.parent)
        nets = {name: one._asdict() | {"files": [file._asdict() for file in one.files]} for name, one in found.items()}
        with atomic_write(self.path, shared=True) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, "nets": nets}, indent=1), encoding="utf-8")
        self._known = found


def source_files(net: Net, download: bool = False) -> tuple[Path, ...]:
    """Files of the weights of a net that is trained already.

    Raises
    ------
    MissingWeightsError
        for files that are not on this machine.
    FileError
        for files that cannot be used.
    """
    assert net.weights is not None
    if net.weights.named:
        return net.spec.find_weights(net.weights.source, download)
    try:
        return weight_files(expand_path(net.weights.source))
    except ConfigError as error:  # a variable that is not set on this machine
        raise MissingWeightsError(str(error)) from error


def _file(values: Any) -> RecordedFile:
    return RecordedFile(str(values["name"]), int(values["size"]), int(values["mtime_ns"]), str(values["sha256"]))


def _sha256(path: Path) -> str:
    sha256, kind, detail = hash_file(str(path))
    if kind:
        raise FileError(f"{path}: the file cannot be read ({detail or kind}). Check its permissions.")
    return sha256
