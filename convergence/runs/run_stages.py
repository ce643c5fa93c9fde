"""Run stages of an experiment in order, or side by side, each for its unfinished tasks only."""

from __future__ import annotations

import logging
from typing import Any

from convergence.errors import SharedError, StaleOutputError, UserError
from convergence.io.files import disk_full_errors
from convergence.registry import load_object
from convergence.runs.data_record import check_data
from convergence.runs.run_folder import RunFolder
from convergence.runs.run_lock import Claim, holding
from convergence.runs.side_by_side import predecessors, run_side_by_side
from convergence.runs.stages import FIRST_REPORT, RUN_TABLE, SHARED, STAGE_TABLE, Options, Stage, chosen_nets
from convergence.runs.tasks import StageTask, describe_changes, read_record

logger = logging.getLogger(__name__)


def run_stages(stages: tuple[str, ...], folder: RunFolder, options: Options, comm: Any) -> None:
    """Run stages in the given order.

    Raises
    ------
    StaleOutputError
        if a task that a stage reads is not finished for the present settings.
    SharedError
        if a stage that needs a single process was launched on several ranks, the checks before the stages found
        faults, or another command uses the outputs.
    """
    kind = "torch" if hasattr(comm, "wrap") else "mpi"  # processes of torch.distributed, or ranks of MPI
    if comm.size > 1 and (len(stages) > 1 or STAGE_TABLE[stages[0]].ranks != kind):
        raise SharedError(
            f"{comm.size} ranks were launched. Only `convergence statistics` runs on several MPI ranks, and "
            f"`convergence {' | '.join(SHARED)}` on several processes of torchrun. Run the other stages without a "
            "launcher."
        )
    if options.check:
        load_object("convergence.checks.run:check_before")(folder, stages, comm, options.nets)
    with holding(_claim(stages, folder, options, comm), comm):
        if len(stages) == 1:
            _run_stage(STAGE_TABLE[stages[0]], folder, options, comm, alone=True)
            return
        chosen = _with_first_report([name for name in stages if _has_work(STAGE_TABLE[name], folder)], folder)
        if options.jobs == 1:
            for name in chosen:
                _run_stage(RUN_TABLE[name], folder, options, comm, alone=False)
        else:
            before = predecessors(chosen, folder, RUN_TABLE)
            run_side_by_side(chosen, before, options.jobs, _run_in_child, folder, options)


def _with_first_report(stages: list[str], folder: RunFolder) -> list[str]:
    """The stages with a report after the analysis, where optional stages follow that are not finished."""
    after = [name for name in stages if STAGE_TABLE[name].optional]
    if not {"analyze", "report"} <= set(stages) or all(
        folder.state(task) == "done" for name in after for task in STAGE_TABLE[name].tasks(folder)
    ):
        return stages
    at = stages.index("analyze") + 1
    return [*stages[:at], FIRST_REPORT, *stages[at:]]


def _has_work(stage: Stage, folder: RunFolder) -> bool:
    """Whether a run of all stages includes a stage; logs the reason if there is nothing to do for it."""
    reason = stage.skip_reason(folder) if stage.included(folder) else ""
    if reason:
        logger.info("%s: nothing to do: %s", stage.name, reason)
    return stage.included(folder) and not reason


def _run_in_child(name: str, folder: RunFolder, options: Options) -> None:
    """Run one of several stages in a separate process."""
    _run_stage(RUN_TABLE[name], folder, options, load_object("hpc.comm:SerialCommunicator")(), alone=False)


def _run_stage(stage: Stage, folder: RunFolder, options: Options, comm: Any, alone: bool) -> None:
    if not alone and not stage.included(folder):
        return
    reason = stage.skip_reason(folder)
    if reason:
        logger.info("%s: nothing to do: %s", stage.name, reason)
        return
    try:
        with disk_full_errors(folder.path):
            if stage.reads_data:
                check_data(folder, stage.tasks, comm)
            _require(folder, stage.reads(folder))
            stage.run(folder, options, comm)
    except UserError as error:
        if not stage.optional or alone:
            raise
        logger.warning("%s: failed; continuing without it: %s", stage.name, error)


def _claim(stages: tuple[str, ...], folder: RunFolder, options: Options, comm: Any) -> Claim:
    """The unfinished tasks of stages, and the finished ones that they read; rank 0 decides for all ranks.

    Stages that read data may find other data than those of finished tasks, and claim finished tasks too.
    A report shows what optional stages left, so a run of several stages writes it again after any of them.
    """
    writes: list[StageTask] = []
    reads: list[StageTask] = []
    any_data = any(STAGE_TABLE[name].reads_data for name in stages)
    for name in stages if comm.rank == 0 else ():
        stage = STAGE_TABLE[name]
        if (len(stages) > 1 and not stage.included(folder)) or stage.skip_reason(folder):
            continue
        tasks = stage.tasks(folder)
        if name == "train":
            tasks = [folder.train_task(net) for net in chosen_nets(folder, options)]
        unfinished = [task for task in tasks if any_data or folder.state(task) != "done"]
        writes += unfinished
        reads += stage.reads(folder) if unfinished else []
    if "report" in stages and comm.rank == 0 and (options.single_file or writes):
        writes.append(folder.report_task())
    if len(stages) == 1 and reads and not folder.path.exists():
        return Claim(folder.path, ())  # without input the stage ends before it writes
    if writes:
        folder.create()
    return Claim(folder.path, writes, reads, options.wait, options.take_over)


def _require(folder: RunFolder, tasks: list[StageTask]) -> None:
    """Check that tasks are finished for the present settings."""
    for task in tasks:
        state = folder.state(task)
        if state != "done":
            found = {
                "missing": "has not run",
                "unfinished": "has not finished",
                "damaged": f"is damaged ({folder.damage(task)})",
                "stale": "was made with other settings or data",
            }[state]
            record = read_record(task.record) if state == "stale" else None
            why = f" ({describe_changes(record, task)})" if record is not None else ""
            raise StaleOutputError(
                f'{folder.path}: "{task.name}" {found}{why}. First run `convergence {task.name.split()[0]}` (or '
                "`convergence run`) with the same config and --set options."
            )
