"""Ensembling: how much nets gain by predicting together, which nets to choose, and which layers they can share.

Members' probabilities are averaged (Hansen & Salamon 1990; Lakshminarayanan et al. 2017, arXiv 1612.01474), and for
comparison their logits. All subsets of each size are scored, so that members chosen by dissimilarity are compared with
random members. Shared cores are in :mod:`.shared_core`.
"""

from __future__ import annotations

import functools
import itertools
from math import comb

import numpy as np
import torch

from convergence.errors import ConfigError, did_you_mean
from convergence.functional.context import ExperimentContext
from convergence.functional.ensembling.results import (
    ChosenSubset,
    EnsembleSize,
    EnsembleSubset,
    EnsemblingResults,
    MemberSimilarity,
    Reference,
    SingleNet,
)
from convergence.functional.ensembling.shared_core import shared_core
from convergence.functional.prediction_metrics import (
    PredictionMetrics,
    log_probabilities,
    mean_logit,
    mean_probability,
)
from convergence.functional.scores import Scores, estimates, mean_scores
from convergence.functional.stage import ExperimentTask
from convergence.similarity.cka import linear_cka

Subset = tuple[int, ...]


def tasks(context: ExperimentContext) -> list[ExperimentTask]:
    """A task for the ensembles, and one per layer and trunk of a shared core.

    Raises
    ------
    ConfigError
        for an unknown net or comparison, and fewer than two members.
    """
    config = context.config.ensemble
    names = members(context)
    trunks = config.trunks or names[:2]
    for name in trunks:
        if name not in names:
            raise ConfigError(f'functional.ensemble.trunks: "{name}" is not a member; {did_you_mean(name, names)}.')
    comparisons = context.chosen_comparisons(config.comparisons)
    found = [ExperimentTask("members", functools.partial(ensembles, context, names))]
    for comparison in comparisons:
        if all(context.layer_of(comparison, name) is not None for name in names):
            for trunk in trunks:
                run = functools.partial(shared_core, context, comparison, trunk, names)
                found.append(ExperimentTask(f"core/{comparison.name}/{trunk}", run))
    return found


def members(context: ExperimentContext) -> list[str]:
    """Names of the nets that may be members; ConfigError for an unknown net, or fewer than two."""
    wanted = context.config.ensemble.members
    context.check_nets("functional.ensemble.members", wanted)
    names = list(dict.fromkeys(wanted)) or [net.name for net in context.trained]
    if len(names) < 2:
        raise ConfigError(
            "ensemble needs two nets. Add seeds to a group of [[nets]], or set functional.ensemble.members."
        )
    return names


def ensembles(context: ExperimentContext, names: list[str]) -> EnsemblingResults:
    """Single nets, all subsets of each size, one net several times, and ensembles with untrained nets."""
    config, n = context.config.ensemble, len(names)
    untrained = [net.name for net in context.untrained if net.name not in names]
    everyone = names + untrained
    nets = [context.net(name) for name in everyone]
    subsets = {m: some_subsets(n, m, config.max_subsets, context.config.seed) for m in range(2, n + 1)}
    groups: dict[str, Subset] = {name: (k,) for k, name in enumerate(everyone)}
    groups |= {_key(subset): subset for of_size in subsets.values() for subset in of_size}
    groups["repeated"] = (0,) * n
    if untrained:
        groups["with_untrained"] = tuple(range(len(everyone)))
        groups["untrained"] = tuple(range(n, len(everyone)))
    keys = [*groups, *(f"logits {key}" for key in groups if len(groups[key]) > 1)]
    metrics = PredictionMetrics(keys, len(context.groups), config.bins)
    for segments, images, labels in context.read_together():
        with torch.no_grad():
            log_p = torch.stack([log_probabilities(net(images)) for net in nets])
        together = [mean_probability(log_p[list(groups[key])]) for key in groups]
        together += [mean_logit(log_p[list(groups[key])]) for key in groups if len(groups[key]) > 1]
        metrics.add_segments(segments, torch.stack(together), labels)
    context.add_up(*metrics.sums)
    singles = [metrics.scores(name) for name in names]
    mean_single, best = mean_scores(singles), _best_of_other_half(context, singles)
    repeated = metrics.scores("repeated")
    references = [
        Reference("mean_single", *estimates(mean_single), None, None, mean_single),
        Reference("best_single", *estimates(best), None, None, best),
        Reference("repeated", *estimates(repeated), metrics.calibration("repeated"),
                  repeated.accuracy_minus(singles[0]), repeated),
    ]  # fmt: skip
    for key in ("with_untrained", "untrained") if untrained else ():
        scores = metrics.scores(key)
        references.append(Reference(key, *estimates(scores), metrics.calibration(key), None, scores))
    similarity = [similarities(context, names, half) for half in (0, 1)]
    sizes, rows, chosen = [], [], []
    for m, of_size in subsets.items():
        scores_of = [metrics.scores(_key(subset)) for subset in of_size]
        mean = mean_scores(scores_of)
        logits = mean_scores([metrics.scores(f"logits {_key(subset)}") for subset in of_size])
        differences = mean.accuracy_minus(mean_single), mean.accuracy_minus(best), mean.loss_minus(mean_single)
        numbers = (*estimates(mean), *differences, mean, *estimates(logits), logits.loss_minus(mean), logits)
        sizes.append(EnsembleSize(m, comb(n, m), *numbers))
        for subset, scores in zip(of_size, scores_of, strict=True):
            calibration = metrics.calibration(_key(subset)).value
            alike = _mean_pairwise(similarity[0], subset), _mean_pairwise(similarity[1], subset)
            rows.append(EnsembleSubset(m, _names(names, subset), scores.accuracy().value, calibration, *alike))
        if len(of_size) > 1:
            chosen.append(least_similar(context, names, of_size, scores_of, similarity))
    return EnsemblingResults(
        single=tuple(
            SingleNet(name, name in names, *estimates(scores), metrics.calibration(name), scores)
            for name, scores in ((name, metrics.scores(name)) for name in everyone)
        ),
        references=tuple(references),
        sizes=tuple(sizes),
        subsets=tuple(rows),
        chosen=tuple(chosen),
        similarities=tuple(
            MemberSimilarity(half, names[i], names[j], float(similarity[half][i, j]))
            for half, i, j in itertools.product((0, 1), range(n), range(n))
        ),
    )


