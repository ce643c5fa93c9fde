"""The verbs of the command that speak to a cluster; each prints its text and returns an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable

EXIT_DONE, EXIT_USER = 0, 2


def submit(options: argparse.Namespace) -> int:
    """Submit what is missing, or show the jobs."""
    from slurm import submit as module

    act = module.dry_run if options.dry_run else module.submit
    print(act(options.config, options.overrides, options.runs, options.cluster, options.overwrite))
    return EXIT_DONE


def plan(options: argparse.Namespace) -> int:
    """What a submission would take."""
    from slurm.plan import plan as describe

    print(describe(options.config, options.overrides, options.runs, options.cluster))
    return EXIT_DONE


def status(options: argparse.Namespace) -> int:
    """Where every stage stands."""
    from slurm.status import status as describe

    print(describe(options.run, options.runs))
    return EXIT_DONE


def logs(options: argparse.Namespace) -> int:
    """What jobs printed."""
    from slurm.logs import follow
    from slurm.logs import logs as read

    if options.follow:
        for line in follow(options.run, options.runs, options.pieces, options.lines):
            print(line, flush=True)
        return EXIT_DONE
    print(read(options.run, options.runs, options.pieces, options.lines))
    return EXIT_DONE


def cancel(options: argparse.Namespace) -> int:
    """End the jobs of a run."""
    from slurm.logs import cancel as end

    print(end(options.run, options.runs))
    return EXIT_DONE


def doctor(options: argparse.Namespace) -> int:
    """Whether this machine can carry a run."""
    from slurm.doctor import doctor as examine

    text, sound = examine(options.runs)
    if text:
        print(text)
    return EXIT_DONE if sound else EXIT_USER


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "submit": submit,
    "plan": plan,
    "status": status,
    "logs": logs,
    "cancel": cancel,
    "doctor": doctor,
}


def run(options: argparse.Namespace) -> int:
    """Do what the command line says."""
    return VERBS[options.verb](options)
