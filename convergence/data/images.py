"""Data sets: images that are read by index, bit-identical for every reader.

:class:`ImageSet` is one split; :class:`DataSource` is the config section that loads the splits. Batches depend on
image indices only, so the number of loader threads and their order do not change the images. An "image" may as well be
a vector, a series or a row of tokens, and labels are optional.
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
from pydantic import PrivateAttr

from convergence.data.manifest import FileData
from convergence.errors import ConfigError, FileError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Batch = npt.NDArray[Any]
"""Input of a network: float32, or int64 for tokens."""
Submit = Callable[..., Callable[[], Any]]
"""Start a call; the returned function waits for its result."""
KEPT_ARRAYS = 6
"""Maximum number of batches whose memory is reused: the prefetched batches and one or two batches in use."""
_PROBE = [object()]
ALONE = sys.getrefcount(_PROBE[0])
"""Reference count of an object that only a list refers to, including the reference of ``getrefcount``."""


class ImageSet(ABC):
    """One split of a data set.

    Attributes
    ----------
    labels : (n_images,) int64; None without labels, see :meth:`known_labels`
    class_names : tuple of str; () without labels
    image_shape : (channels, height, width), or any other shape of one input: (units,), (channels, length), (tokens,)
    dtype : float32, or int64 for tokens, of which negative ones are padding
    families : (n_images,) int64; images of a family are not independent of each other (frames of a film, crops of a
        photograph) and stay in one image group. None: every image is a family
    in_memory : whether reading is a copy of memory, which threads that read ahead would only delay
    """

    families: Indices | None = None
    labels: Indices | None = None
    in_memory: bool = False
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...]
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __len__(self) -> int:
        if self.labels is None:
            raise TypeError(f"{type(self).__name__} has no labels, and has to define __len__")
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.class_names)

    def known_labels(self) -> Indices:
        """The labels (n_images,), for whatever needs them.

        Raises
        ------
        ConfigError
            for images without labels.
        """
        if self.labels is None:
            raise ConfigError(
                "the images have no labels, and training, accuracy and functional experiments need a class for each "
                "image. Give labels (data.labels, folders of classes, or targets of the data set), or run statistics, "
                "analyze and report alone, on nets that need no training."
            )
        return self.labels

    def position_mask(self, indices: Indices) -> Bools | None:
        """Which positions of images are valid, (len(indices), positions): not padding; None where all are.

        It applies to the layers that have one axis of positions of this length. No other position is part of any sum.
        """
        return None

    def n_tokens(self) -> int:
        """Return the largest token id of all inputs plus one; 0 for images, and where it is not known."""
        return 0

    @abstractmethod
    def read(self, indices: Indices, augment_seed: int | None = None) -> Batch:
        """Read images as input of a network: (len(indices), *image_shape) of :attr:`dtype`.

        ``augment_seed`` turns on random augmentation if the data set has one. The augmentation of an image depends on
        the seed and the image index only.
        """

    def read_into(self, out: Batch, indices: Indices, augment_seed: int | None = None) -> None:
        """Read images into a given array; see :meth:`read`."""
        out[...] = self.read(indices, augment_seed)

    def fetch(self, indices: Indices, augment_seed: int | None = None) -> npt.NDArray[Any]:
        """Read the data that is moved to a GPU and turned into images by :meth:`finish`."""
        return self.read(indices, augment_seed)

    def finish(self, batch: torch.Tensor, indices: Indices, augment_seed: int | None = None) -> torch.Tensor:
        """Turn fetched data into input of a network, on the device of the data."""
        return batch

    def pixel_range(self) -> tuple[Floats, Floats]:
        """Return the values (channels,) of a black and of a white pixel, the range of the network's input.

        Raises
        ------
        FileError
            if the data set does not define the range.
        """
        raise FileError(
            f"{type(self).__name__} does not define pixel_range, the values of black and white, which pictures need. "
            "Define it, or set pictures.enabled = false."
        )

    @abstractmethod
    def manifest_hash(self) -> str:
        """Return a SHA-256 (hex) that identifies the images and labels, in order."""


class AbsentImages(ImageSet):
    """A split that a data set does not have: no images, of the shape and classes of another split.

    Whatever reads it raises FileError with the reason.
    """

    def __init__(self, like: ImageSet, reason: str) -> None:
        self.class_names, self.image_shape, self.dtype, self.reason = (
            like.class_names,
            like.image_shape,
            like.dtype,
            reason,
        )

    def __len__(self) -> int:
        return 0

    def known_labels(self) -> Indices:
        raise FileError(self.reason)

    def read(self, indices: Indices, augment_seed: int | None = None) -> Batch:
        raise FileError(self.reason)

    def manifest_hash(self) -> str:
        return hashlib.sha256(b"absent").hexdigest()


class Splits(NamedTuple):
    """Training images and held-out images (``test``), on which accuracy and by default statistics are computed.

    ``train`` is :class:`AbsentImages` where the data set has none.
    """

    train: ImageSet
    test: ImageSet

    @classmethod
    def only_test(cls, test: ImageSet, reason: str) -> Splits:
        """Held-out images alone; ``reason`` says why there are no training images, and how to give some."""
        return cls(AbsentImages(test, reason), test)


class DataSource(FileData):
    """The ``[data]`` section of a config; each data set adds its own settings.

    A data set that is read from files implements :meth:`list_parts` and marks the settings of their place as
    :data:`~convergence.settings.PLACE_ONLY`: its files then identify it, and a check reads only changed files.
    """

    name: str
    _reads_train: bool = PrivateAttr(True)

    @property
    def reads_train(self) -> bool:
        """Whether the config reads training images; their files may be missing otherwise, and are not read."""
        return self._reads_train

    def without_train(self) -> None:
        """Read no training images from now on: nothing in the config needs any."""
        self._reads_train = False

    def code(self) -> str:
        """Return ``module:attribute`` of the user's code that :meth:`load` runs; "" for data sets of the toolkit."""
        return ""

    def code_folder(self) -> Path | None:
        """Return the folder beside the config from which that code is imported; None for other code."""
        return None

    def refusal(self) -> str:
        """Say why :meth:`load` may not run that code; "" if it may."""
        return ""

    def known_shape(self) -> tuple[int, ...] | None:
        """Return the shape of an image, as (channels, height, width); None where the settings do not tell it."""
        return None

    def known_sizes(self) -> tuple[int, int] | None:
        """Return the numbers of training and of held-out images; None where the settings do not tell them."""
        return None

    def load(self) -> Splits:
        """Read or open the images.

        Raises
        ------
        FileError
            if the images are missing or damaged.
        """
        raise TypeError(f"{type(self).__name__} does not implement load()")


