"""Resources: disk, memory, time and cores that a run needs, against those of this machine or of the jobs."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator

from convergence.checks import needs
from convergence.checks.context import CheckContext
from convergence.checks.findings import Finding
from convergence.checks.needs import FileSize, Needs, StageNeed
from convergence.data.image_order import subset_size
from convergence.progress import readable_bytes
from convergence.registry import load_object
from convergence.statistics.sampling import ImageGroups

THREADED = ("training", "statistics", "pictures", "functional")


def check_resources(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about disk, memory and cores, and set ``context.needs``."""
    context.needs = _needs(context)
    yield from _check_disk(context)
    yield from _check_memory(context)
    if not context.elsewhere:
        yield from _check_cores(context)


def _needs(context: CheckContext) -> Needs:
    experiment, joined = context.experiment, context.joined
    disk: list[FileSize] = []
    stages: list[StageNeed] = []
    if context.nets and len(context.working_nets) == len(context.nets):
        total = sum(net.facts.state_bytes * len(net.nets) for net in context.nets)
        disk += needs.net_sizes(experiment, total)
        stages += _training_need(context)
    if joined:
        if experiment.activations is None:
            images = context.images
            disk += needs.picture_sizes(experiment, images.image_shape, joined)
        else:
            images = load_object("convergence.statistics.array_source:ArraySource")(experiment).images
        disk += needs.sum_sizes(experiment, images, joined)
        stages += [_statistics_need(context, len(images)), needs.analysis_need(experiment, joined)]
    order = ("train", "statistics", "analyze", "pictures")
    return Needs(tuple(sorted(disk, key=lambda item: order.index(item.stage))), tuple(stages))


def _training_need(context: CheckContext) -> Iterator[StageNeed]:
    """Need of the nets that are not trained yet, one after the other on this machine."""
    config, folder = context.experiment.training, context.folder
    n_images = subset_size(len(context.splits.train), config.data_share)
    memory = seconds = 0.0
    basis = ""
    for net in context.nets:
        missing = [one for one in net.trained_here if folder.state(folder.train_task(one)) != "done"]
        if not missing or net.facts.training_s is None:
            continue
        jointly = config.train_jointly
        largest = max(Counter((one.order_seed, one.subset_seed) for one in missing).values())
        together = largest if jointly is True else min(jointly or 1, largest)
        facts = net.facts
        needed = needs.training_memory(context.experiment, facts.state_bytes, facts.activation_bytes, together)
        memory = max(memory, needed)
        seconds += len(missing) * config.epochs * n_images * net.facts.training_s
        basis = f"a step of {facts.training_batch} images on this machine's {facts.training_device}, reading excluded"
    if memory:
        yield StageNeed("train", memory, seconds, basis)


def _statistics_need(context: CheckContext, n_available: int) -> StageNeed:
    config, experiment = context.experiment.statistics, context.experiment
    facts = {one.name: net.facts for net in context.nets for one in net.nets}
    weights = dict.fromkeys((ref.weights, ref.net) for ref in experiment.all_layer_refs())
    read = sum(facts[net].state_bytes for _, net in weights if net in facts)
    memory = needs.statistics_memory(experiment, read, context.joined)
    times = [facts[net].evaluation_s for _, net in weights if net in facts]
    if not times or any(value is None for value in times):
        return StageNeed("statistics", memory, None, "")
    n_images = ImageGroups.of(config, n_available, None).n_images
    n_pilot = min(needs.n_pilot(config), n_images)
    n_pilot = 0 if needs.kept_maps(config, context.joined.values(), n_images) else n_pilot
    seconds = (n_images + n_pilot) * sum(value or 0.0 for value in times)
    again = f", {n_pilot:,} of them twice," if n_pilot else ""
    basis = f"a pass of all nets over {n_images:,} images{again} on this machine's CPU, sums excluded"
    return StageNeed("statistics", memory, seconds, basis)


def _check_disk(context: CheckContext) -> Iterator[Finding]:
    folder = context.folder
    unfinished = {task.name.split()[0] for task in folder.tasks() if folder.state(task) != "done"}
    sizes = [item for item in context.needs.disk if item.stage in unfinished]
    bound = sum(item.bytes for item in sizes)
    needed = sum(item.bytes for item in sizes if item.stage != "pictures")  # that of pictures is an upper bound
    place = folder.path.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    remedy = "Free some space, or choose another place with --runs"
    if needed > free:
        yield Finding(
            "disk", "fault", f"{readable_bytes(free)} are free in {place}", f"about {readable_bytes(needed)}", remedy
        )
    elif bound > free:
        yield Finding(
            "disk", "warning", f"{readable_bytes(free)} are free in {place}", f"up to {readable_bytes(bound)}, with "
            "pictures of full size", remedy,
        )  # fmt: skip
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding("disk", "fault", f"{place} is not writable", remedy="Choose another place with --runs")


def _check_memory(context: CheckContext) -> Iterator[Finding]:
    here = None if context.elsewhere else float(load_object("hpc.dask_executor:free_memory")())
    on_gpu = any(net.facts.training_device == "cuda" for net in context.nets)
    for need in context.needs.stages:
        limit = here if context.limits is None else context.limits.get(need.stage)
        if limit is None or need.memory_bytes <= limit or (need.stage == "train" and on_gpu):
            continue
        what = "free for this process" if context.limits is None else "asked for each node of its jobs"
        remedy = {
            "train": "Lower training.batch_size or training.train_jointly",
            "statistics": "Lower statistics.batch_size, or compare fewer layers at a time",
            "analyze": "Use a machine with more memory, or narrower layers",
        }[need.stage]
        yield Finding(
            "memory", "warning", f"{need.stage}: {readable_bytes(limit)} of memory are {what}",
            f"about {readable_bytes(need.memory_bytes)}", remedy,
        )  # fmt: skip


def _check_cores(context: CheckContext) -> Iterator[Finding]:
    cores = int(load_object("hpc.dask_executor:usable_cores")())
    given = context.experiment.activations is not None
    for section in ("statistics",) if given else THREADED:
        threads = getattr(context.experiment, section).threads
        if threads != "auto" and threads > cores:
            yield Finding(
                "cores", "warning", f"{section}.threads = {threads}, and this process may use {cores} cores: threads "
                "wait for each other", remedy=f"Set {section}.threads = {cores}; it changes rounding and the digest",
            )  # fmt: skip
