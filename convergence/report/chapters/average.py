"""The chapter on workers that train apart and average their weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convergence.figures.average import ALIGNMENTS, INITS, drawing
from convergence.functional.averaged import Scored, Training, references, synchronous_bytes, trainings
from convergence.functional.file import FunctionalResults
from convergence.report.matters import Chapter
from convergence.report.tables import MISSING, Table
from convergence.uncertainty import Estimate


def chapter(results: FunctionalResults) -> Chapter:
    """What averaging costs and keeps, and where alignment changes it."""
    tree = results.tree
    found, other, sent = trainings(tree), references(tree), synchronous_bytes(tree)
    return Chapter(
        title="Can workers that train apart be averaged?",
        sentences=tuple(_sentences(found, other, sent, tree["about"])),
        about=_about(tree["about"], results),
        tables=(_at_the_end(found, other, sent), _first_average(found)),
        drawings=(drawing(found, other, sent),),
    )


def _sentences(found: Sequence[Training], other: dict[str, Scored], sent: float, about: dict[str, object]) -> list[str]:
    whose = "held-out" if about["split"] == "test" else "training"
    said = [
        f"{about['workers']} workers share each batch of {about['batch_size']} images for {about['epochs']} of the "
        f"run's {about['run_epochs']} epochs. Where their gradients are averaged at each of the {about['steps']} "
        f"steps, which is one net with the whole batch, {whose} accuracy is {_percent(other['synchronous'].accuracy)}. "
        f"One worker that never meets the others reaches {_percent(other['one_worker'].accuracy)}, and the workers as "
        f"an ensemble {_percent(other['ensemble'].accuracy)}."
    ]
    plain = {init: [t for t in found if (t.init, t.align) == (init, "none")] for init in INITS}
    said = [_verdicts(found), *said]
    if plain["same"]:
        parts = [
            f"{_percent(t.final.accuracy)} {_when(t)} ({sent / t.sent:.0f} times fewer bytes than gradients; "
            f"{_points(t.final.minus(other['synchronous']))} against them)"
            for t in plain["same"]
        ]
        said.append(f"From one init, plain averages reach {_list(parts)}.")
        against = [
            f"{_points(t.final.minus(other['one_worker']))} {_when(t)}, "
            f"{_verdict(t.final.minus(other['one_worker']), 'which pays', 'which does not pay')}"
            for t in plain["same"]
        ]
        said.append(f"Against a worker that sends nothing and never meets the others, that is {_list(against)}.")
    if plain["different"]:
        parts = [f"{_percent(t.final.accuracy)} {_when(t)}" for t in plain["different"]]
        said.append(f"From different inits, plain averages reach {_list(parts)}.")
    said += [sentence for init in INITS if (sentence := _alignment(found, init))]
    same, different = (
        {(t.align, t.every): t for t in found if t.init == init and t.align != "random"} for init in INITS
    )
    left = []
    for every in sorted({e for _, e in same} & {e for _, e in different}):
        best = max((t for (_, e), t in different.items() if e == every), key=lambda t: t.final.accuracy.value)
        start = max((t for (_, e), t in same.items() if e == every), key=lambda t: t.final.accuracy.value)
        left.append(f"{_points(best.final.minus(start.final))} {_when(best)}")
    if left:
        said.append(
            "That all begin alike costs no bytes. The best of different inits against the best of one init, aligned or "
            f"not, is {_list(left)}."
        )
    longest = [t for t in found if t.whole and np.isfinite(t.first.accuracy.null)]
    if longest:
        t = longest[0]
        said.append(
            f"Chance: with the units of each worker in random order, the average at the end of training from "
            f"{INITS[t.init][1]} answers {100 * t.first.accuracy.null:.1f} ± {100 * t.first.accuracy.null_sd:.1f} % "
            "correctly."
        )
    return said


def _alignment(found: Sequence[Training], init: str) -> str:
    """What alignment changes for workers of one kind of start, each kind of alignment beside plain averages."""
    plain = {t.every: t for t in found if (t.init, t.align) == (init, "none")}
    said = []
    for align in ("weight", "activation"):
        lines = [t for t in found if (t.init, t.align) == (init, align)]
        pairs = [(t, plain[t.every]) for t in lines if t.every in plain]
        if not pairs:
            continue
        how = ALIGNMENTS[align][2]
        cost = _more(pairs[0][0].sent / pairs[0][1].sent)
        if all(t.moved == (0.0, 0.0) for t, _ in pairs):
            said.append(
                f"{INITS[init][1].capitalize()}, {how}: alignment moves no unit before any average, so it changes "
                f"nothing and does not help; it sends {cost}."
            )
            continue
        changes = [
            f"{_points(t.final.minus(p.final))} {_when(t)}, {_verdict(t.final.minus(p.final))}" for t, p in pairs
        ]
        share = np.mean([t.moved[0] for t, _ in pairs])
        later = np.mean([t.moved[1] for t, _ in pairs])
        said.append(
            f"{INITS[init][1].capitalize()}, {how}: {100 * share:.0f} % of the units change places before the first "
            f"average and {100 * later:.1f} % before a later one, and the end is, against plain averages, "
            f"{_list(changes)}; it sends {cost}."
        )
    return " ".join(said)


def _verdicts(found: Sequence[Training]) -> str:
    """The short answer: for each start whether any alignment is worth its bytes at the end."""
    said = []
    for init in INITS:
        plain = {t.every: t for t in found if (t.init, t.align) == (init, "none")}
        aligned = [t for t in found if t.init == init and t.align in ("weight", "activation") and t.every in plain]
        if aligned:
            helps = [t for t in aligned if t.final.minus(plain[t.every].final).low > 0]
            said.append(
                f"from {INITS[init][1]} alignment "
                + ("does not help" if not helps else f"helps in {len(helps)} of {len(aligned)} cases")
            )
    if not said:
        return "Nothing was aligned: what follows is about plain averages."
    return f"{_list(said)[0].upper()}{_list(said)[1:]}, beyond the interval over images."


def _when(t: Training) -> str:
    return "once at the end" if t.whole else f"every {t.every:,} step{'s' * (t.every > 1)}"


def _verdict(difference: Estimate, good: str = "which helps", bad: str = "which hurts") -> str:
    return good if difference.low > 0 else bad if difference.high < 0 else "no difference beyond the interval"


def _at_the_end(found: Sequence[Training], other: dict[str, Scored], sent: float) -> Table:
    rows = [
        (
            INITS[t.init][1],
            ALIGNMENTS[t.align][2],
            _averages(t),
            _megabytes(t.sent),
            _percent(t.final.accuracy),
            f"{100 * t.final.lowest:.1f} – {100 * t.final.highest:.1f} %",
            _points(t.final.minus(other["synchronous"])),
            f"{t.final.loss.value:.3f} [{t.final.loss.low:.3f}, {t.final.loss.high:.3f}]",
        )
        for t in found
    ]
    words = {"synchronous": "gradients averaged each step", "ensemble": "ensemble of workers that never meet",
             "one_worker": "one worker that never meets others"}  # fmt: skip
    for name, s in other.items():
        rows.append(
            (
                words[name], MISSING, "at each step" if name == "synchronous" else "never",
                _megabytes(sent) if name == "synchronous" else "0", _percent(s.accuracy),
                f"{100 * s.lowest:.1f} – {100 * s.highest:.1f} %",
                MISSING if name == "synchronous" else _points(s.minus(other["synchronous"])),
                f"{s.loss.value:.3f} [{s.loss.low:.3f}, {s.loss.high:.3f}]",
            )
        )  # fmt: skip
    columns = ("start", "alignment", "averages", "sent by a worker", "accuracy", "lowest – highest repeat",
               "against gradients", "loss (nats)")  # fmt: skip
    return Table.of("At the end of training", columns, rows, wide=True)


def _first_average(found: Sequence[Training]) -> Table:
    rows = [
        (
            INITS[t.init][1],
            ALIGNMENTS[t.align][2],
            f"{t.every:,}",
            _percent(t.before.accuracy),
            _percent(t.first.accuracy),
            _points(t.gain),
            f"{100 * t.first.accuracy.null:.1f} ± {100 * t.first.accuracy.null_sd:.1f} %"
            if np.isfinite(t.first.accuracy.null)
            else MISSING,
            f"{100 * t.moved[0]:.0f} %",
            f"{100 * t.moved[1]:.1f} %" if t.rounds > 1 else MISSING,
        )
        for t in found
    ]
    columns = ("start", "alignment", "steps before it", "workers before", "average", "change", "units in random order",
               "units moved", "moved later")  # fmt: skip
    return Table.of("The first average", columns, rows, wide=True)


def _about(about: dict[str, object], results: FunctionalResults) -> str:
    text = (
        f"Local SGD (Stich 2019; McMahan et al. 2017). A batch of the run's training is dealt to the "
        f"{about['workers']} workers, so together they see the images that one net sees, in the same steps; after so "
        "many steps their weights are averaged, weighted by the images that each saw, and all go on from the mean. "
        f"Network and seed are those of {about['net']} ({about['network']}, {about['optimizer']}); moments of the "
        f"optimiser are {'averaged too' if about['optimizer_state'] == 'average' else 'kept by each worker'} and take "
        "the order of the weights. Workers are aligned onto the first one by weights (Ainsworth et al. 2023) or by "
        "correlations of activations. Bytes are those a worker sends, for P bytes that are averaged: a ring "
        "all-reduce, 2 (K − 1) / K · P an average; alignment adds (K − 1) / K times the weights, or the activations, "
        f"of the first worker. Scores are of {results.n_images:,} images in {results.n_groups} groups; intervals are "
        f"over the images and say nothing of other seeds: the repeats ({about['repeats']}, with other seeds and "
        "another order of the images) have their lowest and highest value in the table."
    )
    if about["cannot_permute"]:
        text += f" The units of this net cannot be permuted ({about['cannot_permute']}), so there is no chance level."
    return text


def _more(ratio: float) -> str:
    return f"{100 * (ratio - 1):.0f} % more bytes" if ratio < 2 else f"{ratio:.0f} times the bytes"


def _averages(t: Training) -> str:
    return "one average at the end" if t.whole else f"an average every {t.every:,} step{'s' * (t.every > 1)}"


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _points(e: Estimate) -> str:
    """A difference of accuracies in percentage points."""
    return f"{_signed(e.value)} points [{_signed(e.low)}, {_signed(e.high)}]"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.3g} MB"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}"
