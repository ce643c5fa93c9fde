"""The stages of a comparison in this process: sums of live nets to statistics.h5, and its analysis beside it.

The passes, the order of arithmetic and the files are those of the stages of a run, so the numbers are the same bit by
bit. A kept file has a record: the same nets, inputs and settings are not computed again.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from convergence.config.schema import Experiment
from convergence.io.files import put_in_place
from convergence.progress import Progress
from convergence.provenance import STATISTICS_SCHEMA_VERSION
from convergence.registry import load_object
from convergence.runs.tasks import StageTask
from convergence.statistics.activation_source import ActivationSource
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import StatisticsPasses
from convergence.statistics.schema import UNKNOWN
from convergence.statistics.threads import limited, worthwhile_threads
from convergence.statistics.writer import StatisticsWriter

SHARE = 0.25
"""Share of the free memory in which the pilot's maps are kept."""
MOST = 4 << 30
"""Bytes of the pilot's maps that are kept at most."""


def memory_budget() -> int:
    """Bytes of the pilot's maps to keep."""
    return int(min(MOST, SHARE * load_object("hpc.dask_executor:free_memory")()))


def statistics_task(target: Path, experiment: Experiment, images_sha256: str) -> StageTask:
    """The sums as a stage with a record."""
    nets = [
        [
            net.name, net.trained, None if net.network is None else net.network.digest_values(),
            *filter(None, [net.shared_initialisation]),
        ]
        for net in experiment.all_nets()
    ]  # fmt: skip
    values = {
        "statistics_schema": STATISTICS_SCHEMA_VERSION,
        "images": images_sha256,
        "nets": nets,
        "statistics": experiment.statistics.digest_values(),
    }
    values |= experiment.layer_values(ref.layer for ref in experiment.all_layer_refs())
    scratch = target.with_suffix(".partial")
    return StageTask("statistics", (target,), target.with_suffix(".json"), values, scratch=(scratch,))


def compute_statistics(
    experiment: Experiment, open_source: Callable[[], ActivationSource], task: StageTask, images_sha256: str
) -> None:
    """Run all passes over the images in this process and write the file of a task.

    Finished items are on disk, so that an interrupted call resumes.
    """
    partial = PartialResults(task.scratch[0], task.digest)
    with threadpool_limits(experiment.statistics.threads):
        source = open_source()
        partial.prepare()
        passes = StatisticsPasses(source, experiment.statistics, partial, memory_budget())
        with limited(worthwhile_threads(experiment.statistics, source.joined.values())):
            for step in passes:
                missing = [item for item in step.items if not partial.is_done(step.name(item))]
                with Progress(step.what, len(step.items), len(step.items) - len(missing)) as progress:
                    for item in missing:
                        partial.write(step.name(item), functools.partial(step.compute, item))
                        progress.advance()
        sums = passes.assembly
        (target,) = task.outputs
        writer = StatisticsWriter(partial.folder / "statistics.h5", {name: sums.matrices(name) for name in sums.joined})
        writer.check_space(len(sums.subset), target.parent, "Make room, or choose another place with file=")
        nets = [_describe(net) for net in experiment.all_nets() if net.name in source.nets]
        header = sums.header(task.digest, experiment.model_dump_json(indent=1), images_sha256, nets)
        writer.create(header, (sums.sums(name).record() for name in sums.joined))
        writer.write_blocks()
        partial.close()
        put_in_place(writer.path, target)


def _describe(net: Any) -> dict[str, Any]:
    """A net as the file describes it; its seeds are unknown."""
    return {
        "name": net.name,
        "label": net.label,
        "seed": -1,
        "initialisation": net.initialisation if net.shared_initialisation else net.name,
        "order_seed": UNKNOWN,
        "subset_seed": UNKNOWN,
        "trained": net.trained,
        "held_out_accuracy": math.nan,
        "weights_sha256": "" if net.network is None else net.network.weights_sha256,
    }


@contextmanager
def torch_settings_restored() -> Iterator[None]:
    """Restore torch's threads, deterministic kernels and precision of products when the block ends."""
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(deterministic)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = cudnn
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        else:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
