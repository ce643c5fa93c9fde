"""What a data set is to the rest: labelled images that are read by index, the same bits for every reader.

:class:`ImageSet` is one split; :class:`DataSource` is the configuration section that loads the splits. Batches are
cut by image index alone, so neither the number of loader threads nor their order changes a bit of what is read.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.section import Section

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class ImageSet(ABC):
    """One split of a data set.

    Attributes
    ----------
    labels : (n_images,) int64
    class_names : tuple of str
    image_shape : (channels, height, width)
    """

    labels: Indices
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @abstractmethod
    def read(self, indices: Indices, augment_seed: int | None = None) -> Floats:
        """Images as the network sees them: (len(indices), channels, height, width) float32.

        ``augment_seed`` turns random augmentation on, where the data set has one; the randomness of an image depends
        on the seed and the image's index alone.
        """

    @abstractmethod
    def manifest_hash(self) -> str:
        """SHA-256 (hex) of what identifies the images and labels, in order."""


class Splits(NamedTuple):
    """Images to train on and images held out: accuracy and all statistics are taken on ``test``."""

    train: ImageSet
    test: ImageSet


class DataSource(Section):
    """The ``[data]`` section of a config; each data set adds its own settings."""

    name: str

    def load(self) -> Splits:
        """Read or open the images. Raises :class:`~convergence.errors.FileError` if they are not there."""
        raise TypeError(f"{type(self).__name__} does not say how to load its images")


class ArrayImages(ImageSet):
    """Images that fit in memory: ``images`` (n, channels, height, width) float32, ``labels`` (n,)."""

    def __init__(self, images: Floats, labels: npt.ArrayLike, class_names: Iterable[str]) -> None:
        self.images = np.ascontiguousarray(images, dtype=np.float32)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)
        self.image_shape = tuple(self.images.shape[1:])

    def read(self, indices: Indices, augment_seed: int | None = None) -> Floats:
        return self.images[indices]

    def manifest_hash(self) -> str:
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


def read_batches(
    images: ImageSet, batches: Iterable[Indices], workers: int = 0, augment_seed: int | None = None
) -> Iterator[tuple[Indices, Floats]]:
    """Yield ``(indices, images)`` for each batch of indices, in order, reading ahead with ``workers`` threads.

    With threads, a batch is cut into pieces that are decoded side by side and put together again in order.
    """
    if workers <= 0:
        for batch in batches:
            yield batch, images.read(batch, augment_seed)
        return
    ahead: deque[tuple[Indices, list[Future[Floats]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        for batch in batches:
            pieces = np.array_split(batch, min(workers, max(1, len(batch))))
            ahead.append((batch, [pool.submit(images.read, piece, augment_seed) for piece in pieces]))
            if len(ahead) > 2:
                yield _collect(ahead.popleft())
        while ahead:
            yield _collect(ahead.popleft())


def _collect(item: tuple[Indices, list[Future[Floats]]]) -> tuple[Indices, Floats]:
    batch, pieces = item
    return batch, np.concatenate([piece.result() for piece in pieces])
