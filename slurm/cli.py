"""The verbs for a cluster: submit, plan, status, logs, cancel, doctor. Modules are imported when a verb runs."""

from __future__ import annotations

import click

from convergence.cli import EXIT_DONE, EXIT_USER, options
from convergence.cli.output import print_json

profile_option = click.option(
    "--cluster", required=True, type=options.FILE, metavar="PROFILE", help="Profile of the site (configs/clusters/)."
)


@click.command()
@options.config_options
@options.code_option
@profile_option
@options.overwrite_option
@click.option("--dry-run", is_flag=True, help="Print the script of every job; submit nothing.")
@options.no_check_option
def submit(
    config: str,
    overrides: tuple[str, ...],
    runs: str,
    cluster: str,
    overwrite: bool,
    dry_run: bool,
    no_check: bool,
) -> None:
    """Submit all unfinished stages as Slurm jobs.

    The run is checked first. Jobs wait for each other. A job that is stopped or fails keeps its finished work; submit
    again to resume.
    """
    from slurm import submit as module

    if not no_check:
        module.check(config, overrides, runs, cluster, keep=not dry_run)
    act = module.dry_run if dry_run else module.submit
    print(act(config, overrides, runs, cluster, overwrite))


@click.command()
@options.config_options
@options.code_option
@profile_option
@options.json_option
def plan(config: str, overrides: tuple[str, ...], runs: str, cluster: str, as_json: bool) -> None:
    """Show the jobs, times and disk space of a submission.

    Nothing is submitted.
    """
    from slurm.estimate import estimate_run, render

    estimate = estimate_run(config, overrides, runs, cluster)
    print_json("plan", estimate) if as_json else print(render(estimate))


@click.command()
@options.run_argument
@options.runs_option
@options.json_option
def status(run: str, runs: str, as_json: bool) -> None:
    """Show which stages are done, running, waiting or failed, and why.

    RUN is a config or a run folder.
    """
    from slurm.status import render, run_status

    found = run_status(run, runs)
    print_json("status", found) if as_json else print(render(found))


@click.command()
@options.run_argument
@options.runs_option
@click.option(
    "--job", "jobs", multiple=True, metavar="NAME", help="Only this job (net1, train, statistics, …); repeatable."
)
@click.option("--follow", is_flag=True, help="Print new lines until the jobs end.")
@click.option("--lines", type=options.NUMBER, default=20, show_default=True, metavar="N", help="Last lines of a job.")
def logs(run: str, runs: str, jobs: tuple[str, ...], follow: bool, lines: int) -> None:
    """Print the last lines of the output of each job.

    RUN is a config or a run folder.
    """
    from slurm import status as module

    if not follow:
        print(module.logs(run, runs, jobs, lines))
        return
    for line in module.follow(run, runs, jobs, lines):
        print(line, flush=True)


@click.command()
@options.run_argument
@options.runs_option
def cancel(run: str, runs: str) -> None:
    """Cancel the jobs of a run; keep finished work.

    RUN is a config or a run folder.
    """
    from slurm.submit import cancel as cancel_jobs

    print(cancel_jobs(run, runs))


@click.command()
@click.argument("config", type=options.PATH, required=False)
@options.set_option
@options.runs_option
@options.code_option
@click.option("--cluster", type=options.FILE, metavar="PROFILE", help="Check the containers of this profile, too.")
@options.json_option
def doctor(config: str | None, overrides: tuple[str, ...], runs: str, cluster: str | None, as_json: bool) -> int:
    """Check this machine for faults and print remedies.

    The exit code is 2 if there is a fault. Under srun or mpiexec, the launcher and the ports between ranks are checked,
    too. With a CONFIG, the run is checked on this machine as by `convergence check`.
    """
    from slurm.doctor import diagnose, render

    diagnosis = diagnose(runs, cluster, config, overrides)
    if as_json:
        print_json("doctor", diagnosis)
    elif diagnosis.findings:
        print(render(diagnosis))
    return EXIT_DONE if diagnosis.sound else EXIT_USER
