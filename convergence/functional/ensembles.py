"""Several nets that answer together: how much they gain, which of them to take, and what of them can be shared.

Members' probabilities are averaged (Hansen & Salamon 1990; Lakshminarayanan et al. 2017, arXiv 1612.01474), and beside
that their logits. All subsets of each size are scored, so that members chosen by dissimilarity stand beside members at
random. The shared core is in :mod:`convergence.functional.shared_core`.
"""

from __future__ import annotations

import functools
import itertools
from math import comb

import numpy as np
import torch

from convergence.errors import ConfigError, did_you_mean
from convergence.functional.answering import Answers, log_probabilities, mean_logit, mean_probability
from convergence.functional.bench import Bench
from convergence.functional.file import Tree
from convergence.functional.run import Piece
from convergence.functional.scoring import Scores, mean_scores
from convergence.functional.shared_core import shared_core
from convergence.functional.stitching import chosen_comparisons
from convergence.similarity.cka import linear_cka

Subset = tuple[int, ...]


def pieces(bench: Bench) -> list[Piece]:
    """A piece for the ensembles, and one for each layer and trunk of a shared core.

    Raises
    ------
    ConfigError
        for a net or comparison that is not there, and fewer than two members.
    """
    config = bench.config.ensemble
    names = members(bench)
    trunks = config.trunks or names[:2]
    for name in trunks:
        if name not in names:
            raise ConfigError(f'functional.ensemble.trunks: "{name}" is no member; {did_you_mean(name, names)}.')
    comparisons = chosen_comparisons(bench, config.comparisons)
    found = [Piece("members", functools.partial(members_together, bench, names))]
    for comparison in comparisons:
        if all(bench.layer_of(comparison, name) is not None for name in names):
            for trunk in trunks:
                make = functools.partial(shared_core, bench, comparison, trunk, names)
                found.append(Piece(f"core/{comparison.name}/{trunk}", make))
    return found


def members(bench: Bench) -> list[str]:
    """Names of the nets that may be members; ConfigError for one that is not there, or fewer than two."""
    known = [net.name for net in bench.experiment.all_nets()]
    for name in bench.config.ensemble.members:
        if name not in known:
            raise ConfigError(f'functional.ensemble.members: there is no net "{name}"; {did_you_mean(name, known)}.')
    names = list(dict.fromkeys(bench.config.ensemble.members)) or [net.name for net in bench.trained]
    if len(names) < 2:
        raise ConfigError("functional.ensemble: an ensemble needs two trained nets; add seeds, or name members.")
    return names


def members_together(bench: Bench, names: list[str]) -> Tree:
    """Single nets, all subsets of each size, one net several times, and untrained nets among the members."""
    config, n = bench.config.ensemble, len(names)
    untrained = [net.name for net in bench.untrained if net.name not in names]
    everyone = names + untrained
    nets = [bench.net(name) for name in everyone]
    subsets = {m: some_subsets(n, m, config.max_subsets, bench.config.seed) for m in range(2, n + 1)}
    groups: dict[str, Subset] = {name: (k,) for k, name in enumerate(everyone)}
    groups |= {_key(subset): subset for of_size in subsets.values() for subset in of_size}
    groups["repeated"] = (0,) * n
    if untrained:
        groups["with_untrained"] = tuple(range(len(everyone)))
        groups["untrained"] = tuple(range(n, len(everyone)))
    keys = [*groups, *(f"logits {key}" for key in groups if len(groups[key]) > 1)]
    answers = Answers(keys, len(bench.groups), config.bins)
    for group, images, labels in bench.read():
        with torch.no_grad():
            log_p = torch.stack([log_probabilities(net(images)) for net in nets])
        together = [mean_probability(log_p[list(groups[key])]) for key in groups]
        together += [mean_logit(log_p[list(groups[key])]) for key in groups if len(groups[key]) > 1]
        answers.add(group, torch.stack(together), labels)
    bench.add_up(*answers.sums)
    singles = [answers.scores(name) for name in names]
    best = _best_of_other_half(bench, singles)
    tree: Tree = {
        "names": np.array(names, dtype=object),
        "single": {name: answers.tree(name) for name in everyone},
        "mean_single": _scored(mean_scores(singles)),
        "best_single": _scored(best),
        "sizes": {},
        "repeated": answers.tree("repeated")
        | {"accuracy_minus_single": answers.scores("repeated").accuracy_minus(singles[0]).as_dict()},
    }
    for key in ("with_untrained", "untrained"):
        if key in groups:
            tree[key] = answers.tree(key)
    similarity = [similarities(bench, names, half) for half in (0, 1)]
    for m, of_size in subsets.items():
        scores = [answers.scores(_key(subset)) for subset in of_size]
        mean = mean_scores(scores)
        logits = mean_scores([answers.scores(f"logits {_key(subset)}") for subset in of_size])
        tree["sizes"][str(m)] = {
            "subsets": np.array(of_size),
            "n_possible": comb(n, m),
            "accuracies": np.array([s.accuracy().value for s in scores]),
            "mean": _scored(mean)
            | {
                "accuracy_minus_single": mean.accuracy_minus(mean_scores(singles)).as_dict(),
                "accuracy_minus_best": mean.accuracy_minus(best).as_dict(),
                "loss_minus_single": mean.loss_minus(mean_scores(singles)).as_dict(),
            },
            "logits": _scored(logits) | {"loss_minus_probabilities": logits.loss_minus(mean).as_dict()},
            "calibration": np.array([answers.calibration(_key(subset)).value for subset in of_size]),
            "chosen": chosen_by_dissimilarity(bench, of_size, scores, similarity),
        }
    tree["calibration_single"] = np.array([answers.calibration(name).value for name in names])
    tree["similarity"] = np.array(similarity)
    return tree


