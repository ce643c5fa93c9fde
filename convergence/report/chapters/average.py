"""The chapter on averaging: workers that train apart and average their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from convergence.figures.average import ALIGNMENTS, INITS, drawing
from convergence.functional.averaging.results import AveragingResults, AveragingStudy, MeanScore, MeanTraining
from convergence.functional.file import FunctionalResults
from convergence.inference import Estimate
from convergence.report.chapters.numbers import listed, percent, points
from convergence.report.functional_page import Chapter
from convergence.report.tables import MISSING, Table

References = Mapping[str, MeanScore]
REFERENCES = {
    "synchronous": "gradients averaged each step",
    "ensemble": "ensemble of workers without averages",
    "one_worker": "one worker without averages",
}


def chapter(results: FunctionalResults[AveragingResults]) -> Chapter:
    """The chapter of ``average.h5``."""
    tables = results.tables
    found, references, sent = tables.mean_trainings(), tables.mean_references(), tables.synchronous_bytes
    (study,) = tables.study
    return Chapter(
        title="Can workers that train apart be averaged?",
        sentences=tuple(_sentences(found, references, sent, study)),
        about=_about(study, results),
        tables=(_final_table(found, references, sent), _first_table(found)),
        drawings=(drawing(found, references, sent),),
    )


def _sentences(found: Sequence[MeanTraining], references: References, sent: float, study: AveragingStudy) -> list[str]:
    whose = "held-out" if study.split == "test" else "training"
    said = [
        _verdicts(found),
        f"{study.workers} workers share batches of {study.batch_size} images for {study.epochs} of the run's "
        f"{study.run_epochs} epochs. With gradients averaged at each of the {study.steps} steps, which is one net with "
        f"the whole batch, {whose} accuracy is {percent(references['synchronous'].accuracy)}. One worker without "
        f"averages has {percent(references['one_worker'].accuracy)}, the ensemble of the workers "
        f"{percent(references['ensemble'].accuracy)}.",
    ]
    plain = {init: [t for t in found if (t.init, t.align) == (init, "none")] for init in INITS}
    if plain["same"]:
        parts = [
            f"{percent(t.final.accuracy)} {_when(t)} ({sent / t.sent:.0f} times fewer bytes than gradients, "
            f"{points(t.final.minus(references['synchronous']))} against them)"
            for t in plain["same"]
        ]
        said.append(f"From one init, averages without alignment have an accuracy of {listed(parts)}.")
        against = [
            f"{points(t.final.minus(references['one_worker']))} {_when(t)} "
            f"({_verdict(t.final.minus(references['one_worker']), 'better', 'worse')})"
            for t in plain["same"]
        ]
        said.append(f"Against one worker without averages, which sends nothing, these are {listed(against)}.")
    if plain["different"]:
        parts = [f"{percent(t.final.accuracy)} {_when(t)}" for t in plain["different"]]
        said.append(f"From different inits, averages without alignment have an accuracy of {listed(parts)}.")
    said += [sentence for init in INITS if (sentence := _alignment(found, init))]
    same, different = ([t for t in found if t.init == init and t.align != "random"] for init in INITS)
    left = []
    for every in sorted({t.every for t in same} & {t.every for t in different}):
        best, other = (
            max((t for t in of if t.every == every), key=lambda t: t.final.accuracy.value) for of in (different, same)
        )
        left.append(f"{points(best.final.minus(other.final))} {_when(best)}")
    if left:
        said.append(
            "Starting from one init costs no bytes. The best training from different inits, aligned or not, differs "
            f"from the best from one init by {listed(left)}."
        )
    longest = next((t for t in found if t.whole and np.isfinite(t.first.accuracy.null)), None)
    if longest:
        null = longest.first.accuracy
        said.append(
            f"Chance: with the units of each worker randomly permuted, the average at the end of training from "
            f"{INITS[longest.init][1]} has an accuracy of {100 * null.null:.1f} ± {100 * null.null_sd:.1f} %."
        )
    return said


def _alignment(found: Sequence[MeanTraining], init: str) -> str:
    """What each alignment changes for one initialisation, against averages without alignment."""
    plain = {t.every: t for t in found if (t.init, t.align) == (init, "none")}
    said = []
    for align in ("weight", "activation"):
        pairs = [(t, plain[t.every]) for t in found if (t.init, t.align) == (init, align) and t.every in plain]
        if not pairs:
            continue
        start = f"From {INITS[init][1]}, {ALIGNMENTS[align][2]}"
        cost = _more(pairs[0][0].sent / pairs[0][1].sent)
        if all(t.moved == (0.0, 0.0) for t, _ in pairs):
            said.append(f"{start}: alignment moves no unit and changes nothing, for {cost}.")
            continue
        changes = [
            f"{points(t.final.minus(p.final))} {_when(t)} ({_verdict(t.final.minus(p.final), 'better', 'worse')})"
            for t, p in pairs
        ]
        share, later = (100 * np.mean([t.moved[k] for t, _ in pairs]) for k in (0, 1))
        said.append(
            f"{start}: alignment moves {share:.0f} % of the units before the first average and {later:.1f} % before a "
            f"later one. Final accuracy changes by {listed(changes)}, for {cost}."
        )
    return " ".join(said)


def _verdicts(found: Sequence[MeanTraining]) -> str:
    """For each initialisation, whether an alignment raises the final accuracy."""
    said = []
    for init in INITS:
        plain = {t.every: t for t in found if (t.init, t.align) == (init, "none")}
        aligned = [t for t in found if t.init == init and t.align in ("weight", "activation") and t.every in plain]
        if aligned:
            helps = sum(t.final.minus(plain[t.every].final).low > 0 for t in aligned)
            verdict = f"helps in {helps} of {len(aligned)} trainings" if helps else "does not help"
            said.append(f"Alignment {verdict} from {INITS[init][1]}.")
    return " ".join(said) or "No training was aligned."


def _when(t: MeanTraining) -> str:
    return "once at the end" if t.whole else f"every {t.every:,} step{'s' * (t.every > 1)}"


def _verdict(e: Estimate, good: str, bad: str) -> str:
    return good if e.low > 0 else bad if e.high < 0 else "no clear difference"


def _final_table(found: Sequence[MeanTraining], references: References, sent: float) -> Table:
    rows = [
        (
            INITS[t.init][1], ALIGNMENTS[t.align][2], _when(t), _megabytes(t.sent), *_scored(t.final),
            points(t.final.minus(references["synchronous"])), _loss(t.final),
        )
        for t in found
    ]  # fmt: skip
    for name, score in references.items():
        is_synchronous = name == "synchronous"
        rows.append((
            REFERENCES[name], MISSING, "each step" if is_synchronous else "never",
            _megabytes(sent) if is_synchronous else "0", *_scored(score),
            MISSING if is_synchronous else points(score.minus(references["synchronous"])), _loss(score),
        ))  # fmt: skip
    columns = ("init", "alignment", "averages", "sent per worker", "accuracy", "lowest – highest repeat",
               "against gradients", "loss (nats)")  # fmt: skip
    return Table.of("At the end of training", columns, rows, wide=True)


def _first_table(found: Sequence[MeanTraining]) -> Table:
    rows = [
        (
            INITS[t.init][1], ALIGNMENTS[t.align][2], f"{t.every:,}", percent(t.before.accuracy),
            percent(t.first.accuracy), points(t.gain),
            f"{100 * t.first.accuracy.null:.1f} ± {100 * t.first.accuracy.null_sd:.1f} %"
            if np.isfinite(t.first.accuracy.null)
            else MISSING,
            f"{100 * t.moved[0]:.0f} %", f"{100 * t.moved[1]:.1f} %" if t.rounds > 1 else MISSING,
        )
        for t in found
    ]  # fmt: skip
    columns = ("init", "alignment", "steps before it", "workers before it", "average", "change", "random permutations",
               "units moved", "moved later")  # fmt: skip
    return Table.of("The first average", columns, rows, wide=True)


def _scored(score: MeanScore) -> tuple[str, str]:
    return percent(score.accuracy), f"{100 * score.lowest:.1f} – {100 * score.highest:.1f} %"


def _loss(score: MeanScore) -> str:
    return f"{score.loss.value:.3f} [{score.loss.low:.3f}, {score.loss.high:.3f}]"


def _about(study: AveragingStudy, results: FunctionalResults[AveragingResults]) -> str:
    text = (
        "Local SGD (Stich 2019; McMahan et al. 2017). Each batch of the run's training is split over the "
        f"{study.workers} workers, which together see the images of one net in the same steps. At each average the "
        "weights are averaged, weighted by the images that each worker saw, and all workers continue from the mean. "
        f"Network and seed are those of {study.net} ({study.network}, {study.optimizer}); moments of the optimiser are "
        f"{'averaged, too,' if study.optimizer_state == 'average' else 'kept by each worker'} and permuted like the "
        "weights. Workers are aligned to the first by weights (Ainsworth et al. 2023) or by correlations of "
        "activations. Bytes are those that a worker sends for P averaged bytes: a ring all-reduce, 2 (K − 1) / K · P "
        "per average; alignment adds (K − 1) / K times the weights, or the activations, of the first worker. Scores "
        f"are of {results.n_images:,} images in {results.n_groups} groups. Intervals are over images and do not "
        f"include variation over seeds; the table has the lowest and highest of {study.repeats} repeats, with other "
        "seeds and another order of the images. Docs: functional/averaging.md."
    )
    if study.cannot_permute:
        text += f" The units of this net cannot be permuted ({study.cannot_permute}), so that there is no null."
    return text


def _more(ratio: float) -> str:
    return f"{100 * (ratio - 1):.0f} % more bytes" if ratio < 2 else f"{ratio:.0f} times the bytes"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.3g} MB"
