"""CIFAR-10 from a local folder, in the Python or the binary version of the archive."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from convergence.data.files import Part, list_files
from convergence.data.images import ArrayImages, DataSource, Floats, Indices, Splits
from convergence.data.plain_pickle import load_plain
from convergence.errors import FileError
from convergence.io.seal import check_regular
from convergence.settings import PLACE_ONLY, PathSetting

PIXELS = 3 * 32 * 32
Batch = tuple[npt.NDArray[np.uint8], list[int]]
"""Images (n, 3072) and labels of a batch."""


class Cifar10(DataSource):
    """60,000 colour images of 32 × 32 in ten classes (Krizhevsky 2009)."""

    name: Literal["cifar10"]
    root: PathSetting = Field(
        description="Folder cifar-10-batches-py with data_batch_1 … 5, test_batch and batches.meta, or "
        "cifar-10-batches-bin.",
        json_schema_extra=PLACE_ONLY,
    )

    def known_shape(self) -> tuple[int, int, int]:
        return 3, 32, 32

    def list_parts(self) -> dict[str, Part]:
        end = self._ending()
        batches = [f"{name}{end}" for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")]
        names = [f"batches.meta{'.txt' if end else ''}", *batches]
        remedy = "data.root must be a complete folder cifar-10-batches-py or cifar-10-batches-bin."
        return {"files": list_files("CIFAR-10", [(name, self.root / name) for name in names], remedy)}

    def _ending(self) -> str:
        return ".bin" if (self.root / "data_batch_1.bin").exists() else ""

    def load(self) -> Splits:
        if not os.path.isdir(self.root):
            raise FileError(
                f'data.root = "{self.root}": there is no folder {self.root.expanded()}. Unpack cifar-10-python.tar.gz '
                "and set data.root to the folder cifar-10-batches-py."
            )
        end = self._ending()
        read = _read_binary if end else _read_pickle
        names = _class_names(self.root / f"batches.meta{'.txt' if end else ''}")
        train, labels = _join([read(self.root / f"data_batch_{k}{end}", len(names)) for k in range(1, 6)])
        test, test_labels = _join([read(self.root / f"test_batch{end}", len(names))])
        mean = train.mean(axis=(0, 2, 3), keepdims=True)
        deviation = train.std(axis=(0, 2, 3), keepdims=True)
        ends = ((-mean / deviation).ravel(), ((1 - mean) / deviation).ravel())
        return Splits(
            train=CroppedImages((train - mean) / deviation, labels, names, ends),
            test=ArrayImages((test - mean) / deviation, test_labels, names, ends),
        )


def _join(batches: list[Batch]) -> tuple[Floats, list[int]]:
    pixels = np.concatenate([pixels.reshape(-1, 3, 32, 32) for pixels, _ in batches])
    return pixels.astype(np.float32) / np.float32(255), [label for _, labels in batches for label in labels]


def _class_names(path: Path) -> list[str]:
    content = _content(path)
    try:
        if path.suffix == ".txt":
            names = content.decode("utf-8").split()
        else:
            names = [str(name) for name in load_plain(content)["label_names"]]
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if not 2 <= len(names) <= 255:
        raise _damaged(path, f"{len(names)} names of classes")
    return names


def _read_pickle(path: Path, n_classes: int) -> Batch:
    """Images and labels of a batch of the archive's Python version."""
    content = _content(path)
    try:
        batch = load_plain(content)
        pixels, labels = batch["data"], batch["labels"]
    except (pickle.UnpicklingError, KeyError) as error:
        raise _damaged(path, error) from error
    return _checked(path, pixels, labels, n_classes)


def _read_binary(path: Path, n_classes: int) -> Batch:
    """Images and labels of a batch of the archive's binary version: a byte for the label before each image."""
    content = np.frombuffer(_content(path), np.uint8)
    if not content.size or content.size % (PIXELS + 1):
        raise _damaged(path, f"{content.size:,} bytes are no multiple of {PIXELS + 1:,}")
    rows = content.reshape(-1, PIXELS + 1)
    return _checked(path, rows[:, 1:], rows[:, 0].tolist(), n_classes)


def _checked(path: Path, pixels: Any, labels: Any, n_classes: int) -> Batch:
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS or not len(pixels):
        raise _damaged(path, "its images are not n × 3,072 bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise _damaged(path, "it has not one label an image")
    if not all(type(label) is int and 0 <= label < n_classes for label in labels):
        raise _damaged(path, f"its labels are not numbers from 0 to {n_classes - 1}")
    return pixels, labels


def _content(path: Path) -> bytes:
    try:
        check_regular(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise FileError(f"{path} is missing: data.root must be a complete cifar-10-batches-py folder.") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error}). Unpack the archive again.") from error


def _damaged(path: Path, reason: object) -> FileError:
    return FileError(f"{path}: damaged, or no CIFAR-10 batch ({reason}). Unpack the archive again.")


class CroppedImages(ArrayImages):
    """Images in memory; augmentation mirrors half of the images and shifts each by up to four pixels."""

    margin = 4

    def read(self, indices: Indices, augment_seed: int | None = None) -> Floats:
        images = super().read(indices)
        if augment_seed is None:
            return images
        margin, (height, width) = self.margin, images.shape[2:]
        out = np.empty_like(images)
        for row, index in enumerate(indices):
            generator = np.random.default_rng([augment_seed, int(index)])
            image = images[row, :, :, ::-1] if generator.integers(2) else images[row]
            padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin)))
            y, x = generator.integers(0, 2 * margin + 1, size=2)
            out[row] = padded[:, y : y + height, x : x + width]
        return out
