"""The report: figures, tables and one offline page, from the two files of results alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jinja2
import numpy as np

from convergence.analysis.file import open_analysis
from convergence.answers import answers
from convergence.errors import UserError
from convergence.experiment import ReportConfig
from convergence.figures import FIGURES, JOINT_FIGURES
from convergence.figures.overview import overview
from convergence.figures.style import Drawing
from convergence.files import atomic_write
from convergence.similarity import MEASURES
from convergence.statistics.file import StatisticsFile, open_statistics
from convergence.summary import Layer, PairResult, Summary, held_out, kinds_of, measured, read_layers

logger = logging.getLogger(__name__)


class Titled(Protocol):
    """What a report needs of an experiment."""

    @property
    def name(self) -> str: ...

    @property
    def report(self) -> ReportConfig: ...


def report(statistics: Path, analysis: Path, target: Path, experiment: Titled) -> None:
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
        drawings = _drawings(layer, pair) if pair else []
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
    whole = [layer for layer in layers if layer.whole and layer.pairs]
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=experiment.report.title or experiment.name,
            facts=facts,
            answers=answers(whole),
            overview=_place(overview(whole), building) if whole else None,
            table=_table(whole),
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


def _drawings(layer: Layer, pair: PairResult) -> list[Drawing]:
    """The figures that a comparison has something to show in."""
    if not layer.whole:
        return [drawing for name in JOINT_FIGURES for drawing in JOINT_FIGURES.load(name)(layer)]
    return [drawing for name in FIGURES if (drawing := FIGURES.load(name)(layer, pair)) is not None]


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


def _shown_pair(layer: Layer, experiment: Titled) -> PairResult | None:
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


def _layer_sentence(layer: Layer) -> str:
    """What the layer's matching says, with its chance levels."""
    name = next((m for m in ("matching", "semi_matching") if m in layer.measures()), None)
    trained = measured(layer, name, "trained") if name else None
    if name is None or trained is None:
        return ""
    words = "matched" if name == "matching" else "best"
    sentence = (
        f"Units of two trained nets correlate at {trained} with their {words} partner on average over "
        f"{trained.n_pairs} pair{'s' * (trained.n_pairs > 1)}; a random rotation of one net's basis leaves "
        f"{trained.estimate.null:.3f}"
    )
    untrained = measured(layer, name, "untrained")
    return sentence + (f", and untrained nets reach {untrained}." if untrained else ".")


def _table(layers: Sequence[Layer]) -> dict[str, Any]:
    """Layer × measure, trained beside untrained beside rotated."""
    measures = [name for name in MEASURES if any(name in layer.measures() for layer in layers)]
    kinds = kinds_of(layers)
    rows = []
    for layer in layers:
        for name in measures:
            if name not in layer.measures():
                continue
            found = {kind: measured(layer, name, kind) for kind in kinds}
            first_kind = next((kind for kind in kinds if found[kind]), None)
            first = found[first_kind] if first_kind else None
            if first is None or first_kind is None:
                continue
            null, calibrated = first.estimate.null, first.estimate.calibrated()
            elsewhere = held_out(layer, name, first_kind)
            rows.append(
                {
                    "layer": layer.name,
                    "measure": MEASURES.load(name).title,
                    "source": MEASURES.load(name).source,
                    "cells": [str(found[kind] or "–") for kind in kinds],
                    "held_out": str(elsewhere or "–"),
                    "calibrated": str(Summary(calibrated, 0, 0, 0)) if calibrated else "–",
                    "spread": f"{first.lowest:.3f} – {first.highest:.3f}",
                    "shifted": "" if np.isnan(first.estimate.shifted) else f"{first.estimate.shifted:.3f}",
                    "null": f"{null:.3f} ± {first.estimate.null_sd:.3f}" if np.isfinite(null) else "–",
                }
            )
    return {
        "n_measures": len(measures),
        "kinds": kinds,
        "rows": rows,
        "has_shifted": any(row["shifted"] for row in rows),
    }