def chosen_by_dissimilarity(
    bench: Bench, subsets: list[Subset], scores: list[Scores], similarity: list[np.ndarray]
) -> Tree:
    """The subset whose members are least alike on one half of the image groups, scored on the other, both ways.

    ``rank_h`` says the place of the subset chosen on half h among all, 1 the most accurate on the other half; ties
    share theirs. With few subsets a rank says little.
    """
    if len(subsets) < 2:
        return {}
    chosen, all_of_them = Scores.zeros(len(bench.groups)), Scores.zeros(len(bench.groups))
    tree: Tree = {"n_subsets": len(subsets)}
    for half in (0, 1):
        mean = [_mean_pairwise(similarity[half], subset) for subset in subsets]
        which = int(np.argmin(mean))
        other = [restricted(s, bench.half(1 - half)) for s in scores]
        chosen, all_of_them = chosen + other[which], all_of_them + mean_scores(other)
        right = np.array([s.correct.sum() for s in other])
        better, tied = np.count_nonzero(right > right[which]), np.count_nonzero(right == right[which])
        tree[f"subset_{half}"] = np.array(subsets[which])
        tree[f"rank_{half}"] = float(1 + better + (tied - 1) / 2)
        tree[f"similarity_{half}"] = np.array(mean)
    return (
        tree
        | _scored(chosen)
        | {
            "accuracy_minus_random": chosen.accuracy_minus(all_of_them).as_dict(),
            "loss_minus_random": chosen.loss_minus(all_of_them).as_dict(),
        }
    )


def similarities(bench: Bench, names: list[str], half: int) -> np.ndarray:
    """(n, n) linear CKA of members at the layer by which they are chosen, from one half of the image groups."""
    fit = bench.comparisons()
    wanted = bench.config.ensemble.dissimilarity
    (comparison,) = chosen_comparisons(bench, [wanted] if wanted else [fit[-1].name])
    found = np.eye(len(names))
    for i, j in itertools.combinations(range(len(names)), 2):
        pair = bench.pair(comparison.name, names[i], names[j])
        found[i, j] = found[j, i] = linear_cka(bench.half_moments(pair, half))
    return found


def some_subsets(n: int, m: int, most: int, seed: int) -> list[Subset]:
    """All subsets of m of n, or ``most`` different ones drawn by seed, in order."""
    if comb(n, m) <= most:
        return list(itertools.combinations(range(n), m))
    generator = np.random.default_rng([seed, n, m])
    drawn: set[Subset] = set()
    while len(drawn) < most:
        drawn.add(tuple(sorted(int(k) for k in generator.permutation(n)[:m])))
    return sorted(drawn)


def restricted(scores: Scores, groups: np.ndarray) -> Scores:
    """The scores of some image groups."""
    kept = np.isin(np.arange(len(scores.count)), groups)
    return Scores(scores.count * kept, scores.correct * kept, scores.loss * kept)


def _best_of_other_half(bench: Bench, singles: list[Scores]) -> Scores:
    """The single net that is most accurate on one half of the image groups, scored on the other."""
    found = Scores.zeros(len(bench.groups))
    for half in (0, 1):
        best = int(np.argmax([s.correct[bench.half(half)].sum() for s in singles]))
        found = found + restricted(singles[best], bench.half(1 - half))
    return found


def _mean_pairwise(similarity: np.ndarray, subset: Subset) -> float:
    return float(np.mean([similarity[i, j] for i, j in itertools.combinations(subset, 2)]))


def _scored(scores: Scores) -> Tree:
    return {
        "accuracy": scores.accuracy().as_dict(),
        "loss": scores.mean_loss().as_dict(),
        "scores": scores.as_dict(),
    }


def _key(subset: Subset) -> str:
    return "+".join(map(str, subset))
