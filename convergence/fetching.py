"""``convergence fetch``: bring a run's results, or some of its layers, here, and hold them against checksums.

Files arrive in ``.fetching/`` in the destination, where a transfer that was cut off goes on, and take their places when
they are whole and hold. What lies there of other settings moves to ``superseded/``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

from convergence.analysis.file import open_analysis
from convergence.downloaded import STATISTICS
from convergence.errors import FileError, UserError
from convergence.functional import EXPERIMENTS
from convergence.functional.file import open_results
from convergence.io import hdf5
from convergence.io.files import LONGEST, check_writable, file_sha256, put_in_place, safe_name
from convergence.pictures.file import open_pictures
from convergence.remote import Place, parse
from convergence.runs.tasks import StageTask, TaskFolder, read_record
from convergence.statistics.file import open_statistics

logger = logging.getLogger(__name__)
STAGING = ".fetching"
PICTURES = "pictures.h5"
OPENED: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "analysis.h5": open_analysis, PICTURES: open_pictures,
}  # fmt: skip
"""What opens files of results; slices of statistics and functional experiments go by many names."""
OUTPUTS = {"statistics": STATISTICS, "analyze": "analysis.h5", "report": "report"}
"""Stages that are fetched, in order, and what they leave; their records are ``<stage of the output>.json``."""


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
    """Bring results of a run; returns the folder, or with ``comparisons`` the slice.

    Parameters
    ----------
    run
        ``HOST:RUN``, or a folder on this machine.
    dest
        Folder to bring it to; the run's name in the working folder if not given.
    comparisons
        Only the sums of these, cut where the run is; all results if empty.
    nets
        The weights and metrics of finished nets, too.
    pictures, functional
        The pictures of units, too; the results of functional experiments, with the nets that they left.
    ssh, remote_command
        How to connect, and how the toolkit is called there (for ``comparisons``).

    Raises
    ------
    UserError
        when ssh or rsync is not there, the host or the run cannot be reached, statistics are not finished, a transfer
        was cut off (the same call goes on), or what came does not hold.
    """
    place = parse(run, ssh, remote_command)
    folder = (
        Path(dest) if dest is not None else Path("run" if place.name in ("", ".", "..", "~") else safe_name(place.name))
    )
    entries = place.entries()
    here = getattr(place, "path", None)
    if isinstance(here, Path) and here.resolve() == folder.resolve():
        raise UserError(f"{run}: the run is in this folder already. Give another DEST.")
    check_writable(folder, "Give another DEST")
    staging = folder / STAGING
    if comparisons:
        for flag, given in (("--nets", nets), ("--pictures", pictures), ("--functional", functional)):
            if given:
                raise UserError(f"{flag} goes with a whole run; fetch without --comparison.")
        return _fetch_slice(place, entries, folder, staging, comparisons)
    outputs = _outputs(place, entries, pictures, functional)
    records = [name for name in map(_record_of, outputs.values()) if "/" in name or name in entries]
    if not records and STATISTICS not in entries:
        raise UserError(f"{place}: this is no run folder: it has no {STATISTICS}. It holds: {_listed(entries)}.")
    _remove(staging / "records")
    place.bring(records, staging / "records")
    for stage, output in outputs.items():
        record = read_record(staging / "records" / _record_of(output))
        if record is None and output in entries and stage not in ("report", "pictures"):
            _bring_without_record(place, folder, staging, stage, output)
        elif record is None or record["finished"] is None:
            said = "is not finished there: it is being written, or was stopped" if record else "has not been made there"
            if stage == "statistics":
                raise UserError(f"{place}: {output} {said}. `convergence run` there goes on; then fetch again.")
            logger.info("%s: %s %s", place, output, said)
        else:
            _bring_stage(place, folder, staging, stage, output, record)
    if nets:
        _bring_nets(place, folder, staging, entries)
    shutil.rmtree(staging, ignore_errors=True)
    return folder


def _outputs(place: Place, entries: Sequence[str], pictures: bool, functional: bool) -> dict[str, str]:
    """Stages that are brought, in order, and the file or folder that each leaves."""
    found = {stage: output for stage, output in OUTPUTS.items() if stage != "report"}
    if pictures:
        found["pictures"] = PICTURES
    if functional:
        there = place.entries("functional") if "functional" in entries else []
        if not there:
            logger.info("%s: there are no functional experiments", place)
        found |= {name: f"functional/{name}.h5" for name in EXPERIMENTS if f"{name}.json" in there}
    return found | {"report": OUTPUTS["report"]}


def _record_of(output: str) -> str:
    """Path of the record of a stage, below the run."""
    return PurePosixPath(output).with_suffix(".json").as_posix()


def _bring_stage(place: Place, folder: Path, staging: Path, stage: str, output: str, record: dict[str, Any]) -> None:
    """One finished stage, with its record."""
    work = _work(folder, stage, output)
    there = staging / "records" / _record_of(output)
    known, works = read_record(work.record), TaskFolder(folder)
    same = known is not None and known["digest"] == record["digest"] and known["finished"] is not None
    if same and not works.damage(work):
        logger.info("%s: there already", output)
        return
    place.bring(sorted(record["outputs"]), staging)
    wrong = [name for name, size in record["outputs"].items() if _size(staging / name) != size]
    if wrong:
        _forget(staging, record["outputs"])
        raise FileError(
            f"{place}: {', '.join(wrong[:3])} came with another size than its record says: it was changed there, or is "
            "being written again. Fetch again when its stage is done."
        )
    if output.endswith(".h5"):
        _hold(place, staging / output, record["digest"])
    _put(works, work, staging / output, folder / output)
    for more in work.outputs[1:]:
        if (arrived := staging / more.relative_to(folder)).exists():
            os.replace(arrived, more)
    shutil.move(there, work.record)
    logger.info("%s: fetched, %s", output, "checksums hold" if output.endswith(".h5") else "all files")


def _bring_without_record(place: Place, folder: Path, staging: Path, stage: str, output: str) -> None:
    """A file whose record is not there, as where only the file was copied."""
    place.bring([output], staging)
    digest = _hold(place, staging / output, None)
    if (folder / output).exists() and file_sha256(folder / output) == file_sha256(staging / output):
        logger.info("%s: there already", output)
        return
    _put(TaskFolder(folder), _work(folder, stage, output), staging / output, folder / output)
    logger.info("%s: fetched, checksums hold (digest %s, no record)", output, digest[:12])


def _fetch_slice(place: Place, entries: Sequence[str], folder: Path, staging: Path, comparisons: Sequence[str]) -> Path:
    """Cut the layers where the run is, bring the slice, and remove it there."""
    if STATISTICS not in entries:
        state = "is not finished there" if "statistics.json" in entries else "is not there"
        raise UserError(f"{place}: {STATISTICS} {state}, so there is nothing to cut.")
    chosen = list(dict.fromkeys(comparisons))
    name = slice_name(chosen)
    arrived, target = place.cut(chosen, name, staging), folder / name
    digest = _hold(place, arrived, None)
    if target.exists() and _digest(target) == digest:
        logger.info("%s: there already", name)
    else:
        _put(TaskFolder(folder), _work(folder, f"slice-{target.stem}", name), arrived, target)
        logger.info("%s: fetched, checksums hold", name)
    place.discard(name)
    shutil.rmtree(staging, ignore_errors=True)
    return target


def slice_name(comparisons: Sequence[str]) -> str:
    """File name of a fetched slice: ``statistics-conv1+fc6.h5``."""
    stem = "statistics-" + "+".join(comparisons)
    if len(stem) > LONGEST:
        stem = f"statistics-{len(comparisons)}-comparisons-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
    return safe_name(stem) + ".h5"


def _bring_nets(place: Place, folder: Path, staging: Path, entries: Sequence[str]) -> None:
    """Weights and metrics of the nets that the statistics name, held against the checksums there."""
    with open_statistics(folder / STATISTICS) as file:
        sums = {str(net["name"]): str(net["weights_sha256"]) for net in file.nets}
    if "nets" not in entries:
        logger.info("%s: there are no nets", place)
        return
    for net, expected in sums.items():
        if not expected:
            continue
        there, here = staging / "nets" / net, folder / "nets" / net
        if (here / "weights.safetensors").exists() and file_sha256(here / "weights.safetensors") == expected:
            logger.info("nets/%s: there already", net)
            continue
        place.bring([f"nets/{net}/{name}" for name in ("record.json", "weights.safetensors", "metrics.csv")], staging)
        if file_sha256(there / "weights.safetensors") != expected:
            _remove(there)
            raise FileError(
                f"{place}: the weights of {net} are not those that the statistics were made of: the net was trained "
                "again, or the file is damaged. Run the statistics again there."
            )
        work = StageTask(f"train {net}", (here,), here / "record.json", {})
        _put(TaskFolder(folder), work, there, here)
        logger.info("nets/%s: fetched, checksum holds", net)


def _work(folder: Path, stage: str, output: str) -> StageTask:
    path = folder / output
    outputs = (path, path.with_suffix("")) if stage in EXPERIMENTS else (path,)
    return StageTask(stage, outputs, folder / _record_of(output), {})


def _put(works: TaskFolder, work: StageTask, arrived: Path, target: Path) -> None:
    """Move what arrived to its place; what is there goes to ``superseded/`` first."""
    if target.exists():
        record = read_record(work.record)
        digest = record["digest"] if record else _digest(target) or "unknown"
        works.set_aside(work, digest)
        logger.info("%s: what was there is in superseded/", target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if arrived.is_dir():
        os.replace(arrived, target)
    else:
        put_in_place(arrived, target)


def _hold(place: Place, path: Path, digest: str | None) -> str:
    """Hold a file that arrived against its checksums, and its digest against the record's; remove it if it fails."""
    try:
        opened = OPENED.get(path.name, open_results if path.stem in EXPERIMENTS else open_statistics)
        with opened(path) as file:
            found = file.digest
            hdf5.verify(file.raw_file)
        if digest is not None and found != digest:
            raise FileError(f"{path.name} has the digest {found[:12]}, and its record says {digest[:12]}.")
    except (FileError, OSError) as error:
        path.unlink(missing_ok=True)
        raise FileError(f"{place}: what came of {path.name} does not hold, and was removed. {error}") from None
    return found


def _digest(path: Path) -> str | None:
    """Digest of a file of ours; of any other its SHA-256, of a folder that of its names and sizes."""
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


def _forget(staging: Path, outputs: dict[str, int]) -> None:
    for name in outputs:
        (staging / name).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _listed(entries: Sequence[str]) -> str:
    names = sorted(name for name in entries if name not in (".", ".."))
    return (", ".join(names[:6]) + (", …" if len(names) > 6 else "")) or "nothing"
