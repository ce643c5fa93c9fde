"""Analysis and report of a statistics file without a run folder, a config, torch, MPI or Slurm.

Settings are those of the config in the file. Results are written beside the file, with the records of a run folder:
finished work of the same settings is skipped, unfinished work is resumed, and results of other settings move to
``superseded/``. For the statistics file of a run folder the results are those of the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convergence.config.load import apply_override, validated
from convergence.config.stages import AnalysisConfig, ReportConfig
from convergence.errors import ConfigError, FileError, UserError, did_you_mean
from convergence.io import hdf5
from convergence.io.file_errors import is_hdf5
from convergence.io.files import check_writable, confined, name_beside, printable
from convergence.provenance import ANALYSIS_SCHEMA_VERSION
from convergence.registry import load_object
from convergence.runs.run_folder import shown_files
from convergence.runs.run_lock import Claim, holding
from convergence.runs.tasks import StageTask, TaskFolder, read_record

logger = logging.getLogger(__name__)
ENDINGS = (".h5", ".hdf5")
STATISTICS = "statistics.h5"
OUT = "Choose another path with --out"


@dataclass(frozen=True)
class FileSettings:
    """Settings of the later stages from the config in a statistics file, with overrides applied."""

    name: str
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


def is_results_file(path: str) -> bool:
    """Whether the argument of a verb is a results file (or a folder with ``statistics.h5``) and not a config."""
    place = Path(path)
    if os.path.isdir(place):
        return os.path.exists(place / STATISTICS)
    return place.suffix.lower() in ENDINGS or (place.suffix.lower() != ".toml" and is_hdf5(place))


def statistics_path(path: str | Path) -> Path:
    """Path of the statistics file for a file or a folder; FileError for a partial result of an unfinished stage."""
    place = Path(path)
    place = place / STATISTICS if place.is_dir() else place
    if place.parent.name.endswith(".partial") or ".partial" in place.suffixes:
        raise FileError(f"{place}: this is a partial result of an unfinished stage. Finish the stage first.")
    return place


def analysis_path(statistics: Path) -> Path:
    """Path of the analysis of a file: ``analysis.h5`` beside ``statistics.h5``, else ``NAME.analysis.h5``."""
    return (
        statistics.with_name("analysis.h5")
        if statistics.name == STATISTICS
        else name_beside(statistics, ".analysis.h5")
    )


def report_path(statistics: Path) -> Path:
    """Path of the report on a statistics file: ``report/`` beside ``statistics.h5``, else ``NAME.report/``."""
    return statistics.with_name("report") if statistics.name == STATISTICS else name_beside(statistics, ".report")


def read_settings(config_text: str, where: str, overrides: Iterable[str] = ()) -> FileSettings:
    """Read the settings of the later stages from a statistics file, with ``analysis.KEY=VALUE`` overrides.

    Raises
    ------
    ConfigError
        for an override of another section and for invalid values.
    """
    try:
        found = json.loads(config_text or "{}")
    except (ValueError, RecursionError):
        found = {}  # written by another program
    if not isinstance(found, dict):
        found = {}
    values = {key: found.get(key) or {} for key in ("analysis", "report")}
    _drop_outside_comparison(values["report"], where)
    for override in overrides:
        section = override.partition("=")[0].strip().partition(".")[0]
        if section not in values:
            raise ConfigError(
                f"--set {override}: for a statistics file, only analysis.* and report.* can be set; "
                f"{did_you_mean(section, values)}. To change other settings, compute the statistics again."
            )
        apply_override(values, override)
    return FileSettings(
        str(found.get("name") or Path(where).stem),
        validated(AnalysisConfig, values["analysis"], f"{where}, analysis"),
        validated(ReportConfig, values["report"], f"{where}, report"),
    )


def _drop_outside_comparison(report: Any, where: str) -> None:
    """Remove the run to compare with from the settings in a file, unless it is below the working folder.

    The file may come from someone else, and a report must not read other folders because a file names them.
    """
    name = report.get("compare") if isinstance(report, dict) else None
    if name is None:
        return
    try:
        outside = str(name).startswith("~") or "$" in str(name) or not confined(Path(), str(name))
    except FileError:
        outside = True
    if outside:
        del report["compare"]
        logger.warning(
            "%s: the file names a run to compare with outside of the working folder (%s). It is left out; to compare, "
            "add --set report.compare=FOLDER", where, printable(str(name)),
        )  # fmt: skip


def analyze_task(
    target: Path, statistics_digest: str, config: AnalysisConfig, comparisons: tuple[str, ...] = ()
) -> StageTask:
    """The analysis of a file as a stage with a record; in a run folder it is the analysis of the run."""
    values: dict[str, Any] = {"analysis": config.digest_values(), "analysis_schema": ANALYSIS_SCHEMA_VERSION}
    if comparisons:
        values["comparisons"] = list(comparisons)
    return StageTask(
        "analyze", (target,), target.with_suffix(".json"), values, {"statistics": statistics_digest},
        (target.with_suffix(".partial"),), "" if target.name == "analysis.h5" else target.stem,
    )  # fmt: skip


def report_task(target: Path, analysis_digest: str, settings: FileSettings, folder: Path) -> StageTask:
    """The report on a file as a stage with a record."""
    values = {"report": settings.report.digest_values(), "name": settings.name}
    record = target.with_name(f"{target.name}.json")
    inputs = {"analyze": analysis_digest} | shown_files(folder)
    return StageTask("report", (target,), record, values, inputs, shelf=target.name)


def analyze_file(
    path: str | Path,
    overrides: Iterable[str] = (),
    comparisons: Iterable[str] = (),
    out: str | Path | None = None,
    executors: Any = None,
    overwrite: bool = False,
    *,
    wait: bool = False,
    take_over: bool = False,
) -> Path:
    """Analyze a statistics file, or some comparisons of it; return the path of the analysis.

    Parameters
    ----------
    path
        A statistics file, or a folder with ``statistics.h5``.
    overrides
        ``analysis.KEY=VALUE``, replacing settings in the file.
    comparisons
        Names of the comparisons; all if empty.
    out
        File to write; beside the statistics if None.
    executors
        What starts the workers, from :mod:`hpc.dask_executor`; as many as make sense if not given.
    overwrite
        Delete an analysis of other settings instead of moving it to ``superseded/``.
    wait, take_over
        Of another command that writes the same files: wait for it, or end its lease.

    Raises
    ------
    UserError
        for a file that cannot be used, invalid settings, a folder that cannot be written, and another command that
        writes the same files.
    """
    statistics = statistics_path(path)
    target = analysis_path(statistics) if out is None else Path(out)
    with load_object("convergence.statistics.file:open_statistics")(statistics) as file:
        for name in comparisons:
            if name not in file.comparisons:
                raise UserError(
                    f"--comparison {name}: {statistics} has no such comparison; {did_you_mean(name, file.comparisons)}."
                )
        chosen = tuple(name for name in file.comparisons if name in set(comparisons))
        chosen = chosen if len(chosen) < len(file.comparisons) else ()
        settings, digest = read_settings(file.config_text, str(statistics), overrides), file.digest
    if target.exists() and target.samefile(statistics):
        raise UserError(f"--out {target}: this is the statistics file. Give another path.")
    work = analyze_task(target, digest, settings.analysis, chosen)
    (partial,) = work.scratch

    def act() -> None:
        start = executors or load_object("hpc.dask_executor:executors")(load_object("hpc.dask_executor:Workers")())
        load_object("convergence.analysis.run:analyze")(
            statistics, target, settings.analysis, work.digest, partial, start, chosen
        )

    claim = Claim(target.parent, (work,), (_results(statistics),), wait, take_over, OUT)
    run_task(claim, _analysis_digest, overwrite, act)
    return target


def report_file(
    path: str | Path,
    overrides: Iterable[str] = (),
    analysis: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    *,
    wait: bool = False,
    take_over: bool = False,
) -> Path:
    """Write the report on a statistics file and its analysis; return the path of its page.

    ``analysis`` is the file beside the statistics if None; ``out`` is a folder. Raises UserError as
    :func:`analyze_file`, and for an analysis of other statistics.
    """
    statistics = statistics_path(path)
    results = analysis_path(statistics) if analysis is None else Path(analysis)
    target = report_path(statistics) if out is None else Path(out)
    with load_object("convergence.statistics.file:open_statistics")(statistics) as file:
        settings, digest = read_settings(file.config_text, str(statistics), overrides), file.digest
    if not results.exists():
        raise FileError(
            f"{results}: there is no analysis. Run `convergence analyze {statistics}` first, or give its path with "
            "--analysis."
        )
    with load_object("convergence.analysis.file:open_analysis")(results) as file:
        if file.statistics_digest != digest:
            raise FileError(
                f"{results}: this is the analysis of other statistics than {statistics}. Run `convergence analyze "
                f"{statistics}`, or give the matching analysis with --analysis."
            )
        work = report_task(target, file.digest, settings, statistics.parent)

    def act() -> None:
        pictures, functional = statistics.with_name("pictures.h5"), statistics.with_name("functional")
        load_object("convergence.report:report")(statistics, results, target, settings, pictures, functional=functional)

    claim = Claim(target.parent, (work,), (_results(statistics), _results(results)), wait, take_over, OUT)
    run_task(claim, _report_digest, overwrite, act)
    return target / "index.html"


def _results(path: Path) -> StageTask:
    """A results file that another stage reads."""
    return StageTask(path.name, (path,), path.with_suffix(".json"), {})


def run_task(claim: Claim, digest_of: Callable[[Path], str], overwrite: bool, act: Callable[[], None]) -> None:
    """Run a stage unless it is finished, and record it; adopt an existing output that has no record."""
    (work,) = claim.writes
    (target,) = work.outputs
    folder = TaskFolder(claim.folder)
    check_writable(claim.folder, OUT)
    with holding(claim if folder.state(work) != "done" else Claim(claim.folder, ())):
        if read_record(work.record) is None and target.exists():
            folder.adopt(work, digest_of(target))
        outcome = folder.begin(work, overwrite)
        logger.info("%s%s", work.name, f": {outcome.reason}" if outcome.reason else "")
        if outcome.needed:
            start = time.monotonic()
            act()
            folder.finish(work, time.monotonic() - start)
            logger.info("%s: done in %.1f s", work.name, time.monotonic() - start)


def _analysis_digest(path: Path) -> str:
    from convergence.analysis.layout import MADE_BY, SCHEMA, VERSION

    try:
        with hdf5.open_checked(path, SCHEMA, VERSION, MADE_BY) as file, hdf5.reading(path):
            return str(file.attrs["digest"])
    except FileError as error:
        raise FileError(f"{error} The analysis would replace it: move it, or choose another path with --out.") from None


def _report_digest(path: Path) -> str:
    page = path / "index.html"
    if not page.is_file() or not (path / "figures").is_dir() or not (path / "tables").is_dir():
        raise FileError(f"{path}: this exists and is not a report. Choose another path with --out.")
    return hashlib.sha256(page.read_bytes()).hexdigest()