def least_similar(
    context: ExperimentContext, names: list[str], subsets: list[Subset], scores: list[Scores],
    similarity: list[np.ndarray],
) -> ChosenSubset:  # fmt: skip
    """The subset of the lowest mean similarity on one half of the image groups, scored on the other, both ways."""
    chosen, everyone = Scores.zeros(len(context.groups)), Scores.zeros(len(context.groups))
    nets: list[str] = []
    ranks: list[float] = []
    for half in (0, 1):
        which = int(np.argmin([_mean_pairwise(similarity[half], subset) for subset in subsets]))
        other = [s.of_groups(context.half(1 - half)) for s in scores]
        chosen, everyone = chosen + other[which], everyone + mean_scores(other)
        right = np.array([s.correct.sum() for s in other])
        better, tied = np.count_nonzero(right > right[which]), np.count_nonzero(right == right[which])
        nets.append(_names(names, subsets[which]))
        ranks.append(float(1 + better + (tied - 1) / 2))
    differences = chosen.accuracy_minus(everyone), chosen.loss_minus(everyone)
    return ChosenSubset(
        len(subsets[0]), len(subsets), nets[0], nets[1], ranks[0], ranks[1], *estimates(chosen), *differences, chosen
    )


def similarities(context: ExperimentContext, names: list[str], half: int) -> np.ndarray:
    """(n, n) linear CKA of members at the layer of ``dissimilarity``, from one half of the image groups."""
    wanted = context.config.ensemble.dissimilarity
    (comparison,) = context.chosen_comparisons([wanted] if wanted else [context.comparisons()[-1].name])
    found = np.eye(len(names))
    for i, j in itertools.combinations(range(len(names)), 2):
        pair = context.pair(comparison.name, names[i], names[j])
        found[i, j] = found[j, i] = linear_cka(context.half_moments(pair, half))
    return found


def some_subsets(n: int, m: int, most: int, seed: int) -> list[Subset]:
    """All subsets of m of n, or ``most`` of them drawn by seed, in order."""
    if comb(n, m) <= most:
        return list(itertools.combinations(range(n), m))
    generator = np.random.default_rng([seed, n, m])
    drawn: set[Subset] = set()
    while len(drawn) < most:
        drawn.add(tuple(sorted(int(k) for k in generator.permutation(n)[:m])))
    return sorted(drawn)


def _best_of_other_half(context: ExperimentContext, singles: list[Scores]) -> Scores:
    """Scores on one half of the image groups of the single net that is most accurate on the other, both ways."""
    found = Scores.zeros(len(context.groups))
    for half in (0, 1):
        best = int(np.argmax([s.correct[context.half(half)].sum() for s in singles]))
        found = found + singles[best].of_groups(context.half(1 - half))
    return found


def _mean_pairwise(similarity: np.ndarray, subset: Subset) -> float:
    return float(np.mean([similarity[i, j] for i, j in itertools.combinations(subset, 2)]))


def _key(subset: Subset) -> str:
    return "+".join(map(str, subset))


def _names(names: list[str], subset: Subset) -> str:
    return "+".join(names[k] for k in subset)
