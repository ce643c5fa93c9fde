"""Data-parallel training by averaging: workers that train apart and average their weights now and then.

Local SGD (Stich 2019, arXiv 1805.09767; McMahan et al. 2017, arXiv 1602.05629), with and without alignment of the
workers' units before each average, from one set of initial weights and from different ones. References: gradients
averaged at each step (the curve of one net with the whole batch), one worker alone, and the workers as an ensemble.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from convergence.config.schema import Net
from convergence.config.stages import TrainingConfig
from convergence.data.image_order import subset_size
from convergence.errors import ConfigError, did_you_mean
from convergence.functional.averaging.averaging_round import (
    AveragingLog,
    AveragingRound,
    AveragingSetup,
    empty_log,
    n_bytes,
    reduced_bytes,
)
from convergence.functional.averaging.local_sgd import Gathered, LocalSGD, Start, remove_other_checkpoints
from convergence.functional.averaging.results import (
    WHOLE,
    AveragedTraining,
    AveragingResults,
    AveragingStudy,
    MovedUnits,
    ReferenceNet,
    ScoredAverage,
    WorkerAccuracy,
)
from convergence.functional.context import ExperimentContext
from convergence.functional.scores import Scores, accuracy_with_null, loss_with_null, mean_scores, scored
from convergence.functional.stage import ExperimentTask
from convergence.io.files import text_sha256


def tasks(context: ExperimentContext) -> list[ExperimentTask]:
    """A task per training, and the references of each repeat."""
    study = _Study(context)
    config = study.config
    found = [ExperimentTask("about", study.about)]
    inits = sorted(config.inits, key=lambda one: one != study.reference_init)  # whose workers are trained already
    intervals = sorted(config.local_steps, key=lambda one: one != WHOLE)
    for repeat in range(config.repeats):
        found.append(ExperimentTask(f"references/{repeat}", partial(study.references, repeat)))
        for init in inits:
            for steps in intervals:
                for align in config.alignments:
                    key = f"runs/{init}/{steps}/{align}/{repeat}"
                    found.append(ExperimentTask(key, partial(study.training, init, steps, align, repeat)))
    return found


class _Study:
    """What all trainings share."""

    def __init__(self, context: ExperimentContext) -> None:
        self.context, self.config = context, context.config.average
        self.net = _chosen(context)
        training = context.experiment.training
        self.epochs = self.config.epochs or -(-training.epochs // 6)
        changes = {"epochs": self.epochs, "keep_epochs": (), "data_seed": self.net.order_seed}
        changes["threads"] = context.config.threads
        self.training_config = training.model_copy(update=changes)
        self._n_images = subset_size(len(context.train), training.data_share)
        if training.batch_size < self.config.workers:
            raise ConfigError(
                f"functional.average.workers = {self.config.workers} workers cannot share a batch of "
                f"training.batch_size = {training.batch_size} images. Lower the former or raise the latter."
            )
        self.setup = AveragingSetup(context, self.net.spec)
        self.reference_init = "different" if "different" in self.config.inits else "same"
        self._apart: dict[tuple[str, int], tuple[Gathered, list[int]]] = {}
        work = context.folder.functional_task("average")
        self._digest, (self._partial,) = work.digest, work.scratch

    @property
    def total(self) -> int:
        """Steps of a training."""
        return -(-self._n_images // self.training_config.batch_size) * self.epochs

    def about(self) -> AveragingResults:
        """The settings that all trainings share."""
        training = self.training_config
        study = AveragingStudy(
            net=self.net.name,
            network=self.net.spec.name,
            workers=self.config.workers,
            epochs=self.epochs,
            run_epochs=self.context.experiment.training.epochs,
            batch_size=training.batch_size,
            optimizer=training.optimizer,
            optimizer_state=self.config.optimizer_state,
            batch_statistics=self.config.batch_statistics if self.setup.norms else "none",
            steps=self.total,
            train_images=self._n_images,
            split=self.context.experiment.statistics.split,
            repeats=self.config.repeats,
            cannot_permute=self.setup.refused,
        )
        return AveragingResults(study=(study,))

    # ---- trainings ----

    def training(self, init: str, steps: int | str, align: str, repeat: int) -> AveragingResults:
        """Workers that average every ``steps`` steps, or once at the end, with one kind of alignment."""
        averaging = AveragingRound(self.setup, align, repeat)
        log = empty_log()
        key = (init, str(steps), align, repeat)
        if steps == WHOLE:
            gathered, seen = self.apart(init, repeat)
            averaging.run(gathered, seen, log, scored=True, edge=True)
            return _results(key, log, self.total, 1)
        training = self._local_sgd(self._start(init, repeat), repeat, f"{init}/{steps}/{align}/{repeat}")
        training.notes = dict(log)
        every = int(steps)
        rounds = -(-training.total // every)
        chosen = set(np.linspace(1, rounds, self.config.scored).round().astype(int).tolist())

        def average(gathered: Gathered, last: bool) -> None:
            k = -(-training.done // every)
            edge = k == 1 or last
            mean = averaging.run(gathered, training.seen, _log(training), scored=k in chosen or edge, edge=edge)
            training.load_state(mean)
            averaging.permute_moments(training.own, gathered)

        training.run(every, average)
        return _results(key, _log(training), training.total, rounds)

    def apart(self, init: str, repeat: int) -> tuple[Gathered, list[int]]:
        """States of workers that never average, and the images that each saw."""
        if (init, repeat) not in self._apart:
            training = self._local_sgd(self._start(init, repeat), repeat, f"{init}/whole/{repeat}", False)
            training.run(None, lambda *_: None)
            self._apart = {(init, repeat): (training.gathered(), training.seen)}
        return self._apart[init, repeat]

    def references(self, repeat: int) -> AveragingResults:
        """Scores with gradients averaged at each step, and of one worker and the ensemble without averages."""
        start = self._start("same", repeat)
        whole_batch = start._replace(seeds=start.seeds[:1], common=None)
        training = self._local_sgd(whole_batch, repeat, f"synchronous/{repeat}", False)
        training.run(None, lambda *_: None)
        synchronous = {"synchronous": training.gathered()[0][0]}
        members = self.apart(self.reference_init, repeat)[0]
        apart = {f"worker{k}": state for k, (state, _) in members.items()}
        nets = self.setup.nets(synchronous | apart)
        alone = [net for name, net in nets.items() if name in apart]

        def ensemble(images: torch.Tensor) -> torch.Tensor:
            return torch.stack([net(images).double().softmax(1) for net in alone]).mean(0).log()

        scores = self.context.score({**nets, "ensemble": ensemble})
        scores["one_worker"] = mean_scores([scores[name] for name in apart])
        payload = n_bytes(dict(next(iter(nets.values())).named_parameters()))
        sent = training.total, training.total * reduced_bytes(payload, self.config.workers)
        return AveragingResults(
            references=tuple(
                ReferenceNet(repeat, name, *scored(scores[name]), *(sent if name == "synchronous" else ()))
                for name in ("synchronous", "one_worker", "ensemble")
            )
        )

    # ---- initial weights ----

    def _start(self, init: str, repeat: int) -> Start:
        """The common weights of the first repeat are those of the net's own seed."""
        common = self.net.seed if repeat == 0 else _derived(self.net.seed, repeat)
        others = (_derived(self.net.seed, repeat, k) for k in range(1, self.config.workers))
        return Start(self.net.spec, (common, *others), common if init == "same" else None, self.net.subset_seed)

    def _local_sgd(self, start: Start, repeat: int, key: str, averages: bool = True) -> LocalSGD:
        config: TrainingConfig = self.training_config
        if repeat:
            config = config.model_copy(update={"data_seed": _derived(config.data_seed, repeat)})
        place = self._partial / "training" / text_sha256(key)[:24]
        if self.context.ranks.rank == 0:
            remove_other_checkpoints(place)
        return LocalSGD(
            start, self.context.train, config, self.context.ranks, self.context.device, place,
            f"{self._digest} {key}", averages and self.config.optimizer_state == "average",
            self.context.config.loader_workers,
        )  # fmt: skip


