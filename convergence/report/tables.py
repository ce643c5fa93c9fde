"""Tables of the pages: rows of texts with their headings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.figures.style import KIND_WORDS
from convergence.inference import mean_estimate
from convergence.results import (
    ALL_IMAGES,
    HELD_OUT,
    WITHIN_CLASS,
    ComparisonResults,
    Summary,
    interval,
    kinds_of,
    title_of,
)
from convergence.similarity import MEASURES

MISSING = "–"
CAUSES_SHOWN = {
    "matching": "matched r",
    "semi_matching": "best r",
    "linear_cka": "linear CKA",
    "r_squared": "R² from all units",
    "shared_dimensions": "shared dimensions",
}
"""Numbers that the table of causes shows, each with its words."""


@dataclass(frozen=True)
class Table:
    """A table of texts for a page: a caption, headings, and rows whose first cell names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: bool = False

    @classmethod
    def of(cls, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], wide: bool = False) -> Table:
        """The table without its empty columns."""
        kept = [k for k in range(len(columns)) if any(row[k] not in ("", MISSING) for row in rows)]
        cut = tuple(tuple(str(row[k]) for k in kept) for row in rows)
        return cls(caption, tuple(columns[k] for k in kept), cut, wide)


def measures_table(layers: Sequence[ComparisonResults], with_layer: bool = True) -> Table:
    """Layer × measure, trained beside untrained beside rotated."""
    kinds = kinds_of(layers)
    rows = []
    for layer in layers:
        for name in layer.measures:
            found = {kind: layer.summary(name, kind) for kind in kinds}
            first_kind = next((kind for kind in kinds if found[kind]), None)
            first = found[first_kind] if first_kind else None
            if first is None or first_kind is None:
                continue
            elsewhere, within = (layer.summary(name, first_kind, of) for of in (HELD_OUT, WITHIN_CLASS))
            calibrated = first.calibrated
            rows.append(
                [
                    *([layer.name] * with_layer),
                    title_of(name),
                    *(str(found[kind] or MISSING) for kind in kinds),
                    _for_these_nets(first),
                    str(elsewhere or MISSING),
                    str(within or MISSING),
                    f"{first.null:z.3f} ± {first.null_sd:z.3f}" if np.isfinite(first.null) else MISSING,
                    f"{first.shifted:z.3f}" if np.isfinite(first.shifted) else MISSING,
                    interval(calibrated) if calibrated else MISSING,
                    f"{first.lowest:z.3f} – {first.highest:z.3f}",
                ]
            )
    first_kind = kinds[0] if kinds else "trained"
    columns = (
        *(["layer"] * with_layer), "measure", *(KIND_WORDS[kind] for kind in kinds), f"for these {first_kind} nets",
        f"held out, {first_kind}", f"within classes, {first_kind}", "another basis", "next image",
        f"calibrated, {first_kind}",
        f"lowest – highest {first_kind} pair",
    )  # fmt: skip
    title = "Measures of every layer" if with_layer else "All measures"
    return Table.of(
        f"{title}: 95 % intervals over nets and images; for these nets, over images alone", columns, rows, True
    )


def _for_these_nets(found: Summary) -> str:
    """The interval over images; none where the value already has it for want of nets."""
    known = np.isfinite(found.image_low) and not found.missing
    return f"[{found.image_low:z.3f}, {found.image_high:z.3f}]" if known else MISSING


def pairs_table(layer: ComparisonResults) -> Table:
    """Every pair of nets: matched correlation, linear CKA, shares of units with the same partner."""
    rows = []
    for pair in layer.pairs:
        cells = [f"{pair.x} and {pair.y}", KIND_WORDS[pair.kind].removesuffix(" nets")]
        for name in ("matching", "semi_matching", "linear_cka"):
            found = pair.directions(name)
            bounds = MEASURES.load(name).bounds
            cells.append(interval(mean_estimate(found).within(bounds)) if found else MISSING)
        cells += [f"{100 * pair.same_partner:.0f} %", str(pair.mutual_best)]
        rows.append(cells)
    return Table.of(
        f"Pairs of nets in {layer.name}, with 95 % intervals over images, for these nets",
        ("nets", "kind", "matched r", "best r", "linear CKA", "same partner by both", "each other’s best"),
        rows,
        wide=True,
    )


def causes_table(layer: ComparisonResults) -> Table:
    """Similarity of pairs of trained nets by what their trainings share; of no rows where all share the same."""
    rows = []
    for found in layer.causes:
        wanted = HELD_OUT if found.measure == "shared_dimensions" else ALL_IMAGES
        if found.evaluation != wanted or found.measure not in CAUSES_SHOWN:
            continue
        rows.append(
            (
                CAUSES_SHOWN[found.measure],
                found.network,
                found.shared,
                str(found.n_pairs),
                interval(found.mean),
                MISSING if np.isnan(found.effect) else interval(found.contrast),
                found.effect_missing or found.missing,
            )
        )
    columns = ("measure", "network", "two nets share", "pairs", "mean", "minus pairs that share nothing", "no interval")
    return Table.of("Trained nets by what their trainings share", columns, rows, wide=True)


def nets_table(nets: Sequence[dict[str, object]]) -> Table:
    """Seeds, training, accuracy and weights of each net."""
    rows = []
    for net in nets:
        weights, seed, accuracy = (
            str(net["weights_sha256"]),
            int(str(net["seed"])),
            float(str(net["held_out_accuracy"])),
        )
        order, subset = (int(str(net[key])) for key in ("order_seed", "subset_seed"))
        rows.append(
            (
                str(net["name"]),
                str(seed) if seed >= 0 else MISSING,
                str(order) if order >= 0 else MISSING,
                str(subset) if subset >= 0 else MISSING,
                "yes" if net["trained"] else "no",
                f"{100 * accuracy:.2f} %" if weights and np.isfinite(accuracy) else MISSING,
                f"{weights[:16]}…" if weights else MISSING,
            )
        )
    columns = (
        "net", "seed", "order seed", "subset seed", "trained", "held-out accuracy", "SHA-256 of the weights"
    )  # fmt: skip
    return Table.of("The nets", columns, rows)


def layer_sentence(layer: ComparisonResults) -> str:
    """The matched correlation of a layer with its chance levels; "" where no trained nets were matched."""
    name = next((m for m in ("matching", "semi_matching") if m in layer.measures), None)
    trained = layer.summary(name, "trained") if name else None
    if name is None or trained is None:
        return ""
    words = "matched" if name == "matching" else "best"
    sentence = (
        f"Units of two trained nets correlate at {trained} with their {words} partner (mean over {trained.n_pairs} "
        f"pair{'s' * (trained.n_pairs > 1)} of nets)."
    )
    levels = [f"{trained.null:z.3f} with one net in another basis"] if np.isfinite(trained.null) else []
    untrained = layer.summary(name, "untrained")
    levels += [f"{untrained} for untrained nets"] if untrained else []
    return f"{sentence} Chance levels: {', '.join(levels)}." if levels else sentence
