"""Data-parallel training by averaging: workers that train apart and average their weights now and then.

Local SGD (Stich 2019, arXiv 1805.09767; McMahan et al. 2017, arXiv 1602.05629), with and without alignment of the
workers' units before each average, from one set of initial weights and from different ones. Beside it: gradients
averaged at each step (the curve of one net with the whole batch), one worker alone, and the workers as an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from convergence.config.schema import Net
from convergence.config.stages import TrainingConfig
from convergence.errors import ConfigError, did_you_mean
from convergence.functional.bench import Bench
from convergence.functional.file import Tree
from convergence.functional.local_sgd import Crew, Start, forget_others
from convergence.functional.meeting import Meeting
from convergence.functional.run import Piece
from convergence.functional.scoring import Scores, mean_scores
from convergence.functional.workers import n_bytes, reduced_bytes
from convergence.io.files import text_sha256
from convergence.uncertainty import Estimate


def pieces(bench: Bench) -> list[Piece]:
    """Each training a piece; "runs/<init>/<steps>/<alignment>/<repeat>", and references for each repeat."""
    study = _Study(bench)
    config = study.config
    found = [Piece("about", study.about)]
    inits = sorted(config.inits, key=lambda one: one != study.reference_init)  # whose workers are there already
    intervals = sorted(config.local_steps, key=lambda one: one != "whole")
    for repeat in range(config.repeats):
        found.append(Piece(f"references/{repeat}", partial(study.references, repeat)))
        for init in inits:
            for steps in intervals:
                for align in config.alignments:
                    key = f"runs/{init}/{steps}/{align}/{repeat}"
                    found.append(Piece(key, partial(study.training, init, steps, align, repeat)))
    return found


class _Study:
    """What all trainings share."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.config = bench, bench.config.average
        self.net = _chosen(bench)
        training = bench.experiment.training
        self.epochs = self.config.epochs or -(-training.epochs // 6)
        self.training_config = training.model_copy(update={"epochs": self.epochs, "keep_epochs": ()})
        if training.batch_size < self.config.workers:
            raise ConfigError(
                f"functional.average.workers = {self.config.workers} workers cannot share the {training.batch_size} "
                "images of a batch (training.batch_size): lower the one or raise the other."
            )
        self.meeting = Meeting(bench, self.net.spec)
        self.reference_init = "different" if "different" in self.config.inits else "same"
        self._apart: dict[tuple[str, int], tuple[dict[int, Any], list[int]]] = {}
        work = bench.folder.functional_task("average")
        self._digest, (self._partial,) = work.digest, work.scratch

    def about(self) -> Tree:
        """What was trained."""
        n_images, training = len(self.bench.train), self.training_config
        return {
            "net": self.net.name,
            "network": self.net.spec.name,
            "workers": self.config.workers,
            "epochs": self.epochs,
            "run_epochs": self.bench.experiment.training.epochs,
            "batch_size": training.batch_size,
            "optimizer": training.optimizer,
            "optimizer_state": self.config.optimizer_state,
            "batch_statistics": self.config.batch_statistics if self.meeting.norms else "none",
            "steps": -(-n_images // training.batch_size) * self.epochs,
            "train_images": n_images,
            "split": self.bench.experiment.statistics.split,
            "repeats": self.config.repeats,
            "cannot_permute": self.meeting.refused,
        }

    # ---- trainings ----

    def training(self, init: str, steps: int | str, align: str, repeat: int) -> Tree:
        """Workers that meet after so many steps, aligned in one way."""
        meeting = self.meeting.of(align, repeat)
        if steps == "whole":
            gathered, seen = self.apart(init, repeat)
            notes: dict[str, Any] = {}
            meeting.meet(gathered, seen, notes, scored=True, edge=True)
            return self._tree(notes, self._total(), 1)
        crew = self._crew(self._start(init, repeat), repeat, f"{init}/{steps}/{align}/{repeat}")
        every = int(steps)
        rounds = -(-crew.total // every)
        chosen = set(np.linspace(1, rounds, self.config.scored).round().astype(int).tolist())
        crew.notes["moments"] = self.config.optimizer_state == "average"

        def meet(gathered: dict[int, Any], last: bool) -> None:
            k = -(-crew.done // every)
            edge = k == 1 or last
            mean = meeting.meet(gathered, crew.seen, crew.notes, scored=k in chosen or edge, edge=edge)
            crew.take(mean)
            meeting.settle_moments(crew.own, gathered)

        crew.run(every, meet)
        return self._tree(crew.notes, crew.total, rounds)

    def apart(self, init: str, repeat: int) -> tuple[dict[int, Any], list[int]]:
        """Workers that never meet: their states, and the images that each saw."""
        if (init, repeat) not in self._apart:
            crew = self._crew(self._start(init, repeat), repeat, f"{init}/whole/{repeat}")
            crew.run(None, lambda *_: None)
            self._apart = {(init, repeat): (crew.gathered(), crew.seen)}
        return self._apart[init, repeat]

    def references(self, repeat: int) -> Tree:
        """Gradients averaged at each step; and workers that never average: one of them, and all as an ensemble."""
        start = self._start("same", repeat)
        crew = self._crew(Start(start.network, start.seeds[:1], None), repeat, f"synchronous/{repeat}")
        crew.run(None, lambda *_: None)
        together = {"synchronous": crew.gathered()[0][0]}
        members = self.apart(self.reference_init, repeat)[0]
        apart = {f"worker{k}": state for k, (state, _) in members.items()}
        nets = self.meeting.nets(together | apart)
        alone = [net for name, net in nets.items() if name in apart]

        def ensemble(images: torch.Tensor) -> torch.Tensor:
            return torch.stack([net(images).double().softmax(1) for net in alone]).mean(0).log()

        scores = self.bench.score({**nets, "ensemble": ensemble})
        payload = n_bytes(dict(next(iter(nets.values())).named_parameters()))
        return {
            "synchronous": _scored(scores["synchronous"])
            | {"rounds": crew.total, "bytes": crew.total * reduced_bytes(payload, self.config.workers)},
            "one_worker": _scored(mean_scores([scores[name] for name in apart])),
            "ensemble": _scored(scores["ensemble"]),
        }

    # ---- results ----

    def _tree(self, notes: Mapping[str, Any], steps: int, rounds: int) -> Tree:
        tree: Tree = {
            "steps": steps,
            "rounds": rounds,
            "bytes": notes["sent"],
            "bytes_alignment": notes["sent_alignment"],
            "moved": np.array(notes["moved"]),
        }
        for record in notes["records"]:
            scores = {name: Scores(*values.numpy()) for name, values in record["scores"].items()}
            workers = [score for name, score in scores.items() if name.startswith("worker")]
            null = [score for name, score in scores.items() if name.startswith("null")]
            point: Tree = {"round": record["round"], "bytes": record["bytes"], **_scored(scores["average"], null)}
            if workers:
                before = mean_scores(workers)
                point |= {
                    "workers": _scored(before),
                    "gain": scores["average"].accuracy_minus(before).as_dict(),
                    "gain_loss": scores["average"].loss_minus(before).as_dict(),
                    "each_worker": np.array([w.accuracy().value for w in workers]),
                }
            tree.setdefault("points", {})[f"{record['round']:06d}"] = point
        return tree

    # ---- where trainings begin ----

    def _start(self, init: str, repeat: int) -> Start:
        """The first repeat's common weights are those of the net's own seed."""
        common = self.net.seed if repeat == 0 else _derived(self.net.seed, repeat)
        others = (_derived(self.net.seed, repeat, k) for k in range(1, self.config.workers))
        return Start(self.net.spec, (common, *others), common if init == "same" else None)

    def _crew(self, start: Start, repeat: int, key: str) -> Crew:
        config: TrainingConfig = self.training_config
        if repeat:
            config = config.model_copy(update={"data_seed": _derived(config.data_seed, repeat)})
        place = self._partial / "training" / text_sha256(key)[:24]
        if self.bench.ranks.rank == 0:
            forget_others(place)
        return Crew(
            start, self.bench.train, config, self.bench.ranks, self.bench.device, place, f"{self._digest} {key}",
            self.bench.config.loader_workers,
        )  # fmt: skip

    def _total(self) -> int:
        return -(-len(self.bench.train) // self.training_config.batch_size) * self.epochs


def _chosen(bench: Bench) -> Net:
    trained, wanted = bench.trained, bench.config.average.net
    if not trained:
        raise ConfigError("average: the config has no net that is trained, whose network the workers could have.")
    if not wanted:
        return trained[0]
    for net in trained:
        if net.name == wanted:
            return net
    raise ConfigError(
        f'functional.average.net: there is no trained net "{wanted}"; {did_you_mean(wanted, [net.name for net in trained])}'
    )


def _derived(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _scored(scores: Scores, null: list[Scores] | None = None) -> Tree:
    """Accuracy and loss as estimates, beside their chance level, and the sums that they are of."""

    def against(name: str, value: Estimate) -> dict[str, Any]:
        if null:
            levels = [getattr(one, name)().value for one in null]
            value = value.against((float(np.mean(levels)), float(np.std(levels, ddof=1))))
        return value.as_dict()

    return {
        "accuracy": against("accuracy", scores.accuracy()),
        "loss": against("mean_loss", scores.mean_loss()),
        "sums": scores.as_dict(),
    }
