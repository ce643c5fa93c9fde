"""Data of the unit browser: all results of every unit of a layer, a file for each net, in columns.

A page from disk cannot fetch data, but it can load scripts: each file is one call of a function of the page.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convergence.figures.style import slug
from convergence.report.pair_view import PairView, pair_views
from convergence.report.thumbnail_sheets import RunPictures
from convergence.results import ComparisonResults

TERMS = 6
"""Terms of a recipe that are shown."""


def manifest(
    layers: tuple[ComparisonResults, ...], sheets: dict[str, dict[str, list[dict[str, Any]]]]
) -> list[dict[str, Any]]:
    """Choices of the unit browser: layers, their nets, the units of each, and the sheets of their pictures."""
    return [
        {
            "name": layer.name,
            "nets": [
                {
                    "name": net,
                    "trained": layer.trained[k],
                    "units": layer.widths[k],
                    "file": data_file(layer, net),
                    "sheets": sheets.get(layer.name, {}).get(net, []),
                }
                for k, net in enumerate(layer.nets)
            ],
        }
        for layer in layers
    ]


def data_file(layer: ComparisonResults, net: str) -> str:
    """Where the data of a net's units are, relative to the report."""
    return f"data/{slug(layer.name)}--{slug(net)}.js"


def unit_script(layer: ComparisonResults, member: int, pictures: RunPictures) -> str:
    """The file of a net's units: ``unitData("data/…", {…})``."""
    name = json.dumps(data_file(layer, layer.nets[member]))
    return f"unitData({name}, {script_json(unit_columns(layer, member, pictures))});\n"


def script_json(value: Any) -> str:
    """JSON that is safe in a script element: it cannot close the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


STATS = ("mean", "mean_error", "standard_deviation", "zero_fraction", "median", "percentile_90", "percentile_99")
"""Numbers of a unit; those that come from histograms are not there where groups were cut away."""


def unit_columns(layer: ComparisonResults, member: int, pictures: RunPictures) -> dict[str, Any]:
    """Columns over all units of a net, inactive ones included; null is “not known”, and −1 “none”."""
    name = layer.nets[member]
    units, n = layer.units(name), layer.widths[member]
    stats = {key: numbers(values, 4) for key in STATS if (values := getattr(units, key)) is not None}
    reasons = {i: str(reason) for i, reason in enumerate(units.inactive_reason) if reason}
    others = {
        d.y: _against(d, n)
        for pair in layer.pairs
        for d in pair_views(pair)
        if d.x == name
    }  # fmt: skip
    return {
        "n": n,
        "stats": stats,
        "left_out": reasons,
        "others": {net: others[net] for net in layer.nets if net in others},
        "no_results": {
            other: reason for pair, reason in layer.left_out.items() for own, other in (pair, pair[::-1]) if own == name
        },
        "consensus": _consensus(layer, name, n),
        "pictures": _about_pictures(pictures, layer, member),
    }


def _against(d: PairView, n: int) -> dict[str, Any]:
    """Columns of n units of a net about one other net."""

    def spread(values: Any, digits: int | None, empty: Any) -> list[Any]:
        out: list[Any] = [empty] * n
        shown = [int(v) for v in values] if digits is None else numbers(values, digits)
        for unit, value in zip(d.units.tolist(), shown, strict=True):
            out[unit] = value
        return out

    columns: dict[str, Any] = {
        "best": spread(d.best, None, -1),
        "best_r": spread(d.best_r, 4, None),
        "best_error": spread(d.best_error, 3, None),
        "best_held_out": spread(d.best_held_out, 3, None),
        "null": spread(d.null, 3, None),
        "p": spread(d.p, 5, None),
        "q": spread(d.q, 5, None),
        "matched": spread(d.matched, None, -1),
        "matched_r": spread(d.matched_r, 3, None),
        "matched_error": spread(d.matched_error, 3, None),
        "matched_held_out": spread(d.matched_held_out, 3, None),
    }
    if d.informative is not None:
        columns["informative"] = spread(d.informative, None, -1)
        columns["nats"] = spread(d.nats, 3, None)
        columns["nats_error"] = spread(d.nats_error, 3, None)
    if d.cluster is not None and d.cluster_other is not None:
        columns["cluster"] = spread(d.cluster, None, -1)
        columns["cluster_other"] = [[int(u), int(c)] for u, c in zip(d.units_other, d.cluster_other, strict=True)]
    if d.recipe_units is not None:
        recipe: list[Any] = [None] * n
        for at, unit in enumerate(d.units.tolist()):
            weights = numbers(d.recipe_weights[at, :TERMS], 3)
            found = zip(d.recipe_units[at, :TERMS].tolist(), weights, strict=True)
            recipe[unit] = [[u, w] for u, w in found if u >= 0]
        columns["recipe"] = recipe
        columns["explained"] = spread(1 - 2 * d.recipe_loss, 3, None)
        columns["most_explained"] = spread(1 - 2 * d.best_loss, 3, None)
        columns["units_for_90"] = spread(d.units_for_90, None, 0)
    return columns


def _consensus(layer: ComparisonResults, name: str, n: int) -> dict[str, Any] | None:
    """The consensus unit that each unit belongs to, with its members; None where the net has none."""
    for found in layer.consensus.values():
        nets = list(found.nets)
        if name not in nets:
            continue
        of_unit: list[int] = [-1] * n
        for k, unit in enumerate(found.members[:, nets.index(name)].tolist()):
            if unit >= 0:
                of_unit[unit] = k
        return {
            "nets": nets,
            "of": of_unit,
            "members": found.members.tolist(),
            "n_nets": found.n_nets.tolist(),
            "r": numbers(found.unit_correlation, 3),
            "error": numbers(found.unit_correlation_error, 3),
        }
    return None


def _about_pictures(pictures: RunPictures, layer: ComparisonResults, member: int) -> dict[str, Any] | None:
    """Values beside the pictures: activations of the top images, of the made ones and of the best real image."""
    found = pictures.of(layer, member)
    if found is None:
        return None
    about: dict[str, Any] = {"kind": found.kind, "field": list(found.receptive_field)}
    if found.top_value is not None:
        about["top"] = [numbers(row, 3) for row in found.top_value]
    if found.top_image is not None:
        about["images"] = found.top_image.tolist()
    if found.maximization_value is not None:
        about["made"] = [numbers(row, 3) for row in found.maximization_value]
    if found.maximization_best_real is not None:
        about["real"] = numbers(found.maximization_best_real, 3)
    if found.dead is not None:
        about["dead"] = np.flatnonzero(found.dead).tolist()
    return about


def numbers(values: NDArray[Any] | Any, digits: int) -> list[float | None]:
    """Values rounded to significant digits of the largest, in their shortest form; null if not finite."""
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    largest = float(np.abs(array[finite]).max(initial=0.0))
    decimals = digits - 1 - int(np.floor(np.log10(largest))) if largest > 0 else 0
    rounded = np.round(np.where(finite, array, 0.0), min(max(decimals, 0), 12)).tolist()
    return [value if ok else None for value, ok in zip(rounded, finite.tolist(), strict=True)]
