"""``convergence run`` and the stages: each verb runs one stage of a config, or of a statistics file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from convergence.cli import options
from convergence.errors import UserError


@click.command()
@options.config_options
@options.code_option
@options.overwrite_option
@options.sharing_options
@options.single_file_option
@options.no_check_option
@options.jobs_option
@options.worker_options
def run(
    config: str,
    overrides: tuple[str, ...],
    runs: str,
    overwrite: bool,
    wait: bool,
    take_over: bool,
    single_file: bool,
    no_check: bool,
    jobs: int,
    **workers: Any,
) -> int:
    """Run all stages and print the path of the report.

    Stages that the config does not enable are left out, and finished stages are skipped. The stages ahead are checked
    first. CONFIG may be a statistics.h5: then the file is analyzed and reported.
    """
    from convergence.analysis import standalone
    from convergence.cli.launch import analysis_executors, refuse_ranks
    from convergence.cli.warm_up import compiling_kernels
    from convergence.runs.signals import stopping_on_signals
    from convergence.runs.stages import STAGES

    executors = analysis_executors(runs, **workers)
    choices: dict[str, Any] = {"overwrite": overwrite, "wait": wait, "take_over": take_over}
    if standalone.is_results_file(config):
        refuse_ranks("run")
        refuse_runs(runs)
        with stopping_on_signals():
            standalone.analyze_file(config, overrides, executors=executors, **choices)
            print(standalone.report_file(config, overrides, **choices).resolve())
        return 0
    choices |= {"executors": executors, "single_file": single_file, "check": not no_check, "jobs": jobs}
    with compiling_kernels():
        return _run(STAGES, config, overrides, runs, **choices)


@click.command()
@options.config_options
@options.code_option
@options.overwrite_option
@options.sharing_options
@click.option("--net", "nets", multiple=True, metavar="NAME", help="Train this net only; repeatable.")
@options.no_check_option
def train(
    config: str, overrides: tuple[str, ...], runs: str, nets: tuple[str, ...], no_check: bool, **choices: bool
) -> int:
    """Train the nets of a config, one for each seed.

    Writes runs/NAME/nets/. torchrun or srun spreads a net over several processes; an interrupted training resumes from
    its last checkpoint. The stages ahead are checked first.
    """
    return _run(("train",), config, overrides, runs, nets=nets, check=not no_check, **choices)


def _stage(name: str, about: str) -> click.Command:
    """The verb of a stage that has no options of its own."""

    @click.command(name, help=about)
    @options.config_options
    @options.code_option
    @options.overwrite_option
    @options.sharing_options
    def verb(config: str, overrides: tuple[str, ...], runs: str, **choices: bool) -> int:
        return _run((name,), config, overrides, runs, **choices)

    return verb


@click.command()
@options.config_options
@options.code_option
@options.overwrite_option
@options.sharing_options
@options.no_check_option
def statistics(config: str, overrides: tuple[str, ...], runs: str, no_check: bool, **choices: bool) -> int:
    """Sum activations over the evaluation images.

    Writes runs/NAME/statistics.h5, which is all that the analysis reads. mpiexec or srun spreads the image groups over
    ranks; the file has the same bits for any number of ranks. The stages ahead are checked first.
    """
    return _run(("statistics",), config, overrides, runs, check=not no_check, **choices)


@click.command()
@options.config_options
@options.overwrite_option
@options.sharing_options
@click.option("--out", type=options.FILE, metavar="FILE", help="Of a statistics.h5: the analysis to write.")
@options.comparisons_option("Of a statistics.h5: analyze this comparison only")
@options.worker_options
def analyze(
    config: str,
    overrides: tuple[str, ...],
    runs: str,
    overwrite: bool,
    wait: bool,
    take_over: bool,
    out: str | None,
    comparisons: tuple[str, ...],
    **workers: Any,
) -> int:
    """Compute alignments, clusters and similarity measures.

    Writes runs/NAME/analysis.h5, or analysis.h5 beside the file if CONFIG is a statistics.h5.
    """
    from convergence.analysis import standalone
    from convergence.cli.launch import analysis_executors, refuse_ranks
    from convergence.runs.signals import stopping_on_signals

    executors = analysis_executors(runs, **workers)
    if standalone.is_results_file(config):
        refuse_ranks("analyze")
        refuse_runs(runs)
        with stopping_on_signals():
            found = standalone.analyze_file(
                config, overrides, comparisons, out, executors, overwrite, wait=wait, take_over=take_over
            )
        print(found.resolve())
        return 0
    refuse_file_options({"--out": out, "--comparison": comparisons})
    choices = {"overwrite": overwrite, "wait": wait, "take_over": take_over}
    return _run(("analyze",), config, overrides, runs, executors=executors, **choices)


pictures = _stage(
    "pictures",
    """Make pictures of units.

    Writes runs/NAME/pictures.h5: patches with the strongest responses, deconvolutions, images that maximize a unit, and
    filters of the first layer.""",
)
stitch = _stage(
    "stitch",
    """Replace a layer of one net by a mapping from another net.

    Writes runs/NAME/functional/stitch.h5: accuracy with mappings of several kinds, beside controls.""",
)
merge = _stage(
    "merge",
    """Interpolate and average the weights of nets.

    Writes runs/NAME/functional/merge.h5: loss between nets, before and after alignment of their units.""",
)
compress = _stage(
    "compress",
    """Prune redundant units and report the accuracy.

    Writes runs/NAME/functional/compress.h5: pruned units are predicted from the units that remain.""",
)
ensemble = _stage(
    "ensemble",
    """Evaluate ensembles of nets, with shared and separate layers.

    Writes runs/NAME/functional/ensemble.h5.""",
)
average = _stage(
    "average",
    """Train workers separately and average their weights at intervals.

    Writes runs/NAME/functional/average.h5: local SGD with and without alignment of units. torchrun or srun spreads the
    workers over processes.""",
)


@click.command()
@options.config_options
@options.overwrite_option
@options.sharing_options
@options.single_file_option
@click.option("--compare", type=options.FOLDER, metavar="RUN", help="Add a page that compares the run with this one.")
@click.option("--out", type=options.FOLDER, metavar="DIR", help="Of a statistics.h5: the folder to write.")
@click.option("--analysis", type=options.FILE, metavar="FILE", help="Of a statistics.h5: its analysis.")
def report(
    config: str,
    overrides: tuple[str, ...],
    runs: str,
    single_file: bool,
    compare: str | None,
    out: str | None,
    analysis: str | None,
    **choices: bool,
) -> int:
    """Draw the figures, write the report and print its path.

    Writes runs/NAME/report/, or report/ beside the file if CONFIG is a statistics.h5.
    """
    from convergence.analysis import standalone
    from convergence.cli.launch import refuse_ranks
    from convergence.runs.signals import stopping_on_signals

    if standalone.is_results_file(config):
        refuse_ranks("report")
        refuse_runs(runs)
        with stopping_on_signals():
            print(standalone.report_file(config, overrides, analysis, out, **choices).resolve())
        return 0
    refuse_file_options({"--out": out, "--analysis": analysis})
    if compare is not None:
        overrides = (*overrides, f"report.compare={json.dumps(compare)}")
    return _run(("report",), config, overrides, runs, single_file=single_file, **choices)


def refuse_file_options(given: dict[str, Any]) -> None:
    """Raise UserError for an option that applies to a results file and was given with a config."""
    for option, value in given.items():
        if value:
            raise UserError(
                f"{option} applies to a results file, and a config was given. Give a statistics.h5 in place of the "
                f"config, or leave {option} out."
            )


def refuse_results_file(verb: str, config: str) -> None:
    """Raise UserError for a results file given to a verb that needs a config."""
    from convergence.analysis.standalone import is_results_file

    if is_results_file(config):
        raise UserError(
            f"{config}: `convergence {verb}` needs a config (a .toml file), and this is a results file. The verbs for "
            "results files are show, analyze, report and run."
        )


def refuse_runs(runs: str) -> None:
    """Raise UserError for ``--runs`` given with a results file."""
    if runs != "runs":
        raise UserError(
            f"--runs {runs}: a results file has no folder of runs; its results are written beside it. Use --out."
        )


def _run(stages: Sequence[str], config: str, overrides: Sequence[str], runs: str, **choices: Any) -> int:
    """Run stages of a config; print the path of the report if it is among them."""
    from convergence.cli.launch import check_code, on_ranks
    from convergence.config.load import read_config
    from convergence.runs.run_folder import RunFolder
    from convergence.runs.run_stages import run_stages
    from convergence.runs.stages import Options

    verb = stages[0] if len(stages) == 1 else "run"
    refuse_results_file(verb, config)
    experiment = read_config(config, overrides)
    if set(stages) - {"analyze", "report"}:
        check_code(experiment)
    folder = RunFolder(Path(runs) / experiment.name, experiment)

    def act(comm: Any) -> None:
        run_stages(tuple(stages), folder, Options(**choices), comm)
        if comm.rank == 0 and "report" in stages:
            print(folder.report_page.resolve())

    return on_ranks(verb, experiment, act)
