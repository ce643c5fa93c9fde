"""How many units of one net it takes to say what a unit of another says: local, few-unit and distributed codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from convergence.figures.style import KIND_COLOURS, KIND_WORDS, Drawing, drawing_style, new_figure
from convergence.summary import Layer, PairResult, mean_over, over_pairs

CODES = {"local": "one unit", "few": "a few", "distributed": "more", "unexplained": "not explained"}
DIRECTIONS = ("sparse_xy", "sparse_yx")


def codes(layer: Layer, pair: PairResult) -> Drawing | None:
    """Share of units by the number of units that reach 90 % of what all explain; loss by number of units, held out."""
    if "sparse_xy" not in pair.tree:
        return None
    figure, axes = new_figure(9.2, 3.5, 2)
    rows: list[tuple[Any, ...]] = []
    said = []
    with drawing_style():
        for k, kind in enumerate(layer.kinds):
            pairs, colour = layer.of_kind(kind), KIND_COLOURS[kind]
            shares = []
            for at, name in enumerate(CODES):
                found = over_pairs(pairs, *((d, "code", name) for d in DIRECTIONS))
                held = np.mean([mean_over(pairs, d, "held_out_code", name) for d in DIRECTIONS])
                assert found is not None
                e = found.estimate
                shares.append(e.value)
                axes[0].bar(
                    at + 0.38 * (k - (len(layer.kinds) - 1) / 2), e.value, width=0.36, color=colour,
                    yerr=1.96 * e.standard_error, capsize=3, label=KIND_WORDS[kind] if at == 0 else None,
                )  # fmt: skip
                rows.append((kind, name, e.value, e.standard_error, held))
            said.append(f"{100 * shares[0]:.0f} % by one unit, {100 * shares[1]:.0f} % by a few ({KIND_WORDS[kind]})")
            for name, line, word in (("forward_loss", ":", "same images"), ("held_out_forward_loss", "-", "held out")):
                loss = np.mean([mean_over(pairs, d, name) for d in DIRECTIONS], axis=0)
                error_name = "forward_error" if name == "forward_loss" else "held_out_forward_error"
                error = np.mean([mean_over(pairs, d, error_name) for d in DIRECTIONS], axis=0)
                steps = np.arange(1, len(loss) + 1)
                axes[1].fill_between(steps, loss - 2 * error, loss + 2 * error, color=colour, alpha=0.15, linewidth=0)
                axes[1].plot(steps, loss, line, color=colour, label=f"{KIND_WORDS[kind]}, {word}")
                rows += [(kind, f"{name}, {n} units", v, s, "") for n, v, s in zip(steps, loss, error, strict=True)]
        axes[0].set_xticks(range(len(CODES)), list(CODES.values()))
        axes[0].set(title="units that reach 90 % of what all explain", ylabel="share of units", ylim=(0, 1.05))
        axes[0].legend(fontsize="small")
        axes[1].set(title="loss by number of units", xlabel="units (forward selection, refitted)", ylabel="½ (1 − R²)")
        axes[1].set_ylim(0, 0.52)
        axes[1].legend(fontsize="small")
    most = pair.tree["sparse_xy"]["forward_loss"].size
    return Drawing(
        name=f"{layer.name}-codes",
        title="Is the code local?",
        caption=f"Left: how many units of another net reach 90 % of the R² that all of its units reach: "
        f"{'; '.join(said)}; at most {most} were tried. “Not explained”: all units together leave more than "
        "95 % of the variance. Right: mean loss, fitted and scored on the same images, and fitted on one half of the "
        "image groups and scored on the other. Bars and bands: 95 % intervals over image groups; shares are rough.",
        alt="Shares of units with local, few-unit and distributed codes, and loss by number of units",
        figure=figure,
        columns=("pairs", "what", "value", "standard_error", "held_out"),
        rows=rows,
    )
