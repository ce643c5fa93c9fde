"""Tables of the pages: rows of texts with their headings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convergence.similarity import MEASURES
from convergence.summary import Layer, Summary, held_out, kinds_of, measured
from convergence.uncertainty import Estimate, mean_estimate

MISSING = "–"


@dataclass(frozen=True)
class Table:
    """A table: ``caption`` says what it is, the first column names the row, ``notes`` explain cells on hovering."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    wide: bool = False

    @classmethod
    def of(cls, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], wide: bool = False) -> Table:
        """The table without columns that nothing stands in."""
        kept = [k for k in range(len(columns)) if any(row[k] not in ("", MISSING) for row in rows)]
        cut = tuple(tuple(str(row[k]) for k in kept) for row in rows)
        return cls(caption, tuple(columns[k] for k in kept), cut, wide)


def measures_table(layers: Sequence[Layer], with_layer: bool = True) -> Table:
    """Layer × measure, trained beside untrained beside rotated."""
    kinds = kinds_of(layers)
    rows = []
    for layer in layers:
        for name in (name for name in MEASURES if name in layer.measures()):
            found = {kind: measured(layer, name, kind) for kind in kinds}
            first_kind = next((kind for kind in kinds if found[kind]), None)
            first = found[first_kind] if first_kind else None
            if first is None or first_kind is None:
                continue
            e, elsewhere = first.estimate, held_out(layer, name, first_kind)
            calibrated = e.calibrated()
            rows.append(
                [
                    *([layer.name] * with_layer),
                    MEASURES.load(name).title,
                    *(str(found[kind] or MISSING) for kind in kinds),
                    str(elsewhere or MISSING),
                    f"{e.null:z.3f} ± {e.null_sd:z.3f}" if np.isfinite(e.null) else MISSING,
                    f"{e.shifted:z.3f}" if np.isfinite(e.shifted) else MISSING,
                    str(Summary(calibrated, 0, 0, 0)) if calibrated else MISSING,
                    f"{first.lowest:z.3f} – {first.highest:z.3f}",
                ]
            )
    first_kind = kinds[0] if kinds else "trained"
    columns = (
        *(["layer"] * with_layer), "measure", *(f"{kind} nets" for kind in kinds), f"held out, {first_kind}",
        "rotated basis", "next image", f"calibrated, {first_kind}", f"lowest – highest {first_kind} pair",
    )  # fmt: skip
    return Table.of("Measures of every layer" if with_layer else "All measures", columns, rows, wide=True)


def pairs_table(layer: Layer) -> Table:
    """Every pair of nets: matched correlation and linear CKA, what the units of one share with the other."""
    rows = []
    for pair in layer.pairs:
        cells = [f"{pair.x} and {pair.y}", pair.kind]
        for name in ("matching", "semi_matching", "linear_cka"):
            found = pair.tree["measures"].get(name)
            bounds = MEASURES.load(name).bounds
            cells.append(
                interval(mean_estimate([Estimate(**e) for e in found.values()]).within(bounds)) if found else "–"
            )
        a = pair.tree["alignment"]
        cells += [f"{100 * a['same_assignment']:.0f} %", str(a["mutual_best"])]
        rows.append(cells)
    return Table.of(
        f"Pairs of nets in {layer.name}",
        ("nets", "kind", "matched r", "best r", "linear CKA", "same partner by both", "each other’s best"),
        rows,
        wide=True,
    )


def nets_table(nets: Sequence[dict[str, object]]) -> Table:
    """Seed, training, accuracy and weights of each net."""
    rows = []
    for net in nets:
        weights, seed, accuracy = (
            str(net["weights_sha256"]),
            int(str(net["seed"])),
            float(str(net["held_out_accuracy"])),
        )
        rows.append(
            (
                str(net["name"]),
                str(seed) if seed >= 0 else MISSING,
                "yes" if net["trained"] else "no",
                f"{100 * accuracy:.2f} %" if weights and np.isfinite(accuracy) else MISSING,
                f"{weights[:16]}…" if weights else MISSING,
            )
        )
    return Table.of("The nets", ("net", "seed", "trained", "held-out accuracy", "SHA-256 of the weights"), rows)


def interval(e: Estimate) -> str:
    """A value with its interval."""
    return f"{e.value:z.3f} [{e.low:z.3f}, {e.high:z.3f}]"


def layer_sentence(layer: Layer) -> str:
    """What the layer's matching says, with its chance levels; "" where no trained nets were matched."""
    name = next((m for m in ("matching", "semi_matching") if m in layer.measures()), None)
    trained = measured(layer, name, "trained") if name else None
    if name is None or trained is None:
        return ""
    words = "matched" if name == "matching" else "best"
    sentence = (
        f"Units of two trained nets correlate at {trained} with their {words} partner on average over "
        f"{trained.n_pairs} pair{'s' * (trained.n_pairs > 1)}; a random rotation of one net's basis leaves "
        f"{trained.estimate.null:z.3f}"
    )
    untrained = measured(layer, name, "untrained")
    return sentence + (f", and untrained nets reach {untrained}." if untrained else ".")
