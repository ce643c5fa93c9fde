"""The statistics stage over ranks: partial results are shared among ranks, and one file is written from them.

The order of arithmetic is the same for any number of ranks: ranks only decide who computes an item. The result is
therefore bit-identical for any number of ranks, however they share the items.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from convergence.errors import UserError
from convergence.io.files import file_sha256, put_in_place
from convergence.progress import Progress
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped, is_stopping
from convergence.statistics.schema import ALL_TRAINING_IMAGES, UNKNOWN
from hpc.claims import Claims
from hpc.comm import Communicator, errors_shared, owned
from hpc.hdf5_writers import write_blocks

if TYPE_CHECKING:
    from convergence.statistics.partial_results import PartialResults
    from convergence.statistics.passes import Pass

logger = logging.getLogger(__name__)


def statistics(folder: RunFolder, comm: Communicator) -> None:
    """Run all passes over the images and write ``statistics.h5``; the nets must be trained.

    Raises
    ------
    UserError
        on every rank, with the messages of the ranks that failed.
    Stopped
        on every rank, after a signal to one of them.
    """
    from convergence.statistics.activation_source import open_source
    from convergence.statistics.partial_results import PartialResults
    from convergence.statistics.passes import StatisticsPasses
    from convergence.statistics.threads import limited, worthwhile_threads
    from convergence.statistics.writer import StatisticsWriter

    experiment, work = folder.experiment, folder.statistics_task()
    partial = PartialResults(work.scratch[0], work.digest)
    with threadpool_limits(experiment.statistics.threads):
        folders = {net.name: folder.net_folder(net) for net in experiment.all_nets()}
        source = open_source(experiment, folders, *comm.on_this_machine())
        with errors_shared(comm):
            if comm.rank == 0:
                partial.prepare()
                source.prepare(partial.folder)
        with errors_shared(comm):
            source.prepare(partial.folder)
        passes = StatisticsPasses(source, experiment.statistics, partial)
        with limited(worthwhile_threads(experiment.statistics, source.joined.values())):
            for step in passes:
                _share(step, partial, comm)
        sums = passes.assembly
        writer = StatisticsWriter(partial.folder / "statistics.h5", {name: sums.matrices(name) for name in sums.joined})
        if comm.rank == 0:
            writer.check_space(
                len(sums.subset),
                folder.path,
                "Make room, or choose another place with --runs; finished groups are kept",
            )
            nets = [_describe(folder, net) for net in experiment.all_nets() if net.name in source.nets]
            header = sums.header(work.digest, experiment.model_dump_json(indent=1), source.images.manifest_hash(), nets)
            writer.create(header, (sums.sums(name).record() for name in sums.joined))
        comm.barrier()
        digests = write_blocks(writer.path, writer.blocks(), writer.block, comm)
        partial.close()
        if comm.rank == 0:
            writer.seal(digests)
            put_in_place(writer.path, folder.statistics_file)
        comm.barrier()


def _share(step: Pass, partial: PartialResults, comm: Communicator) -> None:
    """Compute the missing items of a pass, each on the rank that claims it."""
    sizes = {step.name(item): step.size(item) for item in step.items}
    names = list(sizes)
    own = owned(len(names), comm.rank, comm.size)
    claims = Claims(partial.folder / "claims" / step.what.replace(" ", "-"), comm.rank, comm.size)
    with errors_shared(comm):
        if comm.rank == 0:
            claims.prepare()
        n_done = sum(partial.is_done(names[k]) for k in own)
        if n_done and comm.rank == 0:
            logger.info("%s: %d of %d found on disk", step.what, n_done, len(own))
    with errors_shared(comm), Progress(step.what, len(own), n_done) as progress:
        try:
            for k in claims.take(sizes, lambda name: not partial.exists(name)):
                if is_stopping():
                    claims.end()
                    break
                partial.write(names[k], functools.partial(step.compute, step.items[k]))
                progress.advance(k in own)
        except UserError:
            claims.end()
            raise
    if comm.any(is_stopping()):
        raise Stopped("stopped by a signal")


def _describe(folder: RunFolder, net: Any) -> dict[str, Any]:
    whole = ALL_TRAINING_IMAGES if net.order_seed is not None else UNKNOWN
    known = {
        "name": net.name,
        "label": net.label,
        "seed": net.seed,
        "initialisation": net.initialisation,
        "order_seed": UNKNOWN if net.order_seed is None else net.order_seed,
        "subset_seed": whole if net.subset_seed is None else net.subset_seed,
        "trained": net.trained,
    }
    if net.network is None:
        return known | {"held_out_accuracy": math.nan, "weights_sha256": ""}
    return known | {
        "held_out_accuracy": float(folder.held_out_accuracy(net)),
        "weights_sha256": file_sha256(folder.net_folder(net) / "weights.safetensors"),
    }
