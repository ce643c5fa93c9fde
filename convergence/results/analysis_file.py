"""An analysis file, typed: its comparisons and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from convergence.analysis.file import Columns, open_analysis
from convergence.results.comparison import ComparisonResults
from convergence.results.pair import Distributions, PairResults
from convergence.results.source import ComparisonSource


@dataclass(frozen=True, eq=False)
class AnalysisResults:
    """An analysis file; its comparisons are opened when they are asked for.

    Attributes
    ----------
    path : of the file
    digest, statistics_digest : of the analysis, and of the statistics that it was made from
    provenance : versions of what computed it
    comparisons : their names
    """

    path: Path
    digest: str
    statistics_digest: str
    provenance: dict[str, str]
    comparisons: tuple[str, ...]

    def comparison(self, name: str) -> ComparisonResults:
        """One comparison; FileError with the nearest name if there is none."""
        with open_analysis(self.path) as file:
            file.raw(name)
            members, pairs = file.table(name, "members"), file.table(name, "pairs")
        source = ComparisonSource(self.path, self.digest, name)
        skipped = pairs["skip_reason"] != ""
        found = tuple(_pair(pairs, k, source) for k in np.flatnonzero(~skipped).tolist())
        return ComparisonResults(
            name=name,
            nets=tuple(members["member"].tolist()),
            trained=tuple(members["trained"].tolist()),
            sources=tuple(members["source"].tolist()),
            of_net=tuple(members["net"].tolist()),
            layers=tuple(members["layer"].tolist()),
            epochs=tuple(members["epoch"].tolist()),
            widths=tuple(members["n_units"].tolist()),
            pairs=found,
            left_out={
                (str(pairs["x"][k]), str(pairs["y"][k])): str(pairs["skip_reason"][k]) for k in np.flatnonzero(skipped)
            },
            source=source,
        )

    def all(self, names: Sequence[str] | None = None) -> list[ComparisonResults]:
        """Comparisons by their names; all if none are given."""
        return [self.comparison(name) for name in (self.comparisons if names is None else names)]


def read_analysis(path: str | Path) -> AnalysisResults:
    """Open an analysis file.

    Raises
    ------
    FileError
        if there is no such file, or it is damaged, of another version or of another kind.
    """
    with open_analysis(path) as file:
        return AnalysisResults(
            Path(path), file.digest, file.statistics_digest, file.provenance, tuple(file.comparisons)
        )


def _pair(rows: Columns, k: int, source: ComparisonSource) -> PairResults:
    row = {name: values[k].item() for name, values in rows.items()}
    distances = {name: row[f"distribution_{name}"] for name in ("matched", "assigned", "any", "within_x", "within_y")}
    distributions = Distributions(**distances, sparsity=row["sparsity"])
    own = {field.name: row[field.name] for field in fields(PairResults) if field.name in row}
    known = bool(np.isfinite(distributions.matched))
    return PairResults(**own, distributions=distributions if known else None, _source=source)
