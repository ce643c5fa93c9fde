"""All checks of a run: which stages are ahead, the findings of their checks, and the kept outcome.

A passed check is kept in ``check/passed.json`` of the run folder, with a digest of what it depends on: the settings,
the versions of the software, the files of the networks' factories, and the content of the data once it is known. A
requeued job, and the jobs of a submission, do not repeat it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convergence.checks import CHECKS
from convergence.checks.findings import CheckError, Finding, error_text
from convergence.checks.needs import FileSize, Needs, StageNeed
from convergence.config.schema import Experiment
from convergence.errors import FileError, UserError
from convergence.io.files import atomic_write, file_sha256
from convergence.provenance import provenance
from convergence.runs.data_record import UNCHECKED
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped
from convergence.runs.stages import STAGE_TABLE, Stage

logger = logging.getLogger(__name__)
FILE = "check/passed.json"
FORMAT = 1
WITHOUT_NETS = ("images", "resources")
NO_TORCH = "torch is not installed here: pip install 'convergent-learning[train]'"


@dataclass(frozen=True)
class CheckedRun:
    """Outcome of the checks of a run.

    Attributes
    ----------
    experiment : its name
    sound : whether there is no fault
    checks : names of the checks that ran
    findings : of all checks
    needs : estimates of disk, memory and time
    """

    experiment: str
    sound: bool
    checks: tuple[str, ...]
    findings: tuple[Finding, ...]
    needs: Needs


def can_check(experiment: Experiment) -> bool:
    """Whether a run can be checked here: nets need torch."""
    return experiment.activations is not None or importlib.util.find_spec("torch") is not None


def stages_ahead(folder: RunFolder, first: str | None = None) -> list[Stage]:
    """Stages that a run still has to do, from ``first`` on."""
    names = list(STAGE_TABLE)
    found = []
    for name in names[names.index(first) if first else 0 :]:
        stage = STAGE_TABLE[name]
        if not stage.included(folder) or stage.skip_reason(folder):
            continue
        if any(folder.state(task) != "done" for task in stage.tasks(folder)):
            found.append(stage)
    return found


def check_before(folder: RunFolder, stages: Iterable[str], comm: Any, nets: Iterable[str] = ()) -> None:
    """Check a run before its stages start, unless they are done or the check has passed before.

    Raises
    ------
    CheckError
        on all ranks, with all faults.
    Stopped
        on all ranks, after a signal.
    """
    text, stopped = "", False
    if comm.rank == 0 and _anything_to_do(folder, stages, set(nets)):
        ahead = stages_ahead(folder, next(iter(stages)))
        processes = comm.size if hasattr(comm, "wrap") else 1  # ranks of MPI do not share batches
        if not has_passed(folder, ahead, processes):
            try:
                findings = check_run(folder, ahead, processes).findings
            except Stopped:
                findings, stopped = (), True
            for finding in findings:
                if finding.level == "warning":
                    logger.warning("warning: %s: %s", finding.check, finding)
            text = error_text(findings, "convergence check CONFIG")
    if comm.share(stopped):
        raise Stopped("stopped by a signal")
    if comm.share(bool(text)):
        raise CheckError(text)


def _anything_to_do(folder: RunFolder, stages: Iterable[str], nets: set[str]) -> bool:
    wanted = {f"train {name}" for name in nets}
    return any(
        folder.state(task) != "done"
        for name in stages
        if STAGE_TABLE[name].included(folder) and not STAGE_TABLE[name].skip_reason(folder)
        for task in STAGE_TABLE[name].tasks(folder)
        if name != "train" or not wanted or task.name in wanted
    )


def check_run(
    folder: RunFolder, ahead: list[Stage], processes: int = 1, limits: Mapping[str, float] | None = None,
    keep: bool = True,
) -> CheckedRun:  # fmt: skip
    """Run the checks of some stages; keep the outcome if it passed.

    ``limits`` holds bytes of memory of jobs by stage, if the run will be on other machines.
    """
    from convergence.checks.context import CheckContext, random_states_kept

    names = needed_checks(folder, ahead)
    findings: list[Finding] = []
    context = CheckContext(folder, processes, limits)
    with nullcontext() if folder.experiment.activations is not None else random_states_kept():
        for name in names:
            findings += _findings(name, context)
            if not context.images_usable:
                break  # nets cannot run
    sound = all(finding.level != "fault" for finding in findings)
    run = CheckedRun(folder.experiment.name, sound, tuple(names), tuple(findings), context.needs)
    if sound and keep:
        _keep(folder, run, processes)
    return run


def _findings(name: str, context: Any) -> list[Finding]:
    found: list[Finding] = []
    try:
        for finding in CHECKS.load(name)(context):
            found.append(finding)
    except Stopped:
        raise
    except UserError as error:
        found.append(Finding(name, "fault", str(error)))
    except Exception as error:  # a defect of a check must not stop a run
        logger.debug("check %s", name, exc_info=True)
        found.append(
            Finding(name, "warning", f"the check itself failed: {error!r}", remedy="Report this line as a defect")
        )
    return found


def needed_checks(folder: RunFolder, stages: Iterable[Stage]) -> list[str]:
    """Names of the checks of some stages, in the order in which they run; given activations need no nets or torch."""
    wanted = {name for stage in stages for name in stage.checks}
    if folder.experiment.activations is not None:
        wanted &= set(WITHOUT_NETS)
    return [name for name in CHECKS if name in wanted]


def has_passed(folder: RunFolder, ahead: list[Stage], processes: int = 1) -> bool:
    """Whether the checks of some stages have passed with the same settings, software and factories."""
    run = kept(folder, processes)
    return run is not None and set(needed_checks(folder, ahead)) <= set(run.checks)


def kept(folder: RunFolder, processes: int = 1) -> CheckedRun | None:
    """The kept outcome, if it holds for the present settings; None if there is none."""
    try:
        found = json.loads((folder.path / FILE).read_text(encoding="utf-8"))
        if found["digest"] != _digest(folder, processes):
            return None
        contents = {found["content"], folder.data.content} - {UNCHECKED}  # not known before the first stage
        if len(contents) > 1 or found["weights"] != folder.weights.contents:
            return None
        run = found["run"]
        needs = Needs(
            tuple(FileSize(**item) for item in run["needs"]["disk"]),
            tuple(StageNeed(**item) for item in run["needs"]["stages"]),
        )
        findings = tuple(Finding(**item) for item in run["findings"])
        return CheckedRun(run["experiment"], run["sound"], tuple(run["checks"]), findings, needs)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is checked again


def _keep(folder: RunFolder, run: CheckedRun, processes: int) -> None:
    try:
        folder.create()
        with atomic_write(folder.path / FILE, shared=True) as temporary:
            digest, contents = _digest(folder, processes), (folder.data.content, folder.weights.contents)
            record = {"digest": digest, "content": contents[0], "weights": contents[1], "run": asdict(run)}
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    except (FileError, OSError) as error:
        logger.debug("the outcome of the check is not kept: %s", error)


def _digest(folder: RunFolder, processes: int) -> str:
    experiment = folder.experiment
    factories = {net.spec.name: _source(net.spec.name) for net in experiment.all_nets() if net.network is not None}
    if experiment.data is not None:
        factories[experiment.data.name] = _source(experiment.data.name)
    values = [FORMAT, experiment.model_dump_json(), provenance(), factories, processes]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _source(name: str) -> str:
    """SHA-256 of the file of a ``package.module:factory``, which is not imported; "" for the networks by name."""
    module, colon, _ = name.partition(":")
    if not colon or module == "torchvision":
        return ""
    path = module.replace(".", "/")
    for folder in sys.path:
        for file in (Path(folder, f"{path}.py"), Path(folder, path, "__init__.py")):
            if file.is_file():
                return file_sha256(file)
    return ""
