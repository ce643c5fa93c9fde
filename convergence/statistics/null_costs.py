"""What the chance level of pseudo-nets costs: arithmetic of the sums, memory, scratch files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from convergence.config.stages import StatisticsConfig
from convergence.statistics.activation_source import JoinedUnits
from convergence.statistics.moments import BAND, PRODUCT_SAMPLES
from convergence.statistics.null_group_sums import BUFFER_BYTES, LEAST_SAMPLES, PRODUCT_BYTES
from convergence.statistics.partial_results import MATRIX_BYTES

PILOT = 8
"""Matrices (units, units) in memory while the bases of a layer are drawn."""


class NullCost(NamedTuple):
    """Costs of the pseudo-nets of a comparison.

    Attributes
    ----------
    memory_bytes : of a rank, for the sums of one image group
    scratch_bytes : of the partial results of all groups
    stored_bytes : of the matrices in statistics.h5
    products, other_products : multiplications per image for the sums of pseudo-nets, and for all other products
    """

    memory_bytes: int
    scratch_bytes: int
    stored_bytes: int
    products: int
    other_products: int


def null_cost(joined: JoinedUnits, config: StatisticsConfig) -> NullCost:
    """Costs of the pseudo-nets of a comparison; zeros where no member has them."""
    n_units, widest = joined.n_units, max(joined.widths)
    used = joined.n_sampled(config.positions)
    others = used * n_units * (n_units + 1) // 2 + config.shifted_null * used * n_units**2
    if not joined.n_pseudo:
        return NullCost(0, 0, 0, 0, others)
    draws, rows = config.null.draws, config.null.draws * joined.n_pseudo
    gathered = min(4 * PRODUCT_SAMPLES * rows, max(BUFFER_BYTES, 4 * LEAST_SAMPLES * rows))
    matrices = sum(
        8 * rows * side if 8 * rows * side <= MATRIX_BYTES else 3 * 8 * BAND * side for side in (n_units, widest)
    )
    squares = sum(
        width**2 for width, kind in zip(joined.widths, joined.null_kind, strict=True) if kind == "pre-activations"
    )
    weights = sum(
        min(4 * draws * width**2, MATRIX_BYTES // 4)
        for width, kind in zip(joined.widths, joined.null_kind, strict=True)
        if kind == "pre-activations"
    )
    of_pilot = sum(
        min(8 * width**2, MATRIX_BYTES)
        for width, kind in zip(joined.widths, joined.null_kind, strict=True)
        if kind == "pre-activations"
    )
    per_sample = rows * n_units + draws * squares
    mapped = draws * sum(
        width**2 * (_size(shape) if joined.pooled else joined.n_null_sampled(config))
        for width, kind, shape in zip(joined.widths, joined.null_kind, joined.map_shapes, strict=True)
        if kind == "pre-activations"
    )
    return NullCost(
        memory_bytes=max(
            gathered + matrices + min(PRODUCT_BYTES, 4 * rows * n_units) + weights, PILOT * 8 * widest**2, of_pilot
        ),
        scratch_bytes=config.groups * 4 * rows * (n_units + widest) + 4 * draws * squares,
        stored_bytes=2 * 4 * draws * n_units * (n_units + widest),
        products=per_sample * joined.n_null_sampled(config) + mapped,
        other_products=others,
    )


def null_share(joined: Iterable[JoinedUnits], config: StatisticsConfig) -> str:
    """The arithmetic of pseudo-nets beside that of the other sums, in words; "" without pseudo-nets."""
    costs = [null_cost(units, config) for units in joined]
    null, others = sum(cost.products for cost in costs), sum(cost.other_products for cost in costs)
    if not null:
        return ""
    return (
        f"pseudo-nets take {null / max(others, 1):.3g} times the multiplications of the other sums, "
        f"{null / 1e6:,.3g} million an image, besides the forward passes"
    )


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
