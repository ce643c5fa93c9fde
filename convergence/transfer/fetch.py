"""``convergence fetch``: copy results of a run, or some of its comparisons, from another machine and verify them.

rsync copies the records of the stages first, then all missing files in one transfer to ``.fetching/`` in the
destination, where an interrupted transfer is resumed. A file moves to its place when its size, checksums and digest
match its record. Results of other settings at that place move to ``superseded/``.

A run is not trusted: a record may name only the files of its stage, and every path is confined to the run folder and to
the destination. Nothing that is fetched is executed; pages of a report are opened by the user alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from convergence.analysis.file import open_analysis
from convergence.analysis.standalone import STATISTICS
from convergence.errors import FileError, UserError
from convergence.functional import EXPERIMENTS
from convergence.functional.file import open_results
from convergence.io import hdf5
from convergence.io.files import (
    LONGEST,
    atomic_write,
    check_writable,
    confined,
    create_for_owner,
    file_sha256,
    printable,
    put_folder_in_place,
    put_in_place,
    safe_name,
)
from convergence.provenance import FETCH_RECORD
from convergence.runs.run_lock import Claim, holding
from convergence.runs.tasks import StageTask, TaskFolder, read_record
from convergence.statistics.file import open_statistics
from convergence.transfer.remote import RunSource, parse
from convergence.visualization.file import open_pictures

logger = logging.getLogger(__name__)
STAGING, ANALYSIS = ".fetching", "analysis.h5"
PICTURES = "pictures.h5"
OPENED: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    ANALYSIS: open_analysis, PICTURES: open_pictures,
}  # fmt: skip
"""Readers of results files by name; subsets of statistics and functional experiments have many names."""
FOLDERS = ("report", *EXPERIMENTS)
"""Stages that write a folder."""
NET_FILES = ("record.json", "weights.safetensors", "metrics.csv")


@dataclass(frozen=True)
class Arrival:
    """A stage to fetch: its output below the run folder, and its record (None for a file without one)."""

    stage: str
    output: str
    record: dict[str, Any] | None

    @property
    def files(self) -> list[str]:
        """Paths below the run folder."""
        return sorted(self.record["outputs"]) if self.record is not None else [self.output]

    def work(self, folder: Path) -> StageTask:
        """The stage in a folder here."""
        path = folder / self.output
        outputs = (path, path.with_suffix("")) if self.stage in EXPERIMENTS else (path,)
        return StageTask(self.stage, outputs, folder / record_of(self.output), {})


def fetch(
    run: str,
    dest: str | Path | None = None,
    comparisons: Sequence[str] = (),
    nets: bool = False,
    ssh: str = "ssh",
    remote_command: str = "convergence",
    pictures: bool = False,
    functional: bool = False,
) -> Path:
    """Fetch results of a run; return the folder, or with ``comparisons`` the subset.

    Parameters
    ----------
    run
        ``HOST:RUN``, or a folder on this machine.
    dest
        Destination folder; the run's name in the working folder if None.
    comparisons
        Fetch the sums of these only, as a subset that is cut on the host; all results if empty.
    nets
        Also fetch weights and metrics of finished nets.
    pictures, functional
        Also fetch pictures of units; results of functional experiments and the nets that they wrote.
    ssh, remote_command
        Command that connects, and the toolkit's command on the host (for ``comparisons``).

    Raises
    ------
    UserError
        if ssh or rsync is missing, the host or the run cannot be reached, the statistics are not finished, the transfer
        was interrupted (the same call resumes it), or a file does not match its checksums.
    """
    source = parse(run, ssh, remote_command)
    folder = Path(dest) if dest is not None else Path(_default_name(source.name))
    entries = source.entries()
    here = getattr(source, "path", None)
    if isinstance(here, Path) and here.resolve() == folder.resolve():
        raise UserError(f"{run}: source and destination are the same folder. Give another DEST.")
    check_writable(folder, "Give another DEST")
    for flag, given in (("--nets", nets), ("--pictures", pictures), ("--functional", functional)):
        if given and comparisons:
            raise UserError(f"{flag} cannot be combined with --comparison. Fetch the whole run, or leave {flag} out.")
    staging = confined(folder, STAGING)
    places = (FETCH_RECORD, STATISTICS, ANALYSIS)
    tasks = [StageTask(f"fetch {name}", (folder / name,), folder / record_of(name), {}) for name in places]
    with holding(Claim(folder, tasks, remedy="Give another DEST")):
        try:
            with atomic_write(folder / FETCH_RECORD) as temporary:
                temporary.write_text(f"{printable(str(source))}\n", encoding="utf-8")
            if comparisons:
                return _fetch_subset(source, entries, folder, staging, comparisons)
            return _fetch_run(source, entries, folder, staging, nets, pictures, functional)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
                raise
            raise FileError(
                f"{source}: a file cannot be placed in {folder}: {error.strerror}: {printable(str(error.filename))}. "
                "Fetch to an empty DEST."
            ) from error


def _fetch_run(
    source: RunSource,
    entries: Sequence[str],
    folder: Path,
    staging: Path,
    nets: bool,
    pictures: bool,
    functional: bool,
) -> Path:
    """Fetch all results, see :func:`fetch`."""
    outputs = dict(_outputs(source, entries, pictures, functional))
    for output in outputs.values():
        confined(folder, output)
    records = [name for name in map(record_of, outputs.values()) if "/" in name or name in entries]
    if not records and STATISTICS not in entries:
        raise UserError(f"{source} is not a run folder: it has no {STATISTICS}. It contains: {_listed(entries)}.")
    shutil.rmtree(staging / "records", ignore_errors=True)
    source.copy(records, staging / "records")
    arrivals = [
        arrival
        for stage, output in outputs.items()
        if (arrival := _arrival(source, entries, folder, staging, stage, output)) is not None
    ]
    source.copy([name for arrival in arrivals for name in arrival.files], staging)
    for arrival in arrivals:
        _accept(source, folder, staging, arrival)
    if nets:
        _fetch_nets(source, folder, staging, entries)
    shutil.rmtree(staging, ignore_errors=True)
    return folder


def record_of(output: str) -> str:
    """Path of the record of a stage, below the run folder."""
    return PurePosixPath(output).with_suffix(".json").as_posix()


def subset_name(comparisons: Sequence[str]) -> str:
    """File name of a fetched subset: ``statistics-conv1+fc6.h5``."""
    stem = "statistics-" + "+".join(comparisons)
    if len(stem) > LONGEST:
        stem = f"statistics-{len(comparisons)}-comparisons-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
    return safe_name(stem) + ".h5"


def _default_name(name: str) -> str:
    return "run" if name in ("", ".", "..", "~") else safe_name(name)


def _outputs(source: RunSource, entries: Sequence[str], pictures: bool, functional: bool) -> Iterator[tuple[str, str]]:
    """Stages to fetch, in order, and the file or folder that each writes."""
    yield "statistics", STATISTICS
    yield "analyze", "analysis.h5"
    if pictures:
        yield "pictures", PICTURES
    if functional:
        there = source.entries("functional") if "functional" in entries else []
        if not there:
            logger.info("%s has no functional experiments", source)
        yield from ((name, f"functional/{name}.h5") for name in EXPERIMENTS if f"{name}.json" in there)
    yield "report", "report"


def _arrival(
    source: RunSource, entries: Sequence[str], folder: Path, staging: Path, stage: str, output: str
) -> Arrival | None:
    """A stage to fetch; None if it is here already, or not finished on the host. Statistics must be finished."""
    record = read_record(staging / "records" / record_of(output))
    if record is None and output in entries and stage not in ("report", "pictures"):
        return Arrival(stage, output, None)  # the file was copied without its record
    if record is None or record["finished"] is None:
        state = "is not finished there" if record else "does not exist there"
        if stage == "statistics":
            raise UserError(f"{source}: {output} {state}. Finish it there with `convergence run`, then fetch again.")
        logger.info("%s: %s %s", source, output, state)
        return None
    if not record["outputs"]:
        raise FileError(f"{source}: the record of {output} names no file; run the stage again there.")
    below = (f"{output}/", f"{PurePosixPath(output).with_suffix('')}/")
    for name in record["outputs"]:
        if name != output and not (stage in FOLDERS and name.startswith(below)):
            raise FileError(
                f"{source}: the record of {output} names {printable(name)}, which is not a file of its stage. The "
                "record was changed; run the stage again there."
            )
        confined(folder, name)
        confined(staging, name)
    arrival, known = Arrival(stage, output, record), read_record(folder / record_of(output))
    same = known is not None and known["digest"] == record["digest"] and known["finished"] is not None
    if same and not TaskFolder(folder).damage(arrival.work(folder)):
        logger.info("%s: skipped, already here", output)
        return None
    return arrival


def _accept(source: RunSource, folder: Path, staging: Path, arrival: Arrival) -> None:
    """Verify the files of a stage, and move them to their place with the record."""
    output, record, work = arrival.output, arrival.record, arrival.work(folder)
    if record is None:
        digest = _verify(source, staging / output, None)
        if (folder / output).exists() and file_sha256(folder / output) == file_sha256(staging / output):
            logger.info("%s: skipped, already here", output)
            return
        _place(folder, work, staging / output, folder / output)
        logger.info("%s: fetched, checksums match (digest %s, no record)", output, printable(digest[:12]))
        return
    wrong = [name for name, size in record["outputs"].items() if _size(staging / name) != size]
    if wrong:
        for name in record["outputs"]:
            (staging / name).unlink(missing_ok=True)
        raise FileError(
            f"{source}: {', '.join(wrong[:3])} differs in size from its record: it was changed, or is being written. "
            "Fetch again when its stage is finished."
        )
    if output.endswith(".h5"):
        _verify(source, staging / output, record["digest"])
    _place(folder, work, staging / output, folder / output)
    for more in work.outputs[1:]:
        if (arrived := staging / more.relative_to(folder)).exists():
            if arrived.is_dir():
                put_folder_in_place(arrived, more)
            else:
                put_in_place(arrived, more)
    shutil.move(staging / "records" / record_of(output), work.record)
    logger.info("%s: fetched, %s", output, "checksums match" if output.endswith(".h5") else "sizes match")


def _fetch_subset(
    source: RunSource, entries: Sequence[str], folder: Path, staging: Path, comparisons: Sequence[str]
) -> Path:
    """Cut the comparisons on the host, fetch the subset, and remove it there."""
    if STATISTICS not in entries:
        state = "is not finished" if "statistics.json" in entries else "does not exist"
        raise UserError(f"{source}: {STATISTICS} {state}. Run `convergence statistics` there first.")
    chosen = list(dict.fromkeys(comparisons))
    name = subset_name(chosen)
    arrived, target = source.subset(chosen, name, staging), folder / name
    digest = _verify(source, arrived, None)
    if target.exists() and _digest(target) == digest:
        logger.info("%s: skipped, already here", name)
    else:
        _place(folder, Arrival(f"subset-{target.stem}", name, None).work(folder), arrived, target)
        logger.info("%s: fetched, checksums match", name)
    source.remove_subset(name)
    shutil.rmtree(staging, ignore_errors=True)
    return target


def _fetch_nets(source: RunSource, folder: Path, staging: Path, entries: Sequence[str]) -> None:
    """Fetch weights and metrics of the nets of the statistics, and verify the checksums in statistics.h5."""
    with open_statistics(folder / STATISTICS) as file:
        sums = {str(net["name"]): str(net["weights_sha256"]) for net in file.nets}
    if "nets" not in entries:
        logger.info("%s has no nets", source)
        return
    folders = {net: _net_folder(source, folder, net) for net, expected in sums.items() if expected}
    missing = [net for net, here in folders.items() if _sha256(here / "weights.safetensors") != sums[net]]
    source.copy([f"nets/{net}/{name}" for net in missing for name in NET_FILES], staging)
    for net in missing:
        there, here = confined(staging, f"nets/{net}"), folders[net]
        if _sha256(there / "weights.safetensors") != sums[net]:
            shutil.rmtree(there, ignore_errors=True)
            raise FileError(
                f"{source}: the weights of {net} do not match the checksum in {STATISTICS}: the net was trained again, "
                "or the file is damaged. Run `convergence statistics` there again."
            )
        _place(folder, StageTask(f"train {net}", (here,), here / "record.json", {}), there, here)
        logger.info("nets/%s: fetched, checksum matches", net)


def _net_folder(source: RunSource, folder: Path, net: str) -> Path:
    """Folder of a net here; FileError for a name that is no name of a folder."""
    if "/" in net or safe_name(net) != net:
        raise FileError(
            f"{source}: {STATISTICS} has a net named {printable(net)}, which cannot name a folder. Fetch without "
            "--nets."
        )
    return confined(folder, f"nets/{net}")


def _place(folder: Path, work: StageTask, arrived: Path, target: Path) -> None:
    """Move an arrived file or folder to its place; move an existing result to ``superseded/`` first."""
    if target.exists():
        record = read_record(work.record)
        digest = record["digest"] if record else _digest(target) or "unknown"
        TaskFolder(folder).set_aside(work, digest)
        logger.info("%s: moved the previous result to superseded/", target.name)
    create_for_owner(target.parent)
    if arrived.is_dir():
        put_folder_in_place(arrived, target)
    else:
        put_in_place(arrived, target)


def _verify(source: RunSource, path: Path, digest: str | None) -> str:
    """Verify the checksums of an arrived file, and its digest if its record has one; remove the file if that fails."""
    try:
        opened = OPENED.get(path.name, open_results if path.stem in EXPERIMENTS else open_statistics)
        with opened(path) as file:
            found = str(file.digest)
            hdf5.verify(file.raw_file)
        if digest is not None and found != digest:
            raise FileError(f"{path.name} has the digest {printable(found[:12])}, and its record has {digest[:12]}.")
    except (FileError, OSError) as error:
        path.unlink(missing_ok=True)
        raise FileError(f"{source}: the copy of {path.name} is damaged and was removed. {error}") from None
    return found


def _digest(path: Path) -> str | None:
    """Digest of a results file; the SHA-256 of any other file, and of the names and sizes in a folder."""
    if path.is_dir():
        files = sorted((p.relative_to(path).as_posix(), p.stat().st_size) for p in path.rglob("*") if p.is_file())
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()
    for opened in (open_statistics, *OPENED.values(), open_results):
        try:
            with opened(path) as file:
                return str(file.digest)
        except (FileError, KeyError):
            continue
    return file_sha256(path)


def _sha256(path: Path) -> str | None:
    return file_sha256(path) if path.exists() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _listed(entries: Sequence[str]) -> str:
    names = sorted(name for name in entries if name not in (".", ".."))
    return (", ".join(printable(name, 60) for name in names[:6]) + (", …" if len(names) > 6 else "")) or "nothing"
