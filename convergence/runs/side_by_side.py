"""Run independent stages of a run at the same time, each in a separate process.

A stage starts when the stages that make its input are finished. The processes work under the claim of the command
(:mod:`convergence.runs.run_lock`): they take no lease, stop when the command stops, and end with it. Results have the
same bits, because a stage reads nothing of the stages beside it.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convergence.errors import UserError
from convergence.progress import bars
from convergence.registry import load_object, put_toolkit_first
from convergence.runs import signals
from convergence.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)
POLL_S = 0.2
GRACE_S = 60.0
"""Seconds in which a process that was asked to stop finishes its unit of work."""
SHOWS_ALL_RESULTS = "report"
"""The stage that shows the results of all others, and so waits for them."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: "done", "error" (of the user), "stopped" or "defect", with the message."""

    kind: str
    message: str = ""


def predecessors(stages: Sequence[str], folder: RunFolder, table: Mapping[str, Any]) -> dict[str, set[str]]:
    """By stage, those of ``stages`` before it that make what it reads.

    Optional stages also wait for the statistics: the analysis, which the report needs, starts as early as in a run
    without them, and the kernels are compiled on the core that is idle until then (:mod:`convergence.cli.warm_up`).
    """
    made = {task.record: name for name in stages for task in table[name].tasks(folder)}
    found = {}
    for at, name in enumerate(stages):
        earlier = set(stages[:at])
        reads = {made[task.record] for task in table[name].reads(folder) if task.record in made}
        if table[name].optional:
            reads.add("statistics")
        found[name] = earlier if name == SHOWS_ALL_RESULTS else reads & earlier
    return found


def run_side_by_side(
    stages: Sequence[str], before: Mapping[str, set[str]], jobs: int, work: Callable[..., None], *arguments: Any
) -> None:
    """Call ``work(stage, *arguments)`` for every stage in a separate process, at most ``jobs`` at a time.

    Earlier ``stages`` start first, and each after those that ``before`` names for it. ``work`` is a function of a
    module; the arguments are passed to the processes. UserError of the first stage that failed, and Stopped if this
    process or a stage was stopped by a signal: the other stages are asked to stop, and resume with the next run.
    """
    context = multiprocessing.get_context("spawn")
    waiting, finished = list(stages), set[str]()
    running: dict[str, tuple[Any, Any]] = {}
    try:
        while waiting or running:
            for name in [name for name in waiting if before[name] <= finished][: jobs - len(running)]:
                waiting.remove(name)
                receiver, sender = context.Pipe(duplex=False)
                allowed = tuple(load_object("convergence.data.user_code:ALLOWED"))
                process = context.Process(target=_child, args=(sender, name, allowed, work, arguments), name=name)
                process.start()
                sender.close()
                running[name] = process, receiver
            multiprocessing.connection.wait([process.sentinel for process, _ in running.values()], timeout=POLL_S)
            signals.check()
            for name in [name for name, (process, _) in running.items() if process.exitcode is not None]:
                process, receiver = running.pop(name)
                _raise_unless_done(name, process.exitcode, receiver)
                finished.add(name)
    finally:
        _stop([process for process, _ in running.values()])


def _raise_unless_done(name: str, exit_code: int, receiver: Any) -> None:
    outcome = receiver.recv() if receiver.poll() else Outcome("defect", f"its process ended with exit code {exit_code}")
    if outcome.kind == "error":
        raise UserError(outcome.message)
    if outcome.kind == "stopped":
        raise signals.Stopped(outcome.message)
    if outcome.kind == "defect":
        raise RuntimeError(f"{name}: {outcome.message}")


def _stop(processes: Sequence[Any]) -> None:
    """Ask processes to stop at the end of their unit of work, and kill those that take too long."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + GRACE_S
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _child(sender: Any, name: str, allowed: Sequence[str], work: Callable[..., None], arguments: Sequence[Any]) -> None:
    """One stage, in its process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all processes; the command asks this one
    put_toolkit_first()
    load_object("convergence.data.user_code:ALLOWED").extend(allowed)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger().handlers[0].addFilter(_Named(name))
    try:
        with signals.stopping_on_signals(), bars(False):
            work(name, *arguments)
        outcome = Outcome("done")
    except UserError as error:
        outcome = Outcome("error", str(error))
    except signals.Stopped as stop:
        outcome = Outcome("stopped", str(stop))
    except Exception as error:
        logger.exception("%s: defect", name)
        outcome = Outcome("defect", repr(error))
    sender.send(outcome)


def _end_with_parent() -> None:
    """End this process at once when the command ends: its leases are gone, and another command may write."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


class _Named(logging.Filter):
    """Puts the name of the stage before the lines of its log that lack it."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if not text.startswith(self._stage):
            record.msg, record.args = f"{self._stage}: {text.strip()}", ()
        return True
