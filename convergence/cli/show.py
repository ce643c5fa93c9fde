"""``convergence show``: a description of a run or a results file, as text or JSON."""

from __future__ import annotations

from pathlib import Path

import click

from convergence.cli import options
from convergence.cli.output import print_json
from convergence.cli.stages import refuse_file_options, refuse_runs


@click.command()
@options.config_options
@options.code_option
@click.option("--verify", is_flag=True, help="Of a results file: compare every dataset with its checksum.")
@options.json_option
def show(config: str, overrides: tuple[str, ...], runs: str, verify: bool, as_json: bool) -> None:
    """Show settings, sizes and the state of every stage.

    CONFIG may be a statistics.h5 or an analysis.h5: then show the content of the file. Nothing is computed.
    """
    from convergence.analysis.standalone import is_results_file

    if is_results_file(config):
        from convergence.cli.file_description import StatisticsDescription, describe_file, file_text

        refuse_runs(runs)
        found = describe_file(Path(config), verify, overrides)
        kind = "statistics" if isinstance(found, StatisticsDescription) else "analysis"
        print_json(kind, found) if as_json else print(file_text(found))
        return
    refuse_file_options({"--verify": verify})
    from convergence.cli.run_description import describe_run, run_text
    from convergence.config.load import read_config
    from convergence.runs.run_folder import RunFolder

    experiment = read_config(config, overrides)
    run = describe_run(RunFolder(Path(runs) / experiment.name, experiment))
    print_json("run", run) if as_json else print(run_text(run))
