"""Figure of averaging: accuracy against bytes sent, and accuracy after the first average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convergence.figures.style import (
    ACCENT,
    NULL,
    SECOND,
    TRAINED,
    UNTRAINED,
    Drawing,
    drawing_style,
    new_figure,
    printing,
)
from convergence.functional.averaging.results import MeanScore, MeanTraining

INITS = {"same": (TRAINED, "one init"), "different": (UNTRAINED, "different inits")}
ALIGNMENTS = {
    "none": ("o", "-", "not aligned"),
    "weight": ("s", "--", "aligned by weights"),
    "activation": ("^", ":", "aligned by activations"),
    "random": ("x", "-.", "randomly permuted"),
}
REFERENCES = {
    "synchronous": (ACCENT, "-", "gradients averaged each step"),
    "ensemble": (SECOND, "--", "ensemble of the workers"),
    "one_worker": (NULL, ":", "one worker alone"),
}


def drawing(
    trainings: Sequence[MeanTraining], references: Mapping[str, MeanScore], synchronous_bytes: float
) -> Drawing:
    """Left: final accuracy against bytes sent. Right: accuracy of the first average against the steps before it."""
    figure, axes = new_figure(9.4, 4.6, 2, narrowest=3.0)
    kinds = list(dict.fromkeys((t.init, t.align) for t in trainings))
    with drawing_style():
        for init, align in kinds:
            lines = [t for t in trainings if (t.init, t.align) == (init, align)]
            colour, start = INITS[init]
            marker, dash, how = ALIGNMENTS[align]
            style: dict[str, Any] = {
                "color": colour, "marker": marker, "linestyle": dash, "capsize": 2.5, "markersize": 5,
                "markerfacecolor": colour if align == "none" else "white", "label": f"{start}, {how}",
            }  # fmt: skip
            for ax, x, scored in (
                (axes[0], [t.sent / 1e6 for t in lines], [t.final for t in lines]),
                (axes[1], [t.every for t in lines], [t.first for t in lines]),
            ):
                values = np.array([s.accuracy.value for s in scored])
                low, high = (np.array([getattr(s.accuracy, end) for s in scored]) for end in ("low", "high"))
                ax.errorbar(x, values, [values - low, high - values], **style)
        for name, (colour, dash, word) in REFERENCES.items():
            e = references[name].accuracy
            axes[0].axhline(e.value, color=colour, linestyle=dash, linewidth=1.2, label=word, zorder=1)
        e = references["synchronous"].accuracy
        axes[0].plot(synchronous_bytes / 1e6, e.value, "D", color=REFERENCES["synchronous"][0], markersize=6)
        for init in dict.fromkeys(t.init for t in trainings):
            lines = [t for t in trainings if (t.init, t.align) == (init, next(a for i, a in kinds if i == init))]
            grey, word = ("#444444", "-") if init == "same" else ("#999999", "--")
            axes[1].plot(
                [t.every for t in lines], [t.before.accuracy.value for t in lines], color=grey, linestyle=word,
                linewidth=1, marker=".", label=f"workers before it, {INITS[init][1]}",
            )  # fmt: skip
        chance = [(t.every, t.first.accuracy.null) for t in trainings if np.isfinite(t.first.accuracy.null)]
        if chance:
            every = sorted({x for x, _ in chance})
            level = [float(np.mean([y for x, y in chance if x == one])) for one in every]
            axes[1].plot(every, level, color=NULL, linewidth=3, alpha=0.35, label="random permutations")
        axes[0].set_title("At the end of training")
        axes[0].set_xlabel("megabytes sent per worker")
        axes[0].set_ylabel("held-out accuracy")
        axes[1].set_title("After the first average")
        axes[1].set_xlabel("steps before it")
        shown: set[str] = set()
        for ax in axes:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_ylim(0, 1.03)
            handles = [
                (h, label) for h, label in zip(*ax.get_legend_handles_labels(), strict=True) if label not in shown
            ]
            shown |= {label for _, label in handles}
            ax.legend(
                *zip(*handles, strict=True), loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize="small",
                ncols=1 if printing() else 2,
            )  # fmt: skip
    rows = [
        (
            t.init, t.align, "whole" if t.whole else t.every, t.rounds, t.sent,
            *(value for s in (t.final, t.first, t.before) for value in _numbers(s)),
            t.gain.value, t.gain.low, t.gain.high, t.moved[0], t.moved[1],
        )
        for t in trainings
    ]  # fmt: skip
    rows += [
        (name, "", "", "", synchronous_bytes if name == "synchronous" else 0, *_numbers(s), *[""] * 19)
        for name, s in references.items()
    ]
    parts = ("value", "low", "high", "null", "null_sd", "lowest_repeat", "highest_repeat")
    return Drawing(
        name="averaging",
        title="Accuracy against bytes sent",
        caption="Means over repeats with 95 % jackknife intervals over image groups. Right: accuracy of the first "
        "average, of the workers before it, and of their average with random permutations of the units.",
        alt="Left, held-out accuracy at the end of training against megabytes sent per worker, a line per "
        "initialisation and alignment. Right, accuracy after the first average against the steps before it.",
        figure=figure,
        columns=(
            "init", "alignment", "steps", "rounds", "bytes",
            *(f"{what}_{part}" for what in ("final", "first_average", "workers_before") for part in parts),
            "gain", "gain_low", "gain_high", "moved_first", "moved_later",
        ),
        rows=rows,
    )  # fmt: skip


def _numbers(scored: MeanScore) -> tuple[float, ...]:
    e = scored.accuracy
    return e.value, e.low, e.high, e.null, e.null_sd, scored.lowest, scored.highest
