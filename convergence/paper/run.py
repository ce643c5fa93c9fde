"""``convergence paper RUN``: the paper's tables and figures for an analysed run; needs neither torch nor MPI."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from convergence.alignment.mapping_sgd import BATCH, LEARNING_RATE, SHORT_STEPS
from convergence.errors import FileError, UserError, did_you_mean
from convergence.io.files import atomic_write, confined
from convergence.paper.corrections import corrections
from convergence.paper.figures import drawings
from convergence.paper.published import SOURCES
from convergence.paper.readings import LayerReading, read_layer
from convergence.paper.tables import (
    alignment_table,
    information_table,
    nets_table,
    paragraph,
    prediction_table,
    published_activations,
)
from convergence.results import ComparisonResults, PairResults, read_analysis
from convergence.results.run import find_run
from convergence.statistics.file import open_statistics

logger = logging.getLogger(__name__)


def paper(run: str, runs: str, pair: tuple[str, str] | None, steps: int, out: str | None) -> str:
    """Read a run, draw its figures and return its tables as text, the folder of the figures last.

    Parameters
    ----------
    run, runs
        A run folder, or a config whose run folder is below ``runs``.
    pair
        Names of two nets, in either order; None takes the first two trained ones.
    steps
        Of the longer SGD training.
    out
        Folder for figures and ``tables.txt``; None takes ``paper/`` in the run folder.

    Raises
    ------
    UserError
        if there is no such run, it has not been analysed, or no layer has the pair.
    """
    if steps < SHORT_STEPS:
        raise UserError(f"--steps {steps}: the long training takes at least as many steps as the short: {SHORT_STEPS}.")
    folder = find_run(run, runs)
    target = confined(folder, "paper") if out is None else Path(out)
    readings: list[LayerReading] = []
    left_out: list[str] = []
    layers = read_analysis(folder / "analysis.h5").all()
    with (
        open_statistics(folder / "statistics.h5") as statistics,
        threadpool_limits(1),  # the same bits on any number of cores
    ):
        if pair is not None:
            _check_pair(pair, layers)
        _make(target)
        for layer in layers:
            shown = choose_pair(layer, pair)
            if shown is None:
                left_out.append(_why_left_out(layer, pair))
                continue
            logger.info("  %s: %s to %s, %d steps of SGD", layer.name, shown.x, shown.y, steps)
            readings.append(read_layer(layer, shown, statistics, steps))
        nets: list[dict[str, Any]] = statistics.nets
    if not readings:
        raise UserError(f"{folder}: no layer has what the tables need ({'; '.join(left_out)}).")
    for reading in readings:
        for drawing in drawings(reading):
            drawing.save(target, target)
    text = page(folder.resolve().name, readings, nets, left_out)
    with atomic_write(target / "tables.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return f"{text}\n\n{target.resolve()}"


def choose_pair(layer: ComparisonResults, pair: tuple[str, str] | None) -> PairResults | None:
    """The pair that was asked for, in the order of the file; else the first trained one, else the first.

    Where nets take part several times, with layers or epochs, the pair has to be asked for.
    """
    if pair is not None:
        return layer.either_pair(*pair)
    return layer.first_pair if layer.whole else None


def page(name: str, readings: Sequence[LayerReading], nets: Sequence[dict[str, Any]], left_out: Sequence[str]) -> str:
    """All tables with a sentence each, then the corrections."""
    pairs = {(reading.pair.x, reading.pair.y): reading.pair.kind for reading in readings}
    shown = "; ".join(f"{x} to {y} ({kind})" for (x, y), kind in pairs.items())
    sources = "; ".join(f"{letter} {words}" for letter, words in SOURCES.items())
    rates = {f"{r.prediction.learning_rate:.3g}" for r in readings if r.prediction} or {f"{LEARNING_RATE:g}"}
    rate = " or ".join(sorted(rates, key=float)) + (", as fits the layer" if len(rates) > 1 else "")
    parts = [
        paragraph(f"{name}: the paper's tables for {shown}."),
        paragraph(f"Published values are of AlexNet, Net1 to Net2, and marked by source: {sources}."),
        *(paragraph(f"Left out: {reason}.") for reason in left_out),
        _heading("Alignment of single units"),
        paragraph(
            "Mean correlation ± jackknife error over image groups (mean with y in a random basis ± its "
            "standard deviation); same: share of units with the same partner by both; r < .5: share of units whose "
            "semi-matched r is below."
        ),
        alignment_table(readings),
        _heading("Prediction of a unit from few units (Table 1)"),
        paragraph(
            f"Loss ½ (1 − R²) by penalty λ = alpha / C: .5 nothing explained, 0 all. SGD with momentum .9, learning "
            f"rate {rate}, Xavier weights, minibatches of {BATCH} Gaussian samples: {SHORT_STEPS} such steps give the "
            "published losses on the recovered conv1. Weights: mean number above .01 a target."
        ),
        prediction_table(readings),
        _heading("Mutual information of semi-matched pairs (nats)"),
        paragraph(
            "Corrected for the bias of counting: 0 is independence. Same by r: how many of the best pairs are best by "
            "r as well."
        ),
        information_table(readings),
        _heading("Nets: accuracy on held-out images, mean activation of the most active unit ± jackknife error"),
        nets_table(readings, nets),
        *([paragraph(said)] if (said := published_activations(readings)) else []),
        _heading("Corrections of the paper"),
        *("\n".join(paragraph(line, "   ") for line in text.splitlines()) for text in corrections(readings)),
    ]
    return "\n\n".join(parts)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: no folder for figures: {error}. Choose another with --out.") from error


def _heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}"


def _check_pair(pair: tuple[str, str], layers: Sequence[ComparisonResults]) -> None:
    known = {net for layer in layers for net in layer.nets}
    for name in pair:
        if name not in known:
            raise UserError(f"--pair {' '.join(pair)}: the run has no net {name}; {did_you_mean(name, known)}.")
    if pair[0] == pair[1]:
        raise UserError(f"--pair {' '.join(pair)}: give two different nets; {did_you_mean(pair[0], known)}.")


def _why_left_out(layer: ComparisonResults, pair: tuple[str, str] | None) -> str:
    if pair is None and not layer.whole:
        x, y = layer.nets[0], layer.nets[-1]
        return f"{layer.name}: nets take part with several layers or epochs; name two, as in --pair {x} {y}"
    if pair is None:
        reasons = "; ".join(sorted(set(layer.left_out.values()))) or "it has fewer than two nets"
        return f"{layer.name}: {reasons}"
    reason = layer.why_left_out(*pair)
    return f"{layer.name}: {reason or f'it does not hold both {pair[0]} and {pair[1]}'}"
