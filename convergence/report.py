"""The report: figures, tables and one offline page, from the two files of results alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from convergence.analysis.file import open_analysis
from convergence.config import Experiment
from convergence.errors import UserError
from convergence.figures import FIGURES
from convergence.figures.overview import overview
from convergence.figures.style import Drawing
from convergence.files import atomic_write
from convergence.similarity import MEASURES
from convergence.statistics.file import StatisticsFile, open_statistics
from convergence.summary import Kind, Layer, PairResult, Summary, mean_over, over_pairs, read_layers

logger = logging.getLogger(__name__)


def report(statistics: Path, analysis: Path, target: Path, experiment: Experiment) -> None:
    """Write ``index.html``, ``figures/`` and ``tables/`` to the folder ``target``, replacing what was there.

    Raises
    ------
    UserError
        if no pair of nets has results.
    """
    with open_statistics(statistics) as sums, open_analysis(analysis) as results:
        layers = read_layers(results)
        facts = _facts(sums, layers)
        provenance = sums.provenance | {"statistics digest": sums.digest, "analysis digest": results.digest}
        config_text = sums.config_text
    if not any(layer.pairs for layer in layers):
        reasons = {reason for layer in layers for reason in layer.left_out.values()}
        raise UserError(
            f"{analysis}: no pair of nets has results ({'; '.join(sorted(reasons))}), so there is no report."
        )
    building = target.with_name(target.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    (building / "figures").mkdir(parents=True)
    (building / "tables").mkdir()

    sections = []
    for layer in layers:
        pair = _shown_pair(layer, experiment)
        drawings = [d for name in FIGURES if (d := FIGURES.load(name)(layer, pair)) is not None] if pair else []
        sections.append(
            {
                "layer": layer,
                "pair": pair,
                "figures": [_place(drawing, building) for drawing in drawings],
                "left_out_units": _left_out_units(layer),
                "sentence": _layer_sentence(layer),
            }
        )
        logger.info("  %s: %d figures", layer.name, len(drawings))
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=experiment.report.title or experiment.name,
            facts=facts,
            answers=_answers(layers),
            overview=_place(overview([layer for layer in layers if layer.pairs]), building),
            table=_table(layers),
            sections=sections,
            nets=facts["nets"],
            provenance=provenance,
            config=config_text,
        )
    )
    with atomic_write(building / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    building.replace(target)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("convergence", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits=3: f"{value:.{digits}f}"
    return environment


def _place(drawing: Drawing, folder: Path) -> dict[str, Any]:
    return {"drawing": drawing, "image": drawing.save(folder / "figures", folder / "tables")}


def _shown_pair(layer: Layer, experiment: Experiment) -> PairResult | None:
    """The pair that is shown unit by unit: the config's choice, else the first trained one, else the first."""
    if experiment.report.pair is not None:
        x, y = experiment.report.pair
        chosen = layer.pair(x, y) or layer.pair(y, x)
        if chosen:
            return chosen
    return next(iter([*layer.of_kind("trained"), *layer.pairs]), None)


def _facts(sums: StatisticsFile, layers: Sequence[Layer]) -> dict[str, Any]:
    return {
        "n_images": sums.n_images,
        "n_groups": sums.n_groups,
        "nets": sums.nets,
        "n_trained": sum(bool(net["trained"]) for net in sums.nets),
        "n_untrained": sum(not net["trained"] for net in sums.nets),
        "layers": [layer.name for layer in layers],
    }


def _left_out_units(layer: Layer) -> list[str]:
    """One phrase a net with units that carry nothing."""
    phrases = []
    for k, net in enumerate(layer.nets):
        of_net = layer.units["net"] == k
        reasons = [str(reason) for reason in layer.units["left_out_because"][of_net] if reason]
        if reasons:
            said = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
            phrases.append(f"{net}: {len(reasons)} of {int(of_net.sum())} units ({said})")
    return phrases


