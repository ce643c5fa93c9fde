"""The stages in order: what each needs, whether it has to run, and the record of what it did.

Stages are named by strings and imported when they run, so that the command answers at once, the laptop install needs
neither torch nor MPI, and the science never imports what launches it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convergence.config.schema import Net
from convergence.errors import SharedError, StaleOutputError, UserError, did_you_mean
from convergence.functional import EXPERIMENTS
from convergence.io.files import disk_full_errors
from convergence.registry import load_object
from convergence.runs.run_folder import RunFolder, StageTask

logger = logging.getLogger(__name__)
STAGES = ("train", "statistics", "analyze", "pictures", *EXPERIMENTS, "report")
OPTIONAL = ("pictures", *EXPERIMENTS)
"""Stages between the analysis and the report that the rest can do without: one that fails does not end a run."""
SHARED = ("train", *EXPERIMENTS)
"""Stages that several of torch's processes can share; MPI's ranks share the statistics."""


def verb(stage: str) -> tuple[str, ...]:
    """What a stage is called on the command line."""
    return ("train", "--averaging") if stage == "average" else (stage,)


@dataclass(frozen=True)
class Options:
    """What the command line says beyond the config; ``executors`` starts what runs the analysis (:mod:`hpc.tasks`)."""

    overwrite: bool = False
    executors: Any = None
    nets: tuple[str, ...] = ()
    single_file: bool = False


def run_stages(stages: tuple[str, ...], folder: RunFolder, options: Options, comm: Any) -> None:
    """Run stages in the given order.

    Raises
    ------
    UserError
        if a stage that is not among ``stages`` should have run before, or cannot run on several ranks.
    """
    of_torch = comm.size > 1 and hasattr(comm, "wrap")  # torch's processes, not MPI's ranks
    if comm.size > 1 and (len(stages) > 1 or stages[0] not in (SHARED if of_torch else ("statistics",))):
        raise SharedError(
            f"{comm.size} ranks were launched, and only `convergence statistics` spreads over ranks (and `convergence "
            f"{' | '.join(dict.fromkeys(verb(stage)[0] for stage in SHARED))}` over the processes of torchrun). Run "
            "the other stages without a launcher."
        )
    for stage in stages:
        if len(stages) > 1 and stage in EXPERIMENTS and not folder.has_experiment(stage):
            continue
        try:
            with disk_full_errors(folder.path):
                _RUNNERS[stage](folder, options, comm)
        except UserError as error:
            if stage not in OPTIONAL or len(stages) == 1:
                raise
            logger.warning("%s: none, the rest goes on without: %s", stage, error)


def _train(folder: RunFolder, options: Options, comm: Any) -> None:
    if folder.experiment.activations is not None:
        logger.info("train: nothing to do, the config gives activations")
        return
    nets = _chosen_nets(folder, options)
    loaded: list[Any] = []

    def splits() -> Any:
        if not loaded:
            loaded.append(folder.experiment.images.load())
        return loaded[0]

    together = folder.experiment.training.together
    group: list[Net] = []
    for net in nets:
        if together is False or not net.trained:
            _do(folder, folder.train_work(net), options, functools.partial(_train_one, folder, net, splits, comm), comm)
        elif _begin(folder, folder.train_work(net), options, comm):
            group.append(net)
            if together is not True and len(group) == together:
                _train_group(folder, group, splits, comm)
                group = []
    if group:
        _train_group(folder, group, splits, comm)


def _train_one(folder: RunFolder, net: Net, splits: Callable[[], Any], comm: Any) -> None:
    training = load_object("convergence.training.loop:make_net")
    place = folder.net_folder(net)
    ranks = comm if comm.size > 1 else None
    result = training(place, net.spec, net.seed, net.trained, splits(), folder.experiment.training, ranks)
    if comm.rank == 0:
        _say(net, result)


def _train_group(folder: RunFolder, nets: list[Net], splits: Callable[[], Any], comm: Any) -> None:
    """Train nets together and record each; then the error of those that failed, which leaves the others done."""
    start = time.monotonic()
    candidates = [(folder.net_folder(net), net.spec, net.seed) for net in nets]
    ranks = comm if comm.size > 1 else None
    training = load_object("convergence.training.loop:train_together")
    results = training(candidates, splits(), folder.experiment.training, ranks)
    seconds = time.monotonic() - start
    for net, result in zip(nets, results, strict=True):
        if not isinstance(result, UserError) and comm.rank == 0:
            _say(net, result)
            _finish(folder, folder.train_work(net), seconds)
    failed = [str(result) for result in results if isinstance(result, UserError)]
    if failed:
        raise SharedError("\n".join(failed))


def _say(net: Net, result: dict[str, Any]) -> None:
    logger.info("  %s: held-out accuracy %.2f %%", net.name, 100 * result["test_accuracy"])


def _chosen_nets(folder: RunFolder, options: Options) -> list[Net]:
    nets = folder.experiment.all_nets()
    names = [net.name for net in nets]
    for name in options.nets:
        if name not in names:
            raise UserError(f"--net {name}: the config has no such net; {did_you_mean(name, names)}.")
    return [net for net in nets if not options.nets or net.name in options.nets]


def _statistics(folder: RunFolder, options: Options, comm: Any) -> None:
    _need(folder, folder.train_works())
    stage = load_object("hpc.statistics:statistics")
    _do(folder, folder.statistics_work(), options, lambda: stage(folder, comm), comm)


def _analyze(folder: RunFolder, options: Options, comm: Any) -> None:
    _need(folder, [folder.statistics_work()])
    work = folder.analyze_work()

    def analyze() -> None:
        executors = options.executors or load_object("hpc.tasks:executors")(load_object("hpc.tasks:Workers")())
        load_object("convergence.analysis.run:analyze")(
            folder.statistics_file, folder.analysis_file, folder.experiment.analysis, work.digest, work.scratch[0],
            executors,
        )  # fmt: skip

    _do(folder, work, options, analyze)


def _pictures(folder: RunFolder, options: Options, comm: Any) -> None:
    if not folder.has_pictures():
        experiment = folder.experiment
        reason = (
            "the config gives activations, and pictures need nets and images" if experiment.activations is not None
            else "pictures.enabled is false" if not experiment.pictures.enabled
            else "no net is trained, or no comparison has its positions: see pictures.nets and pictures.layers"
        )  # fmt: skip
        logger.info("pictures: nothing to do, %s", reason)
        return
    _need(folder, [*(folder.train_work(net) for net, _ in folder.experiment.pictured()), folder.statistics_work()])
    _do(folder, folder.pictures_work(), options, lambda: load_object("convergence.pictures.run:pictures")(folder))


def _functional(experiment: str, folder: RunFolder, options: Options, comm: Any) -> None:
    if folder.experiment.activations is not None:
        raise UserError(f"{experiment}: the config gives activations, and experiments on nets need nets and images.")
    if experiment != "average":
        _need(folder, [*folder.train_works(), folder.statistics_work()])
    ranks = comm if comm.size > 1 else None
    action = functools.partial(load_object("convergence.functional.run:functional"), folder, experiment, ranks)
    _do(folder, folder.functional_work(experiment), options, action, ranks)


def _report(folder: RunFolder, options: Options, comm: Any) -> None:
    _need(folder, [folder.statistics_work(), folder.analyze_work()])
    given = folder.experiment.activations is not None
    _do(
        folder,
        folder.report_work(),
        options,
        lambda: load_object("convergence.report:report")(
            folder.statistics_file,
            folder.analysis_file,
            folder.report_page.parent,
            folder.experiment,
            folder.pictures_file,
            folder.analyze_work().digest,
            folder.pictures_work().digest,
            folder.functional_folder,
            {} if given else {name: folder.functional_work(name).digest for name in EXPERIMENTS},
        ),
    )
    if options.single_file:
        load_object("convergence.report.single:single_file")(folder.report_page.parent)


_RUNNERS: dict[str, Callable[[RunFolder, Options, Any], None]] = {
    "train": _train,
    "statistics": _statistics,
    "analyze": _analyze,
    "pictures": _pictures,
    **{name: functools.partial(_functional, name) for name in EXPERIMENTS},
    "report": _report,
}


def _need(folder: RunFolder, works: list[StageTask]) -> None:
    """All of ``works`` must be done for the present settings."""
    for work in works:
        state = folder.state(work)
        if state != "done":
            says = {
                "missing": "has not been done",
                "unfinished": "was not finished",
                "damaged": f"is damaged ({folder.damage(work)})",
                "stale": "was done for other settings",
            }[state]
            stage = work.name.split()[0]
            raise StaleOutputError(
                f'{folder.path}: "{work.name}" {says}. Run `convergence {stage}` (or `convergence run`) with the same '
                "config and --set options first."
            )


def _do(folder: RunFolder, work: StageTask, options: Options, action: Callable[[], None], comm: Any = None) -> None:
    """Run one piece of work if it is needed."""
    if not _begin(folder, work, options, comm):
        return
    start = time.monotonic()
    action()
    if comm is None or comm.rank == 0:
        _finish(folder, work, time.monotonic() - start)


def _begin(folder: RunFolder, work: StageTask, options: Options, comm: Any) -> bool:
    """Clear the place of a piece of work, and say whether it is needed; with ranks, the first one decides for all."""
    needed = None
    if comm is None or comm.rank == 0:
        folder.create()
        outcome = folder.begin(work, options.overwrite)
        logger.info("%s%s", work.name, f": {outcome.reason}" if outcome.reason else "")
        needed = outcome.needed
    return bool(needed) if comm is None else bool(comm.share(needed))


def _finish(folder: RunFolder, work: StageTask, seconds: float) -> None:
    folder.finish(work, seconds)
    logger.info("%s: done in %.1f s", work.name, seconds)