def _log(training: LocalSGD) -> AveragingLog:
    notes: AveragingLog = training.notes  # type: ignore[assignment]
    return notes


def _results(key: tuple[str, str, str, int], log: AveragingLog, steps: int, rounds: int) -> AveragingResults:
    averages, workers = [], []
    for record in log["records"]:
        scores = {name: Scores(*values.numpy()) for name, values in record["scores"].items()}
        apart = [score for name, score in scores.items() if name.startswith("worker")]
        null = [score for name, score in scores.items() if name.startswith("null")]
        own = scores["average"]
        numbers = accuracy_with_null(own, null), loss_with_null(own, null), own
        if not apart:
            averages.append(ScoredAverage(*key, record["round"], record["bytes"], *numbers))
            continue
        before = mean_scores(apart)
        gains = own.accuracy_minus(before), own.loss_minus(before)
        averages.append(ScoredAverage(*key, record["round"], record["bytes"], *numbers, *scored(before), *gains))
        workers += [WorkerAccuracy(*key, record["round"], k, w.accuracy().value) for k, w in enumerate(apart)]
    return AveragingResults(
        trainings=(AveragedTraining(*key, steps, rounds, log["sent"], log["sent_alignment"]),),
        moved=tuple(MovedUnits(*key, k, share) for k, share in enumerate(log["moved"], start=1)),
        averages=tuple(averages),
        workers=tuple(workers),
    )


def _chosen(context: ExperimentContext) -> Net:
    trained = [net for net in context.trained if net.trained_here]
    wanted = context.config.average.net
    if not trained:
        raise ConfigError(
            "average needs a net that is trained here, whose network the workers have. Add seeds in [[nets]]."
        )
    if not wanted:
        return trained[0]
    for net in trained:
        if net.name == wanted:
            return net
    known = [net.name for net in trained]
    raise ConfigError(
        f'functional.average.net: there is no net that is trained here "{wanted}"; {did_you_mean(wanted, known)}'
    )


def _derived(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])
