"""CIFAR-10 from a local folder, in the Python version of the archive."""

from __future__ import annotations

import io
import os
import pickle
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from convergence.data.images import ArrayImages, DataSource, Floats, Indices, Splits
from convergence.errors import FileError
from convergence.settings import PathSetting


class Cifar10(DataSource):
    """60,000 colour images of 32 × 32 in ten classes (Krizhevsky 2009)."""

    name: Literal["cifar10"]
    root: PathSetting = Field(
        description="Folder cifar-10-batches-py with data_batch_1 … 5, test_batch and batches.meta."
    )

    def known_shape(self) -> tuple[int, int, int]:
        return 3, 32, 32

    def load(self) -> Splits:
        if not os.path.isdir(self.root):
            raise FileError(
                f'data.root = "{self.root}": there is no folder {self.root.expanded()}. Unpack cifar-10-python.tar.gz '
                "and set data.root to the folder cifar-10-batches-py."
            )
        names = [str(name) for name in self._read("batches.meta")["label_names"]]
        batches = [self._read(f"data_batch_{k}") for k in range(1, 6)]
        train, labels = self._join(batches)
        test, test_labels = self._join([self._read("test_batch")])
        mean = train.mean(axis=(0, 2, 3), keepdims=True)
        deviation = train.std(axis=(0, 2, 3), keepdims=True)
        ends = ((-mean / deviation).ravel(), ((1 - mean) / deviation).ravel())
        return Splits(
            train=CroppedImages((train - mean) / deviation, labels, names, ends),
            test=ArrayImages((test - mean) / deviation, test_labels, names, ends),
        )

    def _join(self, batches: list[dict[str, Any]]) -> tuple[Floats, list[int]]:
        pixels = np.concatenate([np.asarray(batch["data"]).reshape(-1, 3, 32, 32) for batch in batches])
        return pixels.astype(np.float32) / np.float32(255), [
            int(label) for batch in batches for label in batch["labels"]
        ]

    def _read(self, file: str) -> dict[str, Any]:
        path = self.root / file
        try:
            content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        except FileNotFoundError:
            raise FileError(f"{path} is missing: data.root must be a complete cifar-10-batches-py folder.") from None
        except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError) as error:
            raise FileError(f"{path}: damaged, or no CIFAR-10 batch ({error}). Unpack the archive again.") from error
        return {_text(key): _text(value) for key, value in content.items()}


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


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of arrays, numbers, lists and texts only, because a foreign pickle could run arbitrary code."""

    ALLOWED: ClassVar = {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed in a batch of images")
        if module.endswith("multiarray"):
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        return super().find_class(module, name)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_text(item) for item in value] if isinstance(value, list) else value
