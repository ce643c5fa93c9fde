"""Patches of sixteen photographs of scikit-image and scikit-learn: natural images without a download.

Each photograph is divided into square blocks with a side of two patches. Whole blocks are held out, and a patch is
inside one block, so no pixel is in both a training and a held-out patch. The class of a patch is its photograph, and
the patches of a photograph are a family: they are not independent images.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from convergence.data.files import Part, list_files, package_file
from convergence.data.images import ArrayImages, DataSource, Floats, Indices, Splits
from convergence.errors import FileError
from convergence.settings import MAX_SEED

PHOTOGRAPHS = {
    "skimage.data": (
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
        "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}  # fmt: skip
LUMINANCE = np.array([0.2989, 0.5870, 0.1140], np.float32)  # ITU-R BT.601
LEAST_CONTRAST = 0.02
TRIES = 20
SHOWN_DEVIATIONS = 2.5
"""Standard deviations from the mean of a patch that pictures show as black and white."""


class Photos(DataSource):
    """Contrast-normalised patches, half of them grey; augmentation mirrors half of the patches."""

    name: Literal["photos"]
    patch: int = Field(32, ge=8, le=64, description="Side of a patch in pixels.")
    n_train: int = Field(16_000, ge=16, le=200_000, description="Training patches.")
    n_test: int = Field(2_000, ge=16, le=200_000, description="Held-out patches.")
    held_out: float = Field(0.25, gt=0, lt=1, description="Held-out share of the blocks of each photograph.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of held-out blocks, patch positions and grey patches.")

    def known_shape(self) -> tuple[int, int, int]:
        return 3, self.patch, self.patch

    def known_sizes(self) -> tuple[int, int]:
        return self.n_train, self.n_test

    def list_parts(self) -> dict[str, Part]:
        remedy = "Install it: pip install 'convergent-learning[train]'."
        paths = [
            (file, package_file(package.split(".")[0], "/".join([*package.split(".")[1:], file])))
            for package, files in PHOTOGRAPHS.items()
            for file in files
        ]
        return {"files": list_files("the photographs", paths, remedy)}

    def load(self) -> Splits:
        photographs = {name: pixels.astype(np.float32) / np.float32(255) for name, pixels in _photographs().items()}
        names = list(photographs)
        train, test = (
            [_cut(self, k, photographs[name], split) for k, name in enumerate(names)] for split in ("train", "test")
        )
        return Splits(self._join(train, names, True), self._join(test, names, False))

    def _join(self, parts: list[Floats], names: list[str], mirrored: bool) -> ArrayImages:
        """Interleave the patches of all photographs, so that consecutive images cover all classes."""
        labels = np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)])
        order = np.argsort(np.concatenate([np.arange(len(part)) for part in parts]), kind="stable")
        kind = MirroredImages if mirrored else ArrayImages
        images = kind(np.concatenate(parts)[order], labels[order], names, (-SHOWN_DEVIATIONS, SHOWN_DEVIATIONS))
        images.families = images.labels
        return images


class MirroredImages(ArrayImages):
    """Images in memory; augmentation mirrors half of the images."""

    def read(self, indices: Indices, augment_seed: int | None = None) -> Floats:
        images = super().read(indices)
        if augment_seed is None:
            return images
        mirrored = np.array([np.random.default_rng([augment_seed, int(i)]).integers(2) for i in indices], dtype=bool)
        images[mirrored] = images[mirrored][..., ::-1]
        return images


def blocks_of(shape: tuple[int, ...], photograph: int, source: Photos) -> npt.NDArray[np.bool_]:
    """Mask (rows, columns) of the held-out blocks of a photograph of a given shape."""
    side = 2 * source.patch
    rows, columns = shape[0] // side, shape[1] // side
    chosen = np.zeros(rows * columns, dtype=bool)
    order = np.random.default_rng([source.seed, photograph]).permutation(rows * columns)
    n_held_out = min(max(1, round(source.held_out * rows * columns)), rows * columns - 1)
    chosen[order[:n_held_out]] = True
    return chosen.reshape(rows, columns)


def places(shape: tuple[int, ...], photograph: int, source: Photos, split: str, n: int) -> Indices:
    """Top-left corners (n, TRIES, 2) of candidate patches of a split; the first one with enough contrast is used."""
    held_out = blocks_of(shape, photograph, source)
    blocks = np.argwhere(held_out if split == "test" else ~held_out)
    generator = np.random.default_rng([source.seed, photograph, split == "test"])
    block = blocks[generator.integers(len(blocks), size=(n, TRIES))]
    return block * 2 * source.patch + generator.integers(source.patch + 1, size=(n, TRIES, 2))


def _cut(source: Photos, photograph: int, pixels: Floats, split: str) -> Floats:
    """Cut the patches (n, 3, side, side) of one photograph for a split."""
    total = source.n_train if split == "train" else source.n_test
    n_photographs = sum(map(len, PHOTOGRAPHS.values()))
    n, side = len(range(photograph, total, n_photographs)), source.patch
    grey = np.random.default_rng([source.seed, photograph, 2 + (split == "test")]).permutation(n) < n / 2
    out = np.empty((n, 3, side, side), np.float32)
    for row, candidates in enumerate(places(pixels.shape, photograph, source, split, n)):
        for y, x in candidates:
            patch = pixels[y : y + side, x : x + side]
            if patch.std() >= LEAST_CONTRAST:
                break
        if grey[row]:
            patch = np.repeat((patch @ LUMINANCE)[:, :, None], 3, axis=2)
        patch = (patch - patch.mean()) / max(float(patch.std()), LEAST_CONTRAST)
        out[row] = patch.transpose(2, 0, 1)
    return out


def tiles(side: int, most: int) -> Iterator[tuple[str, tuple[int, int], npt.NDArray[np.uint8]]]:
    """Tiles of all photographs that do not overlap, at most ``most`` of each, evenly over the photograph.

    Yields the name of the photograph, the top-left corner (row, column) and the pixels (side, side, 3).
    """
    for name, pixels in _photographs().items():
        rows, columns = range(0, pixels.shape[0] - side + 1, side), range(0, pixels.shape[1] - side + 1, side)
        corners = [(y, x) for y in rows for x in columns]
        for y, x in corners[:: max(1, len(corners) // most)][:most]:
            yield name, (y, x), pixels[y : y + side, x : x + side]


def _photographs() -> dict[str, npt.NDArray[np.uint8]]:
    """Read the photographs, (height, width, 3), by name."""
    from PIL import Image

    found = {}
    for package, files in PHOTOGRAPHS.items():
        for file in files:
            try:
                with resources.files(package).joinpath(file).open("rb") as stream, Image.open(stream) as image:
                    found[file.split(".")[0]] = np.asarray(image.convert("RGB"))
            except (OSError, ModuleNotFoundError) as error:
                raise FileError(
                    f"the photograph {file} of the package {package.split('.')[0]} is missing ({error}). "
                    "Install it: pip install 'convergent-learning[train]'."
                ) from error
    return found