def _quote(summary: Summary | None) -> str:
    """A number as it is quoted in a sentence: value, interval."""
    if summary is None:
        return "–"
    e = summary.estimate
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def _layer_sentence(layer: Layer) -> str:
    """What the layer's matching says, with its chance levels."""
    name = next((m for m in ("matching", "semi_matching") if m in layer.measures()), None)
    trained = over_pairs(layer, name, "trained") if name else None
    if name is None or trained is None:
        return ""
    words = "matched" if name == "matching" else "best"
    sentence = (
        f"Units of two trained nets correlate at {_quote(trained)} with their {words} partner on average over "
        f"{trained.n_pairs} pair{'s' * (trained.n_pairs > 1)}; a random rotation of one net's basis leaves "
        f"{trained.estimate.null:.3f}"
    )
    untrained = over_pairs(layer, name, "untrained")
    return sentence + (f", and untrained nets reach {_quote(untrained)}." if untrained else ".")


def _answers(layers: Sequence[Layer]) -> list[dict[str, str]]:
    """The questions of the study, answered for this run in sentences that carry their numbers."""
    answers = []
    best = [
        (layer, s)
        for layer in layers
        if "matching" in layer.measures() and (s := over_pairs(layer, "matching", "trained"))
    ]
    if best:
        parts = []
        for layer, trained in best:
            untrained = over_pairs(layer, "matching", "untrained")
            beside = f" against {untrained.estimate.value:.2f} untrained" if untrained else ""
            parts.append(f"{layer.name} {trained.estimate.value:.2f}{beside} and {trained.estimate.null:.2f} rotated")
        answers.append(
            {
                "question": "Do nets trained apart learn the same units?",
                "answer": "Mean correlation of one-to-one matched units of two trained nets: " + "; ".join(parts) + ".",
            }
        )
    agreement = [
        f"{layer.name} {100 * float(mean_over(pairs, 'information', 'same_semi_as_correlation')):.0f} %"
        for layer in layers
        if (pairs := layer.of_kind("trained")) and "information" in pairs[0].tree
    ]
    if agreement:
        answers.append(
            {
                "question": "Does the alignment survive another measure?",
                "answer": "Share of units whose best partner by mutual information is also the best by correlation: "
                + "; ".join(agreement)
                + ".",
            }
        )
    few = []
    for layer in layers:
        pairs = layer.of_kind("trained")
        if pairs and "sparse_xy" in pairs[0].tree:
            both = [mean_over(pairs, d, "forward_loss") for d in ("sparse_xy", "sparse_yx")]
            dense = sum(float(mean_over(pairs, d, "dense_loss")) for d in ("sparse_xy", "sparse_yx")) / 2
            forward = (both[0] + both[1]) / 2
            few.append(f"{layer.name} {forward[0]:.3f} from one unit, {dense:.3f} from all")
    if few:
        answers.append(
            {
                "question": "Is the code local, or spread over many units?",
                "answer": "Loss ½(1 − R²) of predicting a unit from another net (0.5: nothing explained): "
                + "; ".join(few)
                + ".",
            }
        )
    distances = []
    for layer in layers:
        pairs, others = layer.of_kind("trained"), layer.of_kind("untrained")
        if pairs:
            beside = f" ({float(mean_over(others, 'mean_activations', 'value')):.3f} untrained)" if others else ""
            distances.append(f"{layer.name} {float(mean_over(pairs, 'mean_activations', 'value')):.3f}{beside}")
    if distances:
        answers.append(
            {
                "question": "Do activation statistics converge?",
                "answer": "Relative distance of the sorted mean activations of two trained nets: "
                + "; ".join(distances)
                + ".",
            }
        )
    return answers


def _table(layers: Sequence[Layer]) -> dict[str, Any]:
    """Layer × measure, trained beside untrained beside rotated."""
    measures = [name for name in MEASURES if any(name in layer.measures() for layer in layers)]
    kinds: list[Kind] = [k for k in ("trained", "untrained") if any(layer.of_kind(k) for layer in layers)]
    rows = []
    for layer in layers:
        for name in measures:
            if name not in layer.measures():
                continue
            found = {kind: over_pairs(layer, name, kind) for kind in kinds}
            first = next((s for s in found.values() if s), None)
            if first is None:
                continue
            null = first.estimate.null
            rows.append(
                {
                    "layer": layer.name,
                    "measure": MEASURES.load(name).title,
                    "source": MEASURES.load(name).source,
                    "cells": [_quote(found[kind]) for kind in kinds],
                    "spread": f"{first.lowest:.3f} – {first.highest:.3f}",
                    "null": f"{null:.3f} ± {first.estimate.null_sd:.3f}" if null == null else "unchanged by it",
                }
            )
    return {"kinds": kinds, "rows": rows}
