"""The statistics stage over ranks: groups and tiles are handed out, the files that they leave are put together.

One process does the same work in the same order of arithmetic, so the result has the same bits for any number of
ranks: a rank only decides *which* groups it computes.
"""

from __future__ import annotations

import functools
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from convergence.errors import SharedError, UserError
from convergence.io.files import file_sha256, put_in_place, remove_leftovers
from convergence.progress import Progress
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped, is_stopping
from hpc.comm import Communicator
from hpc.ownership import owned
from hpc.writers import write_blocks

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


def statistics(folder: RunFolder, comm: Communicator) -> None:
    """Both passes and the assembly of ``statistics.h5``; nets must be trained.

    Raises
    ------
    UserError
        on every rank, with the messages of the ranks that failed.
    """
    from convergence.statistics.collect import Collector
    from convergence.statistics.file import block, blocks, prepare, seal

    experiment = folder.experiment
    config = experiment.statistics
    with threadpool_limits(config.threads):
        images, joiner = _open_source(folder)
        work = folder.statistics_task()
        (partial,) = work.scratch
        if comm.rank == 0:
            partial.mkdir(parents=True, exist_ok=True)
            remove_leftovers(partial)
        comm.barrier()
        collector = Collector(config, images, joiner, partial, work.digest)

        shift = collector.shift()
        groups = list(range(len(collector.groups)))
        _share(
            comm, "pass 1, moments", groups, collector.moments_path, collector.is_done,
            lambda group: collector.moments(group, shift),
        )  # fmt: skip
        if config.mutual_information.enabled:
            edges = collector.edges()
            _share(
                comm, "pass 2, bins", groups, collector.codes_path, collector.is_done,
                lambda group: collector.codes(group, edges),
            )  # fmt: skip
            _share(
                comm, "pass 2, mutual information", collector.tiles(),
                lambda tile: collector.information_path(*tile), collector.is_done,
                lambda tile: collector.information(*tile),
            )  # fmt: skip
        assembly = partial / "statistics.h5"
        if comm.rank == 0:
            _check_space(collector, folder.path)
            nets = [_describe(folder, net) for net in experiment.all_nets() if net.name in joiner.nets]
            prepare(collector, assembly, nets, experiment.model_dump_json(indent=1))
        comm.barrier()
        digests = write_blocks(assembly, blocks(collector), functools.partial(block, collector), comm)
        if comm.rank == 0:
            seal(assembly, digests)
            put_in_place(assembly, folder.statistics_file)
        comm.barrier()


def _open_source(folder: RunFolder) -> tuple[Any, Any]:
    """The evaluation images, and what yields samples for them: trained nets, or activations that are there already."""
    experiment = folder.experiment
    if experiment.activations is not None:
        from convergence.statistics.array_joiner import ArrayJoiner

        arrays = ArrayJoiner(experiment)
        return arrays.images, arrays
    from convergence.networks.devices import reproducible_arithmetic
    from convergence.statistics.net_joiner import NetJoiner

    reproducible_arithmetic(experiment.statistics.threads)
    splits = experiment.images.load()
    images = splits.test if experiment.statistics.split == "test" else splits.train
    folders = {net.name: folder.net_folder(net) for net in experiment.all_nets()}
    return images, NetJoiner.from_folders(experiment, folders, images)


def _share(
    comm: Communicator,
    what: str,
    items: Sequence[Item],
    path: Callable[[Item], Path],
    is_done: Callable[[Path], bool],
    compute: Callable[[Item], None],
) -> None:
    """Compute the items of this rank that are not on disk yet; all ranks leave together, or fail together."""
    message = None
    try:
        mine = [items[i] for i in owned(len(items), comm.rank, comm.size)]
        missing = [item for item in mine if not is_done(path(item))]
        if len(missing) < len(mine) and comm.rank == 0:
            logger.info("%s: %d of %d found on disk", what, len(mine) - len(missing), len(mine))
        with Progress(what, len(mine), len(mine) - len(missing)) as progress:
            for item in missing:
                if is_stopping():
                    break
                compute(item)
                progress.advance()
    except UserError as error:
        message = str(error)
    errors = comm.gather_errors(message)
    if errors:
        raise SharedError("\n".join(errors))
    if comm.any(is_stopping()):
        raise Stopped("stopped by a signal")


def _describe(folder: RunFolder, net: Any) -> dict[str, Any]:
    known = {"name": net.name, "label": net.label, "seed": net.seed, "trained": net.trained}
    if net.network is None:
        return known | {"held_out_accuracy": math.nan, "weights_sha256": ""}
    place = folder.net_folder(net)
    return known | {
        "held_out_accuracy": float(folder.held_out_accuracy(net)),
        "weights_sha256": file_sha256(place / "weights.safetensors"),
    }


def _check_space(collector: Any, path: Path) -> None:
    """Refuse to begin a file that cannot be finished: its size is known beforehand."""
    needed = sum(8 * math.prod(shape) for name in collector.joined for shape in collector.matrices(name).values())
    needed += sum(4 * len(collector.subset) * joined.n_units for joined in collector.joined.values())
    free = shutil.disk_usage(path).free
    if needed > free:
        raise UserError(
            f"{path}: statistics.h5 needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. Make room, or "
            "choose another place with --runs; finished groups are kept."
        )
