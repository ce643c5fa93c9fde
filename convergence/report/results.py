"""Results of a run for a report, read from its two files; what does not fit becomes a notice on every page."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convergence.errors import UserError
from convergence.results import ComparisonResults, PairResults, read_analysis
from convergence.statistics.file import StatisticsFile, open_statistics

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
    notices : sentences for every page, on files and comparisons that do not fit
    """

    name: str
    title: str
    layers: tuple[ComparisonResults, ...]
    nets: tuple[dict[str, Any], ...]
    n_images: int
    n_groups: int
    images: str
    provenance: dict[str, str]
    config: dict[str, Any]
    notices: tuple[str, ...]

    @property
    def whole(self) -> list[ComparisonResults]:
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
    results = read_analysis(analysis)
    layers = results.all()
    with open_statistics(statistics) as sums:
        fitting = [layer for layer in layers if _fits(layer, sums)]
        others = [layer.name for layer in layers if layer not in fitting]
        provenance = sums.provenance | {"statistics digest": sums.digest, "analysis digest": results.digest}
        errors = [f"{name} {sums.bin_error(name):.1%}" for name in sums.comparisons if sums.bin_error(name) >= 0]
        if errors:
            about = "largest difference of a bin of mutual information from equal mass"
            provenance |= {about: f"{', '.join(errors)}; edges from {sums.n_pilot:,} of {sums.n_images:,} images"}
        config, nets = json.loads(sums.config_text), tuple(sums.nets)
        n_images, n_groups, images = sums.n_images, sums.n_groups, sums.images_digest
    if others:
        notices.append(
            f"{analysis.name} does not fit {statistics.name} in {', '.join(others)}: it belongs to another run. These "
            "comparisons are left out; run `convergence analyze` again."
        )
        if not fitting:
            raise UserError(
                f"{analysis}: no comparison fits {statistics}: the analysis is of another run. Run `convergence "
                "analyze` with this run's config again."
            )
    elif analysis_digest is not None and results.digest != analysis_digest:
        notices.append(
            f"{analysis.name} was made with other settings or from other sums than this run's (its digest is "
            f"{results.digest[:12]}…, not {analysis_digest[:12]}…). Its results are shown; run `convergence analyze` "
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


def _fits(layer: ComparisonResults, sums: StatisticsFile) -> bool:
    """Whether a comparison of the analysis is one of the sums, with the same members of the same widths."""
    if layer.name not in sums.comparisons:
        return False
    members, unit_net = sums.unit_members(layer.name)
    widths = np.bincount(unit_net, minlength=len(members))
    return members == layer.nets and tuple(widths.tolist()) == layer.widths


def shown_pair(layer: ComparisonResults, wanted: Sequence[str] | None) -> PairResults | None:
    """The pair that is shown unit by unit: the wanted one, else the first trained one, else the first."""
    chosen = None if wanted is None else layer.either_pair(*wanted)
    return chosen or layer.first_pair


def left_out_units(layer: ComparisonResults) -> list[str]:
    """One phrase for each net with inactive units."""
    phrases = []
    for k, net in enumerate(layer.nets):
        reasons = [str(reason) for reason in layer.units(net).inactive_reason if reason]
        if reasons:
            said = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
            phrases.append(f"{net}: {len(reasons)} of {layer.widths[k]} units ({said})")
    return phrases


def read_run(folder: Path) -> RunResults:
    """The results of a run folder, with the title of its config."""
    run = read_results(folder / "statistics.h5", folder / "analysis.h5", folder.resolve().name)
    title = run.config.get("report", {}).get("title") or run.config.get("name") or run.name
    return replace(run, title=str(title))


def distinguished(a: RunResults, b: RunResults, folders: Sequence[Path]) -> tuple[RunResults, RunResults]:
    """Two runs with titles that tell them apart: names of their folders, or the paths, where titles are the same."""
    if a.title != b.title:
        return a, b
    names = [a.name, b.name] if a.name != b.name else [str(folder) for folder in folders]
    return replace(a, title=names[0]), replace(b, title=names[1])