class ArrayImages(ImageSet):
    """Images in memory: ``images`` (n, channels, height, width) float32, ``labels`` (n,) or None.

    ``pixel_range`` holds the values of black and white, as numbers or arrays (channels,). The default is the smallest
    and the largest value of the images.
    """

    in_memory = True

    def __init__(
        self,
        images: Floats,
        labels: npt.ArrayLike | None,
        class_names: Iterable[str] = (),
        pixel_range: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> None:
        self.images = np.ascontiguousarray(images, dtype=np.float32)
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)
        self.image_shape = tuple(self.images.shape[1:])
        self._pixel_range = pixel_range

    def __len__(self) -> int:
        return len(self.images)

    def pixel_range(self) -> tuple[Floats, Floats]:
        black, white = self._pixel_range or (self.images.min(), self.images.max())
        ones = np.ones(self.image_shape[0], np.float32)
        return ones * np.asarray(black, np.float32), ones * np.asarray(white, np.float32)

    def read(self, indices: Indices, augment_seed: int | None = None) -> Floats:
        return self.images[indices]

    def manifest_hash(self) -> str:
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(b"no labels" if self.labels is None else self.labels.tobytes())
        return digest.hexdigest()


def read_batches(
    images: ImageSet, batches: Iterable[Indices], workers: int = 0, augment_seed: int | None = None
) -> Iterator[tuple[Indices, Batch]]:
    """Yield ``(indices, images)`` for each batch of indices, in order, prefetched by ``workers`` threads.

    Each batch is divided among the threads. The memory of a batch is reused when nothing refers to it.
    """
    memory, workers = _Memory(), 0 if images.in_memory else workers

    def read(batch: Indices, submit: Submit) -> Batch:
        out = memory.take((len(batch), *images.image_shape), images.dtype)
        pieces = _pieces(len(batch), workers)
        for done in [submit(images.read_into, out[piece], batch[piece], augment_seed) for piece in pieces]:
            done()
        return out

    yield from _read_ahead(read, batches, workers)


def batches_on_device(
    images: ImageSet, batches: Iterable[Indices], device: torch.device, workers: int, augment_seed: int | None = None
) -> Iterator[tuple[Indices, torch.Tensor]]:
    """Yield the batches of :func:`read_batches` on a device; a GPU computes the last steps of decoding itself."""
    import torch

    if device.type == "cpu":
        for indices, batch in read_batches(images, batches, workers, augment_seed):
            yield indices, torch.from_numpy(batch)
        return

    workers = 0 if images.in_memory else workers

    def fetch(batch: Indices, submit: Submit) -> npt.NDArray[Any]:
        pieces = _pieces(len(batch), workers)
        fetched = [submit(images.fetch, batch[piece], augment_seed) for piece in pieces]
        return np.concatenate([done() for done in fetched])

    for indices, batch in _read_ahead(fetch, batches, workers):
        yield indices, images.finish(torch.from_numpy(batch).to(device), indices, augment_seed)


class _Memory:
    """A pool of arrays, reused when no other object refers to them (including views and tensors).

    The system clears new memory page by page, which takes half as long as reading a packed image.
    """

    def __init__(self) -> None:
        self._kept: list[Batch] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Batch:
        """Return an uninitialised array of a shape; all arrays of a pool have one type."""
        with self._lock:
            for k in range(len(self._kept)):
                if self._kept[k].shape == shape and sys.getrefcount(self._kept[k]) == ALONE:
                    return self._kept[k]
            self._kept = [array for array in self._kept if array.shape == shape][-KEPT_ARRAYS:]
            self._kept.append(np.empty(shape, dtype))
            return self._kept[-1]


def _read_ahead(
    read: Callable[[Indices, Submit], npt.NDArray[Any]], batches: Iterable[Indices], workers: int
) -> Iterator[tuple[Indices, npt.NDArray[Any]]]:
    """Yield batches in order, with up to three in progress; ``read`` submits parts of a batch to the threads."""
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
    """Divide a batch of n images into consecutive slices, one per thread."""
    if workers <= 1:
        return [slice(0, n)]
    cuts = np.linspace(0, n, min(max(workers, 1), max(n, 1)) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
