"""What a data set is to the rest: labelled images that are read by index, the same bits for every reader.

:class:`ImageSet` is one split; :class:`DataSource` is the configuration section that loads the splits. Batches are
cut by image index alone, so neither the number of loader threads nor their order changes a bit of what is read.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.errors import FileError
from convergence.settings import Settings

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Submit = Callable[..., Callable[[], Any]]
"""Begin a call; what is returned waits for its result."""
KEPT_ARRAYS = 6
"""Batches whose memory is used again: those that are read ahead, and one or two that are looked at."""
_PROBE = [object()]
ALONE = sys.getrefcount(_PROBE[0])
"""References to something that nothing but a list holds, that of who counts included."""


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

    def read_into(self, out: Floats, indices: Indices, augment_seed: int | None = None) -> None:
        """:meth:`read` into a place that is there already."""
        out[...] = self.read(indices, augment_seed)

    def fetch(self, indices: Indices, augment_seed: int | None = None) -> npt.NDArray[Any]:
        """What is moved to a GPU, for :meth:`finish` to make images of."""
        return self.read(indices, augment_seed)

    def finish(self, batch: torch.Tensor, indices: Indices, augment_seed: int | None = None) -> torch.Tensor:
        """Images as the network sees them, of what was fetched for them, on the device where that is."""
        return batch

    def pixel_range(self) -> tuple[Floats, Floats]:
        """Values (channels,) that the net sees of a black and of a white pixel: what images may hold.

        Raises
        ------
        FileError
            for images of which nobody said it.
        """
        raise FileError(
            f"{type(self).__name__} does not say which values are black and white (pixel_range), and no pictures can "
            "be made of its images."
        )

    @abstractmethod
    def manifest_hash(self) -> str:
        """SHA-256 (hex) of what identifies the images and labels, in order."""


class Splits(NamedTuple):
    """Images to train on and images held out: accuracy and all statistics are taken on ``test``."""

    train: ImageSet
    test: ImageSet


class DataSource(Settings):
    """The ``[data]`` section of a config; each data set adds its own settings."""

    name: str

    def load(self) -> Splits:
        """Read or open the images. Raises :class:`~convergence.errors.FileError` if they are not there."""
        raise TypeError(f"{type(self).__name__} does not say how to load its images")


class ArrayImages(ImageSet):
    """Images that fit in memory: ``images`` (n, channels, height, width) float32, ``labels`` (n,).

    ``pixel_range`` are the values of black and white, numbers or (channels,) each; the smallest and the largest value
    there is if not given.
    """

    def __init__(
        self,
        images: Floats,
        labels: npt.ArrayLike,
        class_names: Iterable[str],
        pixel_range: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> None:
        self.images = np.ascontiguousarray(images, dtype=np.float32)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)
        self.image_shape = tuple(self.images.shape[1:])
        self._pixel_range = pixel_range

    def pixel_range(self) -> tuple[Floats, Floats]:
        black, white = self._pixel_range or (self.images.min(), self.images.max())
        ones = np.ones(self.image_shape[0], np.float32)
        return ones * np.asarray(black, np.float32), ones * np.asarray(white, np.float32)

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

    With threads, a batch is cut into pieces that are decoded side by side. Memory of a batch that nobody holds any more
    is used again.
    """
    memory = _Memory()

    def read(batch: Indices, submit: Submit) -> Floats:
        out = memory.take((len(batch), *images.image_shape))
        pieces = _pieces(len(batch), workers)
        for done in [submit(images.read_into, out[piece], batch[piece], augment_seed) for piece in pieces]:
            done()
        return out

    yield from _read_ahead(read, batches, workers)


def batches_on_device(
    images: ImageSet, batches: Iterable[Indices], device: torch.device, workers: int, augment_seed: int | None = None
) -> Iterator[tuple[Indices, torch.Tensor]]:
    """:func:`read_batches` with the images on a device; a GPU takes the last steps of making them itself."""
    import torch

    if device.type == "cpu":
        for indices, batch in read_batches(images, batches, workers, augment_seed):
            yield indices, torch.from_numpy(batch)
        return

    def fetch(batch: Indices, submit: Submit) -> npt.NDArray[Any]:
        pieces = _pieces(len(batch), workers)
        fetched = [submit(images.fetch, batch[piece], augment_seed) for piece in pieces]
        return np.concatenate([done() for done in fetched])

    for indices, batch in _read_ahead(fetch, batches, workers):
        yield indices, images.finish(torch.from_numpy(batch).to(device), indices, augment_seed)


class _Memory:
    """Arrays that are handed out again when nobody else holds them, or a view or a tensor of them.

    A new one has to be cleared by the system page by page, which takes as long as half of reading a packed image.
    """

    def __init__(self) -> None:
        self._kept: list[Floats] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> Floats:
        """An array of a shape, with anything in it."""
        with self._lock:
            for k in range(len(self._kept)):
                if self._kept[k].shape == shape and sys.getrefcount(self._kept[k]) == ALONE:
                    return self._kept[k]
            self._kept = [array for array in self._kept if array.shape == shape][-KEPT_ARRAYS:]
            self._kept.append(np.empty(shape, np.float32))
            return self._kept[-1]


def _read_ahead(
    read: Callable[[Indices, Submit], npt.NDArray[Any]], batches: Iterable[Indices], workers: int
) -> Iterator[tuple[Indices, npt.NDArray[Any]]]:
    """Batches in order, up to three of them begun; ``read`` hands pieces to the threads, and gets their results."""
    if workers <= 0:
        for batch in batches:
            yield batch, read(batch, lambda function, *given: lambda: function(*given))
        return
    ahead: deque[tuple[Indices, Future[npt.NDArray[Any]]]] = deque()
    with ThreadPoolExecutor(workers, "images") as pool, ThreadPoolExecutor(3, "batches") as whole:

        def submit(function: Callable[..., Any], *given: Any) -> Callable[[], Any]:
            return pool.submit(function, *given).result

        for batch in batches:
            ahead.append((batch, whole.submit(read, batch, submit)))
            if len(ahead) > 2:
                indices, done = ahead.popleft()
                yield indices, done.result()
        while ahead:
            indices, done = ahead.popleft()
            yield indices, done.result()


def _pieces(n: int, workers: int) -> list[slice]:
    """Consecutive parts of a batch, one a thread."""
    cuts = np.linspace(0, n, min(max(workers, 1), max(n, 1)) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
