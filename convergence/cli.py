"""The ``convergence`` command: stages are verbs on a config, everything else is imported when it is used.

Exit codes: 0 done, 1 a defect of the toolkit (with its traceback), 2 something the user can mend (one paragraph),
75 stopped by SIGTERM or SIGUSR2 with everything kept (start it again), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convergence.command_line import CLUSTER_VERBS, build_parser

if TYPE_CHECKING:
    from convergence.config.schema import Experiment

EXIT_DONE, EXIT_DEFECT, EXIT_USER, EXIT_AGAIN, EXIT_INTERRUPTED = 0, 1, 2, 75, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    from convergence.errors import UserError
    from convergence.runs.signals import Stopped

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return _dispatch(options)
    except UserError as error:
        print(f"convergence: {error}", file=sys.stderr)
        return EXIT_USER
    except Stopped as stop:
        print(f"convergence: {stop}; the same command goes on where this one stopped", file=sys.stderr)
        return EXIT_AGAIN
    except KeyboardInterrupt:
        print("convergence: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        from convergence.io.files import full, is_full

        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a closed pipe (| head) is not an error
            return EXIT_DONE
        if not is_full(error):
            raise
        print(f"convergence: {full(Path(error.filename or getattr(options, 'runs', '.')), error)}", file=sys.stderr)
        return EXIT_USER


def _dispatch(options: argparse.Namespace) -> int:
    if options.verb == "paper":
        return _paper(options)
    if options.verb == "figures":
        return _figures(options)
    if options.verb == "compare":
        from convergence.report.comparison import compare_runs

        print(compare_runs(options.run, options.other, options.runs, options.out).resolve())
        return EXIT_DONE
    if options.verb in CLUSTER_VERBS:
        from convergence.registry import load_object as load

        code: int = load("slurm.verbs:run")(options)
        return code
    if options.verb in ("slice", "fetch"):
        from convergence import transfer

        print(getattr(transfer, options.verb)(options))
        return EXIT_DONE
    from convergence.downloaded import command, is_results_file

    if is_results_file(options.config):
        command(options, _executors(options) if options.verb in ("run", "analyze") else None)
        return EXIT_DONE
    _refuse_file_options(options)
    from convergence.config.load import read_config
    from convergence.errors import UserError
    from convergence.registry import load_object
    from convergence.runs.run_folder import RunFolder
    from convergence.runs.signals import Stopped, stopping_on_signals
    from convergence.runs.stages import STAGES, Options, run_stages

    overrides = [*options.overrides]
    if getattr(options, "compare", None):
        overrides.append(f"report.compare={json.dumps(options.compare)}")
    experiment = read_config(options.config, overrides)
    folder = RunFolder(Path(options.runs) / experiment.name, experiment)
    if options.verb == "show":
        print(load_object("convergence.show:describe")(folder))
        return EXIT_DONE
    comm = _communicator(options.verb, experiment)
    if comm.rank > 0:
        logging.getLogger().setLevel(logging.WARNING)
    stages = STAGES if options.verb == "run" else (options.verb,)
    if getattr(options, "averaging", False):
        if options.nets:
            raise UserError("--net chooses among the nets of the config, and --averaging trains none of them.")
        stages = ("average",)
    choices = Options(
        overwrite=getattr(options, "overwrite", False),
        executors=_executors(options) if options.verb in ("run", "analyze") else None,
        nets=tuple(getattr(options, "nets", ())),
        single_file=getattr(options, "single_file", False),
    )
    packed: list[Path] = []
    try:
        with stopping_on_signals():
            if options.verb == "pack":
                out = Path(options.out or folder.path / "packed")
                packed = load_object("hpc.pack:pack")(experiment, out, comm)
            else:
                run_stages(stages, folder, choices, comm)
    except Exception as error:
        everywhere = isinstance(error, Stopped) or (isinstance(error, UserError) and error.on_all_ranks)
        if comm.size > 1 and not everywhere:
            comm.abort(error, EXIT_USER if isinstance(error, UserError) else EXIT_DEFECT)
        if comm.rank > 0:
            return EXIT_AGAIN if isinstance(error, Stopped) else EXIT_USER
        raise
    finally:
        if hasattr(comm, "close"):
            comm.close()
    if comm.rank == 0:
        for path in packed:
            print(path.resolve())
    if comm.rank == 0 and "report" in stages:
        print(folder.report_page.resolve())
    return EXIT_DONE


def _executors(options: argparse.Namespace) -> Any:
    """What starts the workers of the analysis."""
    from convergence.registry import load_object

    workers = load_object("hpc.dask_executor:Workers")(
        options.workers, options.threads, options.memory, options.lifetime, options.dashboard
    )
    if options.cluster:
        return load_object("slurm.dask_workers:executors")(workers, options.cluster, options.runs)
    return load_object("hpc.dask_executor:executors")(workers)


def _refuse_file_options(options: argparse.Namespace) -> None:
    """Options that mean nothing with a config."""
    from convergence.errors import UserError

    given = {"--comparison": "comparisons", "--analysis": "analysis", "--verify": "verify"}
    given |= {"--out": "out"} if options.verb in ("analyze", "report") else {}
    for option, name in given.items():
        if getattr(options, name, None):
            raise UserError(
                f"{option} goes with a file of sums in the place of the config, as in: statistics.h5 {option}."
            )


def _communicator(verb: str, experiment: Experiment) -> Any:
    """What runs nets on a device speaks to its other processes through torch, everything else through MPI."""
    from convergence.errors import UserError
    from convergence.registry import load_object
    from convergence.runs.stages import SHARED

    torchrun = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if verb in SHARED and (torchrun or os.environ.get("SLURM_NTASKS", "1") != "1"):
        place = load_object("convergence.training.process_group:launched")()
        if place is not None:
            settings = experiment.training if verb == "train" else experiment.functional
            return load_object("convergence.training.process_group:ProcessGroup").of(place, settings.device)
    if torchrun and verb not in SHARED:
        raise UserError(
            f"{os.environ['WORLD_SIZE']} processes were launched for torch, and training and experiments on nets alone "
            f"use them: run `convergence {verb}` without torchrun."
        )
    return load_object("hpc.comm:world")()


def _figures(options: argparse.Namespace) -> int:
    from convergence.figures.export import export

    pair = tuple(options.pair) if options.pair else None
    written = export(
        options.run, options.runs, options.formats or ["pdf"], options.width, options.points, options.layers,
        options.figures, pair, not options.no_titles, options.out,
    )  # fmt: skip
    print(*(path for path in written if path.suffix != ".csv"), sep="\n")
    return EXIT_DONE


def _paper(options: argparse.Namespace) -> int:
    from convergence.paper.run import paper

    pair = tuple(options.pair) if options.pair else None
    print(paper(options.run, options.runs, pair, options.steps, options.out))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
