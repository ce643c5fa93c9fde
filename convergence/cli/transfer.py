"""``convergence fetch``, ``subset`` and ``pack``: files that move between machines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from convergence.cli import options

logger = logging.getLogger(__name__)


@click.command()
@click.argument("run", metavar="[HOST:]RUN")
@click.argument("dest", required=False, type=options.FOLDER)
@options.comparisons_option("Fetch the sums of this comparison only, cut out on HOST by `convergence subset`")
@click.option("--nets", is_flag=True, help="Fetch the weights of the nets, too.")
@click.option("--pictures", is_flag=True, help="Fetch the pictures of units, too.")
@click.option("--functional", is_flag=True, help="Fetch the results of stitch, merge, … and their nets, too.")
@click.option("--ssh", default="ssh", show_default=True, metavar="COMMAND", help='For example "ssh -p 2222".')
@click.option(
    "--remote-command",
    default="convergence",
    show_default=True,
    metavar="COMMAND",
    help="The toolkit on HOST, for example /path/to/.venv/bin/convergence.",
)
def fetch(run: str, dest: str | None, **choices: Any) -> None:
    """Copy the results of a run from another machine.

    Copies by ssh and rsync to DEST (default: the name of the run), resumes an interrupted transfer, and verifies
    checksums. HOST is as ssh takes it; without HOST, RUN is a folder on this machine.
    """
    from convergence.transfer.fetch import fetch as fetch_run

    print(fetch_run(run, dest, **choices).resolve())


@click.command()
@click.argument("source", metavar="STATISTICS.h5", type=options.PATH)
@click.argument("target", metavar="OUT.h5", type=options.FILE)
@options.comparisons_option("Keep this comparison (default: all)")
@click.option("--net", "nets", multiple=True, metavar="NAME", help="Keep this net (default: all); repeatable.")
@click.option("--groups", metavar="0-7", help="Keep these image groups.  [default: all]")
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5 if it exists with other content.")
def subset(
    source: str, target: str, comparisons: tuple[str, ...], nets: tuple[str, ...], groups: str | None, overwrite: bool
) -> None:
    """Write a smaller statistics file with some comparisons, nets or image groups.

    Every number in OUT.h5 is that of the whole file for the same units and images.
    """
    from convergence.analysis.standalone import statistics_path
    from convergence.statistics.subset import Selection, parse_groups, subset_statistics

    selection = Selection(comparisons, nets, parse_groups(groups) if groups is not None else ())
    if not subset_statistics(statistics_path(source), Path(target), selection, overwrite):
        logger.info("subset: skipped, %s exists with the same content", target)
    print(Path(target).resolve())


@click.command()
@options.config_options
@click.option("--out", type=options.FOLDER, metavar="DIR", help="Folder to write.  [default: runs/NAME/packed]")
@options.sharing_options
def pack(config: str, overrides: tuple[str, ...], runs: str, out: str | None, wait: bool, take_over: bool) -> int:
    """Pack an image folder into one HDF5 file per split.

    Packed files are read faster than folders of many images. mpiexec or srun spreads the work over ranks.
    """
    from convergence.cli.launch import on_ranks
    from convergence.cli.stages import refuse_results_file
    from convergence.config.load import read_config
    from convergence.io.files import check_writable
    from convergence.registry import load_object
    from convergence.runs.run_folder import RunFolder
    from convergence.runs.run_lock import Claim, holding
    from convergence.runs.tasks import StageTask

    refuse_results_file("pack", config)
    experiment = read_config(config, overrides)
    run = RunFolder(Path(runs) / experiment.name, experiment)
    folder = Path(out) if out is not None else run.path / "packed"

    task = StageTask("pack", (folder,), folder / "pack", {})
    remedy = "Choose another place with --out"

    def act(comm: Any) -> None:
        if comm.rank == 0:
            check_writable(folder, remedy)
        with holding(Claim(folder, (task,), (), wait, take_over, remedy), comm):
            packed = load_object("hpc.pack:pack")(run, folder, comm)
        if comm.rank == 0:
            for path in packed:
                print(path.resolve())

    return on_ranks("pack", experiment, act)
