"""The processes that a verb runs on: MPI ranks or torch processes of a stage, workers of the analysis."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from convergence.cli import EXIT_DEFECT, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER
from convergence.errors import EXIT_RESUME, ConfigError, UserError
from convergence.registry import load_object

if TYPE_CHECKING:
    from convergence.config.schema import Experiment


def on_ranks(verb: str, experiment: Experiment, action: Callable[[Any], None]) -> int:
    """Run ``action(communicator)`` on every process that was launched; return the exit code of this one.

    Signals stop the action at its next checkpoint. An exception of one rank, and a rank that stops alone, end the job,
    so that the other ranks do not wait for it. An exception that all ranks raise is reported by the first rank.
    """
    from convergence.runs.signals import Stopped, stopping_on_signals

    comm = _communicator(verb, experiment)
    if comm.rank > 0:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        with stopping_on_signals():
            action(comm)
    except KeyboardInterrupt as error:
        if comm.size > 1:  # a rank that waits in a collective call of MPI never sees the interrupt
            comm.abort(error, EXIT_INTERRUPTED)
        raise
    except Exception as error:
        if comm.size > 1 and isinstance(error, Stopped) and hasattr(comm, "all_leave") and not comm.all_leave():
            comm.abort(error, EXIT_RESUME)
        everywhere = isinstance(error, Stopped) or (isinstance(error, UserError) and error.on_all_ranks)
        if comm.size > 1 and not everywhere:
            comm.abort(error, EXIT_USER if isinstance(error, UserError) else EXIT_DEFECT)
        if comm.rank > 0:
            return EXIT_RESUME if isinstance(error, Stopped) else EXIT_USER
        raise
    finally:
        if hasattr(comm, "close"):
            comm.close()
    return EXIT_DONE


def check_code(experiment: Experiment) -> tuple[str, ...]:
    """Check the code that the networks of a config run, and return the modules that the user allowed.

    On a terminal, the user is asked about code that has to be allowed.

    Raises
    ------
    ConfigError
        for code that may not run.
    """
    from convergence.data.user_code import ALLOWED

    code: dict[str, Any] = {net.network.code(): net.network for net in experiment.all_nets() if net.network is not None}
    if experiment.data is not None:
        code[experiment.data.code()] = experiment.data
    for name, source in code.items():
        reason = source.refusal()
        if "--allow-code" in reason and sys.stdin.isatty() and sys.stderr.isatty():
            import click

            if click.confirm(f"{reason}\nRun it now?", err=True):
                ALLOWED.append(name.partition(":")[0])
                reason = source.refusal()
        if reason:
            raise ConfigError(reason)
    return tuple(ALLOWED)


def refuse_ranks(verb: str) -> None:
    """Raise UserError if a launcher started several processes of a verb that works in a single one."""
    launched = load_object("hpc.comm:launched_ranks")()
    number = max(launched.ranks, _torchrun_processes())
    if number > 1:
        raise UserError(
            f"{number} processes of `convergence {verb}` were started ({launched.variable or 'WORLD_SIZE'}), and it "
            "works in a single process. Run it without a launcher."
        )


def analysis_executors(
    runs: str,
    cluster: str | None,
    workers: int | None,
    threads: int,
    memory: float | None,
    lifetime: float | None,
    dashboard: bool,
) -> Any:
    """Executors of the analysis for the worker options of a verb."""
    asked = load_object("hpc.dask_executor:Workers")(workers, threads, memory, lifetime, dashboard)
    if cluster:
        return load_object("slurm.dask_workers:executors")(asked, cluster, runs)
    return load_object("hpc.dask_executor:executors")(asked)


def _communicator(verb: str, experiment: Experiment) -> Any:
    """Torch processes for the stages that run nets on a device, MPI ranks for all other verbs."""
    from convergence.runs.stages import SHARED

    torchrun = _torchrun_processes() > 1
    if verb in SHARED and (torchrun or os.environ.get("SLURM_NTASKS", "1") != "1"):
        place = load_object("convergence.training.process_group:launched")()
        if place is not None:
            settings = experiment.training if verb == "train" else experiment.functional
            return load_object("convergence.training.process_group:ProcessGroup").of(place, settings.device)
    if torchrun and verb not in SHARED:
        raise UserError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, and `convergence {verb}` does not use torch "
            f"processes. Only {', '.join(SHARED)} do. Run `convergence {verb}` without torchrun."
        )
    return load_object("hpc.comm:world")()


def _torchrun_processes() -> int:
    """Number of processes that torchrun started; 1 without torchrun.

    torchrun sets ``RANK`` too. ``WORLD_SIZE`` alone is a variable of a job script.
    """
    given = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
    if not re.fullmatch("[0-9]{1,9}", given):
        raise UserError(f"WORLD_SIZE = {given[:40]!r} is not a number of processes. Use torchrun, or unset it.")
    return int(given)
