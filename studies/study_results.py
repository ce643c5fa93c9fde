"""The results of one study, as the texts of findings.md.jinja read them."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import convergence
from convergence.analysis.layout import ALL_IMAGES
from convergence.results.comparison import ComparisonResults
from convergence.results.finding import StudyFinding
from convergence.results.sentences import number

CHANCE = "ani_chance"
"""Nets in other bases, studies/ani/chance.toml: a check of the chance level."""


class Study:
    """The results of one study, as the template reads them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path = name, folder / "analysis.h5"
        how = "convergence run studies/ani/chance.toml" if name == CHANCE else f"make study NAME={name}"
        if not self.path.exists():
            sys.exit(f"{self.path}: there is no such file. Run {how} first.")
        self.run = convergence.open(folder)
        self.layers: dict[str, ComparisonResults] = {name: self.run[name].results for name in self.run.comparisons}
        self._findings = {finding.question: finding for finding in self.run.findings()}

    def finding(self, question: str) -> StudyFinding | None:
        """The answer to a question of the report; None where the study has none."""
        return self._findings.get(question)

    def get(self, layer: str, measure: str, kind: str = "trained", evaluation: str = ALL_IMAGES) -> Any:
        """Mean over pairs of a kind (``Summary``)."""
        found = self.layers[layer].summary(measure, kind, evaluation)  # type: ignore[arg-type]
        if found is None:
            raise KeyError(f"{self.name}, {layer}: {measure} of {kind} nets ({evaluation})")
        return found

    def difference(
        self, layer: str, measure: str, first: str = "trained", second: str = "untrained", evaluation: str = ALL_IMAGES
    ) -> Any:
        """Mean over pairs of one kind minus that of another (``Difference``)."""
        return self.layers[layer].difference(measure, first, second, evaluation)  # type: ignore[arg-type]

    def show(
        self, layer: str, measure: str, kind: str = "trained", evaluation: str = ALL_IMAGES, digits: int = 3
    ) -> str:
        """The mean with its interval, as text."""
        return number(self.get(layer, measure, kind, evaluation), digits)

    def excess(self, layer: str, measure: str, kind: str = "trained") -> Any:
        """The mean minus its chance level (``Excess``)."""
        return self.get(layer, measure, kind).above_chance

    def cause(self, layer: str, measure: str, shared: str) -> Any:
        """The mean over pairs of trained nets that share a cause (``CauseMean``)."""
        rows = self.layers[layer].causes
        return next(one for one in rows if (one.measure, one.evaluation, one.shared) == (measure, ALL_IMAGES, shared))

    def low_units(self, layer: str, below: float) -> str:
        """Smallest and largest share, over trained nets, of units with a mean activation below a value."""
        results = self.layers[layer]
        nets = [net for net, trained in zip(results.nets, results.trained, strict=True) if trained]
        shares = [float((results.units(net).mean < below).mean()) for net in nets]
        return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"

    def n(self, trained: bool = True) -> int:
        """Number of trained, or of untrained, nets."""
        layer = next(iter(self.layers.values()))
        return sum(one is trained for one in map(bool, layer.trained))

    def n_images(self) -> str:
        """Number of images, molecules or texts."""
        return f"{self.run.n_images:,}"

    def commit(self) -> str:
        """Commit of the code that made the file, as far as it is known."""
        with h5py.File(self.path) as file:
            return str(json.loads(file.attrs["provenance"]).get("git commit", "–"))[:12]

    def file_hash(self) -> str:
        """SHA-256 of analysis.h5."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def data_hash(self) -> str:
        """SHA-256 of all data sets in analysis.h5 by name, without its attributes: versions and the commit."""
        digest = hashlib.sha256()

        def add(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                values = item[()]
                content = repr(values).encode() if item.dtype.kind == "O" else np.asarray(values).tobytes()
                digest.update(f"{name} {item.dtype} {item.shape} ".encode() + content)

        with h5py.File(self.path) as file:
            file.visititems(add)
        return digest.hexdigest()
