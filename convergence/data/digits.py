"""The 1,797 handwritten digits that ship with scikit-learn: 8 × 8 grey images, ten classes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from convergence.data.files import Part, list_files, package_file
from convergence.data.images import ArrayImages, DataSource, Splits
from convergence.settings import MAX_SEED

IMAGES_OF_CLASS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)

FILE = "digits.csv.gz"


class Digits(DataSource):
    """Handwritten digits (Alpaydin & Kaynak 1998, UCI optdigits, as in ``sklearn.datasets.load_digits``)."""

    name: Literal["digits"]
    held_out: float = Field(0.3, gt=0.0, lt=1.0, description="Held-out share of every class.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of the split into training and held-out images.")

    def known_shape(self) -> tuple[int, int, int]:
        return 1, 8, 8

    def known_sizes(self) -> tuple[int, int]:
        n_test = sum(_n_held_out(n, self.held_out) for n in IMAGES_OF_CLASS)
        return sum(IMAGES_OF_CLASS) - n_test, n_test

    def list_parts(self) -> dict[str, Part]:
        return {"files": list_files("the digits", [(FILE, _path())], "Install it: pip install scikit-learn.")}

    def load(self) -> Splits:
        with gzip.open(_path(), "rt") as file:  # as load_digits does, whose import takes a second
            table = np.loadtxt(file, delimiter=",")
        labels = table[:, -1].astype(int)
        images = table[:, :-1].reshape(-1, 1, 8, 8).astype(np.float32) / 16
        held_out = _stratified(labels, self.held_out, self.seed)
        mean, deviation = images[~held_out].mean(), images[~held_out].std()
        images = (images - mean) / deviation
        names = [str(digit) for digit in range(10)]
        ends = (-mean / deviation, (1 - mean) / deviation)
        return Splits(
            train=ArrayImages(images[~held_out], labels[~held_out], names, ends),
            test=ArrayImages(images[held_out], labels[held_out], names, ends),
        )


def _path() -> Path:
    return package_file("sklearn", f"datasets/data/{FILE}")


def _stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a share of every class by seed, as a mask (n,)."""
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen[members[: _n_held_out(len(members), share)]] = True
    return chosen


def _n_held_out(n_images: int, share: float) -> int:
    """Number of held-out images of a class: at least one, and not all."""
    return min(max(1, round(share * n_images)), n_images - 1)
