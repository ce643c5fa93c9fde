"""``convergence check``: find what would fail late, before a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convergence.cli import EXIT_DONE, EXIT_USER, options
from convergence.cli.output import print_json
from convergence.cli.stages import refuse_results_file

if TYPE_CHECKING:
    from convergence.checks.run import CheckedRun


@click.command()
@options.config_options
@options.code_option
@options.json_option
def check(config: str, overrides: tuple[str, ...], runs: str, as_json: bool) -> int:
    """Check nets, layers, images and resources of a config in seconds.

    Every net is built and run on a few images, and takes a step of training; nothing is trained. The exit code is 2 if
    there is a fault. `run`, `train`, `statistics` and `submit` make the same checks before they start.
    """
    from convergence.checks.run import check_run, stages_ahead
    from convergence.cli.launch import check_code
    from convergence.config.load import read_config
    from convergence.runs.run_folder import RunFolder

    refuse_results_file("check", config)
    experiment = read_config(config, overrides)
    check_code(experiment)
    folder = RunFolder(Path(runs) / experiment.name, experiment)
    found = check_run(folder, stages_ahead(folder))
    print_json("check", found) if as_json else print(check_text(found))
    return EXIT_DONE if found.sound else EXIT_USER


def check_text(run: CheckedRun) -> str:
    """The outcome as text: findings, then estimates."""
    from convergence.checks.findings import findings_text
    from convergence.checks.needs import needs_text

    if not run.checks:
        return f"{run.experiment}: all stages are done for these settings"
    levels = [finding.level for finding in run.findings]
    counts = [f"{levels.count(level)} {level}{'s' * (levels.count(level) != 1)}" for level in ("fault", "warning")]
    lines = [f"{run.experiment}: {', '.join(counts)}; checked: {', '.join(run.checks)}"]
    return "\n".join([*lines, *findings_text(run.findings), *needs_text(run.needs, "for this machine")])
