"""What a report is made of, read from the two files of results; what is wrong with them is said, not fatal."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convergence.analysis.file import open_analysis
from convergence.errors import UserError
from convergence.statistics.file import StatisticsFile, open_statistics
from convergence.summary import Layer, PairResult, read_layers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResults:
    """One analysed run.

    Attributes
    ----------
    name, title : of the experiment, and as the report calls it
    layers : comparisons with results
    nets : as in ``statistics.h5``
    provenance : of the sums, with the digests of both files
    config : the resolved settings
    images : digest of the images and of the groups they were dealt to: the same where two runs saw the same
    notices : sentences for every page, on what does not fit
    """

    name: str
    title: str
    layers: tuple[Layer, ...]
    nets: tuple[dict[str, Any], ...]
    n_images: int
    n_groups: int
    images: str
    provenance: dict[str, str]
    config: dict[str, Any]
    notices: tuple[str, ...]

    @property
    def whole(self) -> list[Layer]:
        """Comparisons in which every net takes part once."""
        return [layer for layer in self.layers if layer.whole and layer.pairs]


def read_results(
    statistics: Path, analysis: Path, name: str, title: str | None = None, analysis_digest: str | None = None
) -> RunResults:
    """Read both files of a run.

    Comparisons of the analysis that do not fit the sums (other nets, another number of units) are left out with a
    notice, and so are results of other settings announced if ``analysis_digest`` says what they should be of.

    Raises
    ------
    UserError
        if no pair of nets has results, or nothing fits.
    """
    notices = []
    with open_statistics(statistics) as sums, open_analysis(analysis) as results:
        layers = read_layers(results)
        fitting = [layer for layer in layers if _fits(layer, sums)]
        others = [layer.name for layer in layers if layer not in fitting]
        provenance = sums.provenance | {"statistics digest": sums.digest, "analysis digest": results.digest}
        config, nets = json.loads(sums.config_text), tuple(sums.nets)
        n_images, n_groups, images = sums.n_images, sums.n_groups, sums.images_digest
        found_digest = results.digest
    if others:
        notices.append(
            f"{analysis.name} does not fit {statistics.name} in {', '.join(others)}: it is of another run. What does "
            "not fit is left out; run `convergence analyze` again."
        )
        if not fitting:
            raise UserError(
                f"{analysis}: no comparison fits {statistics}: the analysis is of another run. Run `convergence "
                "analyze` with this run's config again."
            )
    elif analysis_digest is not None and found_digest != analysis_digest:
        notices.append(
            f"{analysis.name} was made with other settings or from other sums than this run's (its digest is "
            f"{found_digest[:12]}…, not {analysis_digest[:12]}…). It is shown as it is; run `convergence analyze` "
            "again."
        )
    if not any(layer.pairs for layer in fitting):
        reasons = {reason for layer in fitting for reason in layer.left_out.values()}
        raise UserError(
            f"{analysis}: no pair of nets has results ({'; '.join(sorted(reasons))}), so there is no report."
        )
    for notice in notices:
        logger.warning("report: %s", notice)
    return RunResults(
        name, title or name, tuple(fitting), nets, n_images, n_groups, images, provenance, config, tuple(notices)
    )  # fmt: skip


def _fits(layer: Layer, sums: StatisticsFile) -> bool:
    """Whether a comparison of the analysis is one of the sums, with the same members of the same widths."""
    if layer.name not in sums.comparisons:
        return False
    members, unit_net = sums.unit_members(layer.name)
    return members == layer.nets and len(unit_net) == len(layer.units["net"]) and bool(
        (unit_net == layer.units["net"]).all()
    )  # fmt: skip


def shown_pair(layer: Layer, wanted: Sequence[str] | None) -> PairResult | None:
    """The pair that is shown unit by unit: the one that is wanted, else the first trained one, else the first."""
    if wanted is not None:
        x, y = wanted
        chosen = layer.pair(x, y) or layer.pair(y, x)
        if chosen:
            return chosen
    return next(iter([*layer.of_kind("trained"), *layer.pairs]), None)


def left_out_units(layer: Layer) -> list[str]:
    """One phrase a net with units that carry nothing."""
    phrases = []
    for k, net in enumerate(layer.nets):
        of_net = layer.units["net"] == k
        reasons = [str(reason) for reason in layer.units["left_out_because"][of_net] if reason]
        if reasons:
            said = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
            phrases.append(f"{net}: {len(reasons)} of {int(of_net.sum())} units ({said})")
    return phrases


def read_run(folder: Path) -> RunResults:
    """The results of a run folder, called as its config calls it."""
    run = read_results(folder / "statistics.h5", folder / "analysis.h5", folder.resolve().name)
    title = run.config.get("report", {}).get("title") or run.config.get("name") or run.name
    return replace(run, title=str(title))


def distinguished(a: RunResults, b: RunResults, folders: Sequence[Path]) -> tuple[RunResults, RunResults]:
    """Two runs with titles that tell them apart: names of their folders, or the paths, where titles are the same."""
    if a.title != b.title:
        return a, b
    names = [a.name, b.name] if a.name != b.name else [str(folder) for folder in folders]
    return replace(a, title=names[0]), replace(b, title=names[1])
