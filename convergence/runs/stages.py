"""The stages of an experiment: what each reads, makes and does.

A :class:`Stage` declares its tasks, the tasks that it reads, and a function that does the work. The functions load
their rooms when they are called: the command starts at once, and an analysis needs neither torch nor MPI.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from convergence.config.functional import EXPERIMENT_NAMES
from convergence.config.schema import Net
from convergence.errors import SharedError, UserError, did_you_mean
from convergence.registry import load_object
from convergence.runs.run_folder import RunFolder
from convergence.runs.tasks import StageTask, read_record

logger = logging.getLogger(__name__)
Tasks = Callable[[RunFolder], list[StageTask]]


@dataclass(frozen=True)
class Options:
    """Options of the command line beyond the config.

    Attributes
    ----------
    overwrite : delete superseded output instead of moving it away
    executors : function that starts the workers of the analysis (:mod:`hpc.dask_executor`)
    nets : names of the nets to train; all if empty
    single_file : also write the report as one HTML file
    check : check the stages ahead before the first one starts (:mod:`convergence.checks`)
    wait : wait for other commands that use the same outputs
    take_over : end the leases of other commands that use the same outputs
    jobs : stages that run side by side, where they do not depend on each other
    began : when the command began, in seconds since 1970
    """

    overwrite: bool = False
    executors: Any = None
    nets: tuple[str, ...] = ()
    single_file: bool = False
    check: bool = False
    wait: bool = False
    take_over: bool = False
    jobs: int = 1
    began: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Stage:
    """One stage of an experiment.

    Attributes
    ----------
    name : as in configs, records and messages
    run : does the work; called with (folder, options, comm)
    tasks : the tasks that the stage finishes
    reads : the tasks that have to be finished before
    skip_reason : why there is nothing to do for an experiment; "" if there is
    optional : a failure does not end a run of all stages
    ranks : kind of parallel processes that may share the stage; None for a single process
    reads_data : whether the stage reads the images or activations, which are checked before
    checks : what is checked before a run with the stage, by name in ``convergence.checks.CHECKS``
    """

    name: str
    run: Callable[[RunFolder, Options, Any], None]
    tasks: Tasks
    reads: Tasks
    skip_reason: Callable[[RunFolder], str] = lambda folder: ""
    optional: bool = False
    ranks: Literal["mpi", "torch"] | None = None
    reads_data: bool = False
    checks: tuple[str, ...] = ()

    def included(self, folder: RunFolder) -> bool:
        """Whether a run of all stages includes it."""
        return self.name not in EXPERIMENT_NAMES or folder.has_experiment(self.name)


def _run_task(folder: RunFolder, task: StageTask, options: Options, action: Callable[[], None], comm: Any) -> None:
    """Run one task unless it is finished, and record it."""
    if _begin(folder, task, options, comm):
        start = time.monotonic()
        action()
        if comm.rank == 0:
            _finish(folder, task, time.monotonic() - start)


def _begin(folder: RunFolder, task: StageTask, options: Options, comm: Any) -> bool:
    """Prepare the place of a task; whether it has to run. Rank 0 decides for all ranks."""
    needed = None
    if comm.rank == 0:
        folder.create()
        status = folder.begin(task, options.overwrite)
        logger.info("%s%s", task.name, f": {status.reason}" if status.reason else "")
        needed = status.needed
    return bool(comm.share(needed))


def _finish(folder: RunFolder, task: StageTask, seconds: float) -> None:
    folder.finish(task, seconds)
    logger.info("%s: done in %.1f s", task.name, seconds)


# ---- the stages ----


def _train(folder: RunFolder, options: Options, comm: Any) -> None:
    splits = functools.cache(folder.experiment.images.load)
    jointly = folder.experiment.training.train_jointly
    groups: dict[tuple[int | None, int | None], list[Net]] = {}
    for net in chosen_nets(folder, options):
        task = folder.train_task(net)
        if jointly is False or not net.trained_here:
            _run_task(folder, task, options, functools.partial(_train_one, folder, net, splits, comm), comm)
        elif _begin(folder, task, options, comm):
            seeds = net.order_seed, net.subset_seed  # nets share batches if these are equal
            group = groups.setdefault(seeds, [])
            group.append(net)
            if jointly is not True and len(group) == jointly:
                _train_group(folder, groups.pop(seeds), splits, comm)
    for group in groups.values():
        _train_group(folder, group, splits, comm)


def _train_one(folder: RunFolder, net: Net, splits: Callable[[], Any], comm: Any) -> None:
    if net.weights is not None:
        if comm.rank == 0:
            import_net = load_object("convergence.training.given_weights:import_net")
            _log_accuracy(net, import_net(folder.net_folder(net), net, splits(), folder.experiment.training))
        return
    make_net = load_object("convergence.training.loop:make_net")
    ranks = comm if comm.size > 1 else None
    result = make_net(
        folder.net_folder(net), net.spec, net.seed, net.trained, splits(), folder.experiment.training, ranks,
        order_seed=net.order_seed, subset_seed=net.subset_seed,
    )  # fmt: skip
    if comm.rank == 0:
        _log_accuracy(net, result)


def _train_group(folder: RunFolder, nets: list[Net], splits: Callable[[], Any], comm: Any) -> None:
    """Train nets jointly and record each one; raises the errors of failed nets after all others have finished."""
    start = time.monotonic()
    candidates = [(folder.net_folder(net), net.spec, net.seed, net.order_seed, net.subset_seed) for net in nets]
    train_jointly = load_object("convergence.training.loop:train_jointly")
    results = train_jointly(candidates, splits(), folder.experiment.training, comm if comm.size > 1 else None)
    seconds = time.monotonic() - start
    for net, result in zip(nets, results, strict=True):
        if not isinstance(result, UserError) and comm.rank == 0:
            _log_accuracy(net, result)
            _finish(folder, folder.train_task(net), seconds)
    failed = [str(result) for result in results if isinstance(result, UserError)]
    if failed:
        raise SharedError("\n".join(failed))


def _log_accuracy(net: Net, result: dict[str, Any]) -> None:
    if result["test_accuracy"] != "":
        logger.info("  %s: held-out accuracy %.2f %%", net.name, 100 * result["test_accuracy"])


def chosen_nets(folder: RunFolder, options: Options) -> list[Net]:
    """The nets to train: those that the options name, or all."""
    nets = folder.experiment.all_nets()
    names = [net.name for net in nets]
    for name in options.nets:
        if name not in names:
            raise UserError(f"--net {name}: the config has no net of this name; {did_you_mean(name, names)}.")
    return [net for net in nets if not options.nets or net.name in options.nets]


def _statistics(folder: RunFolder, options: Options, comm: Any) -> None:
    statistics = load_object("hpc.statistics:statistics")
    _run_task(folder, folder.statistics_task(), options, lambda: statistics(folder, comm), comm)


def _analyze(folder: RunFolder, options: Options, comm: Any) -> None:
    task = folder.analyze_task()

    def analyze() -> None:
        executors = options.executors
        if executors is None:
            executors = load_object("hpc.dask_executor:executors")(load_object("hpc.dask_executor:Workers")())
        load_object("convergence.analysis.run:analyze")(
            folder.statistics_file, folder.analysis_file, folder.experiment.analysis, task.digest, task.scratch[0],
            executors,
        )  # fmt: skip

    _run_task(folder, task, options, analyze, comm)


def _pictures(folder: RunFolder, options: Options, comm: Any) -> None:
    pictures = load_object("convergence.visualization.picture_maker:pictures")
    _run_task(folder, folder.pictures_task(), options, lambda: pictures(folder), comm)


def _pictures_skip_reason(folder: RunFolder) -> str:
    if folder.has_pictures():
        return ""
    experiment = folder.experiment
    if experiment.activations is not None:
        return "the config gives activations, and pictures need nets and images"
    if not experiment.pictures.enabled:
        return "pictures.enabled is false"
    shape = experiment.images.known_shape()
    if shape is not None and len(shape) != 3:
        return "the data are no images"
    return "no trained net has a comparison with positions; see pictures.nets and pictures.layers"


def _functional(experiment: str, folder: RunFolder, options: Options, comm: Any) -> None:
    functional = load_object("convergence.functional.stage:run_experiment")
    ranks = comm if comm.size > 1 else None
    action = functools.partial(functional, folder, experiment, ranks)
    _run_task(folder, folder.functional_task(experiment), options, action, comm)


def _functional_tasks(experiment: str, folder: RunFolder) -> list[StageTask]:
    if folder.experiment.activations is not None:
        raise UserError(f"{experiment}: the config gives activations; this experiment needs nets and images.")
    return [folder.functional_task(experiment)]


def _functional_reads(experiment: str, folder: RunFolder) -> list[StageTask]:
    return [] if experiment == "average" else [*folder.train_tasks(), folder.statistics_task()]


def _report(folder: RunFolder, options: Options, comm: Any) -> None:
    given = folder.experiment.activations is not None
    report, drawn = load_object("convergence.report:report"), {}
    if _wrote_report(folder, options):  # its figures are kept, and it is not kept itself
        drawn = {path.name: path.read_bytes() for path in (folder.report_page.parent / "figures").glob("*.*")}
        options = replace(options, overwrite=True)
    action = functools.partial(
        report,
        folder.statistics_file,
        folder.analysis_file,
        folder.report_page.parent,
        folder.experiment,
        folder.pictures_file,
        folder.analyze_task().digest,
        folder.pictures_task().digest,
        folder.functional_folder,
        {} if given else {name: folder.functional_task(name).digest for name in EXPERIMENT_NAMES},
        drawn,
    )
    _run_task(folder, folder.report_task(), options, action, comm)
    if options.single_file:
        load_object("convergence.report.single:single_file")(folder.report_page.parent)


def _first_report(folder: RunFolder, options: Options, comm: Any) -> None:
    _report(folder, replace(options, single_file=False), comm)
    logger.info("first report: %s; pictures and experiments are added at the end", folder.report_page.resolve())


def _wrote_report(folder: RunFolder, options: Options) -> bool:
    """Whether the report is the first one of this command.

    The time alone does not tell: a report may come from a machine whose clock is ahead. Its figures are reused, so it
    has to be of the present analysis and settings too.
    """
    task = folder.report_task()
    record = read_record(task.record)
    if record is None or record["finished"] is None:
        return False
    same = record["values"] == task.values and record["inputs"].get("analyze") == task.inputs["analyze"]
    return same and datetime.fromisoformat(record["finished"]).timestamp() >= int(options.began)


STAGE_TABLE: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "train", _train, RunFolder.train_tasks, lambda folder: [], ranks="torch", reads_data=True,
            skip_reason=lambda folder: "the config gives activations" if folder.experiment.activations else "",
            checks=("images", "nets", "training", "resources"),
        ),
        Stage(
            "statistics", _statistics, lambda folder: [folder.statistics_task()], RunFolder.train_tasks, ranks="mpi",
            reads_data=True,
            checks=("images", "nets", "layers", "positions", "resources"),
        ),
        Stage(
            "analyze", _analyze, lambda folder: [folder.analyze_task()], lambda folder: [folder.statistics_task()]
        ),
        Stage(
            "pictures", _pictures, lambda folder: [folder.pictures_task()],
            lambda folder: [
                *(folder.train_task(net) for net, _ in folder.experiment.pictured()), folder.statistics_task()
            ],
            skip_reason=_pictures_skip_reason, optional=True, reads_data=True,
            checks=("images", "nets", "pictures", "resources"),
        ),
        *(
            Stage(
                name, functools.partial(_functional, name),
                functools.partial(_functional_tasks, name),
                functools.partial(_functional_reads, name), optional=True, ranks="torch",
                reads_data=True,
                checks=("images", "nets", name),
            )
            for name in EXPERIMENT_NAMES
        ),
        Stage(
            "report", _report, lambda folder: [folder.report_task()],
            lambda folder: [folder.statistics_task(), folder.analyze_task()],
        ),
    )
}  # fmt: skip
"""Every stage by name, in the order in which a run makes them."""
STAGES = tuple(STAGE_TABLE)
FIRST_REPORT = "first report"
"""Of a run of all stages: the report as soon as the analysis is there, before optional stages."""
RUN_TABLE = STAGE_TABLE | {FIRST_REPORT: replace(STAGE_TABLE["report"], name=FIRST_REPORT, run=_first_report)}
OPTIONAL = tuple(name for name, stage in STAGE_TABLE.items() if stage.optional)
SHARED = tuple(name for name, stage in STAGE_TABLE.items() if stage.ranks == "torch")
