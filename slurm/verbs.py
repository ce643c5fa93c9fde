"""The verbs of the command that speak to a cluster; each prints its text and returns an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable

EXIT_DONE, EXIT_USER = 0, 2


def submit(options: argparse.Namespace) -> int:
    """Submit unfinished stages, or print the scripts of the jobs."""
    from slurm import submit as module

    act = module.dry_run if options.dry_run else module.submit
    print(act(options.config, options.overrides, options.runs, options.cluster, options.overwrite))
    return EXIT_DONE


def plan(options: argparse.Namespace) -> int:
    """Print the resources of a submission."""
    from slurm.estimate import estimate_run, render

    print(render(estimate_run(options.config, options.overrides, options.runs, options.cluster)))
    return EXIT_DONE


def status(options: argparse.Namespace) -> int:
    """Print the state of every task."""
    from slurm.status import render, run_status

    print(render(run_status(options.run, options.runs)))
    return EXIT_DONE


def logs(options: argparse.Namespace) -> int:
    """Print the output of jobs."""
    from slurm.status import follow
    from slurm.status import logs as read

    if options.follow:
        for line in follow(options.run, options.runs, options.jobs, options.lines):
            print(line, flush=True)
        return EXIT_DONE
    print(read(options.run, options.runs, options.jobs, options.lines))
    return EXIT_DONE


def cancel(options: argparse.Namespace) -> int:
    """Cancel the jobs of a run."""
    from slurm.submit import cancel as act

    print(act(options.run, options.runs))
    return EXIT_DONE


def doctor(options: argparse.Namespace) -> int:
    """Check this machine."""
    from slurm.doctor import diagnose, render

    diagnosis = diagnose(options.runs)
    if diagnosis.findings:
        print(render(diagnosis))
    return EXIT_DONE if diagnosis.sound else EXIT_USER


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "submit": submit,
    "plan": plan,
    "status": status,
    "logs": logs,
    "cancel": cancel,
    "doctor": doctor,
}


def run(options: argparse.Namespace) -> int:
    """Run the verb of the command line."""
    return VERBS[options.verb](options)
