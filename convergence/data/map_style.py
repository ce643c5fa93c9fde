"""Map-style data sets of other libraries (``__len__`` and ``__getitem__``) as image sets.

An item is an image, or a pair of an image and a class. Pillow's images are resized, cropped and normalised by settings;
arrays and tensors are passed to the nets unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from convergence.data.crops import Deviation, Mean
from convergence.data.images import Batch, Bools, DataSource, Floats, ImageSet, Indices
from convergence.errors import FileError

Side = Annotated[int, Field(ge=1, le=16_384)]
INPUTS = "floats (C, H, W), (C, L) or (D,), integers (T,) as tokens, or an image of Pillow"


class MapStyle(DataSource):
    """Settings of the images of Pillow in a map-style data set; no augmentation."""

    resize: Side | tuple[Side, Side] | None = Field(
        None, description="Size after the resize in pixels: the shorter side, or (height, width); default: none."
    )
    crop: Side | None = Field(None, description="Side of the square in the centre that is read; default: the image.")
    channels: int | None = Field(
        None, ge=1, le=3, description="1 for grey, 3 for colour; default: 1 if the first image is grey, else 3."
    )
    scale: float = Field(1 / 255, ge=1e-6, le=1e6, description="Factor applied to pixel values 0 … 255.")
    mean: tuple[Mean, ...] = Field((0.5,), description="Mean of all channels or of each, subtracted after scaling.")
    deviation: tuple[Deviation, ...] = Field(
        (0.5,), description="Standard deviation of all channels or of each, divided by after the mean is subtracted."
    )

    @model_validator(mode="after")
    def _channels(self) -> MapStyle:
        known = (self.channels,) if self.channels else (1, 3)
        if self.channels == 2:
            raise ValueError("data.channels = 2; valid are 1 (grey) and 3 (colour)")
        for name, values in (("mean", self.mean), ("deviation", self.deviation)):
            if len(values) != 1 and len(values) not in known:
                raise ValueError(f"data.{name} has {len(values)} values; give one, or one for each channel")
        return self

    def pixels_of(self, image: Any, n_channels: int) -> Floats:
        """An image of Pillow as input (channels, height, width) of a net."""
        from torchvision import transforms

        image = image.convert("L" if n_channels == 1 else "RGB")
        if self.resize is not None:
            size = list(self.resize) if isinstance(self.resize, tuple) else self.resize
            image = transforms.Resize(size)(image)
        if self.crop is not None:
            image = transforms.CenterCrop(self.crop)(image)
        values = np.asarray(image, np.float32).reshape(image.height, image.width, n_channels)
        return np.ascontiguousarray(self.normalised(values).transpose(2, 0, 1))

    def normalised(self, values: Floats) -> Floats:
        """Pixels (height, width, channels) of 0 … 255, scaled and normalised."""
        mean, deviation = (np.array(of_channels, np.float32) for of_channels in (self.mean, self.deviation))
        return (values * np.float32(self.scale) - mean) / deviation


class MapImages(ImageSet):
    """A map-style data set as images.

    Parameters
    ----------
    source : the settings
    dataset : the data set
    title : names it in messages
    identity : identifies the items, in place of a hash of all of them
    has_labels : whether second values of items are classes

    ``targets`` (n,) of the data set are its labels, without which all items are read once. ``classes``, ``families``
    (n,) and ``mask`` (n, positions) are used if the data set has them.

    Raises
    ------
    FileError
        for items of another kind.
    """

    def __init__(self, source: MapStyle, dataset: Any, title: str, identity: str = "", has_labels: bool = True) -> None:
        self.source, self.dataset, self.title, self._identity = source, dataset, title, identity
        if not callable(getattr(dataset, "__getitem__", None)) or not callable(getattr(dataset, "__len__", None)):
            raise FileError(
                f"{title} is a {type(dataset).__name__}; needed is a map-style data set with __len__ and __getitem__, "
                "or a pair (train, test) of them."
            )
        self._n = len(dataset)
        if not self._n:
            raise FileError(f"{title} is empty. Give images.")
        image, label = self._item(0)
        self._n_channels = source.channels or (
            1 if getattr(image, "mode", "RGB") in ("1", "L", "I", "I;16", "F") else 3
        )
        first = self._input(0, image)
        self.image_shape, self.dtype = first.shape, first.dtype
        self._content = ""
        if has_labels and label is not None:
            self.labels = self._given_labels(label)
            self.class_names = class_names_of([self])
        self.families = self._column("families", "iuUS")
        mask = getattr(dataset, "mask", None)
        self._mask = None if mask is None else as_array(mask)
        if self._mask is not None and (
            self._mask.dtype.kind != "b" or self._mask.ndim != 2 or len(self._mask) != self._n
        ):
            raise FileError(
                f"{title}: mask is an array of shape {self._mask.shape} and type {self._mask.dtype}; needed are "
                f"{self._n:,} × positions booleans."
            )

    def __len__(self) -> int:
        return self._n

    def position_mask(self, indices: Indices) -> Bools | None:
        return None if self._mask is None else self._mask[indices]

    def read(self, indices: Indices, augment_seed: int | None = None) -> Batch:
        out = np.empty((len(indices), *self.image_shape), self.dtype)
        for row, index in enumerate(indices):
            found = self._input(int(index), self._item(int(index))[0])
            if found.shape != self.image_shape or found.dtype != self.dtype:
                raise FileError(
                    f"{self.title}: item {index:,} has the shape {found.shape} and type {found.dtype}, item 0 "
                    f"{self.image_shape} and {self.dtype}. Give items of one shape; for images of Pillow set "
                    "data.resize and data.crop."
                )
            out[row] = found
        return out

    def pixel_range(self) -> tuple[Floats, Floats]:
        """Black and white of images of Pillow; the smallest and the largest value of some items for others."""
        ones = np.ones(self.image_shape[0], np.float32)
        if hasattr(self._item(0)[0], "mode"):
            black, white = (self.source.normalised(np.full((1, 1, 1), value, np.float32) * ones) for value in (0, 255))
            return black.ravel(), white.ravel()
        some = self.read(np.linspace(0, self._n - 1, min(self._n, 64)).round().astype(np.int64))
        return ones * some.min(), ones * some.max()

    def manifest_hash(self) -> str:
        if not self._content:
            digest = hashlib.sha256(f"{self._identity} {self._n} {self.image_shape} {self.dtype}".encode())
            digest.update(b"no labels" if self.labels is None else self.labels.tobytes())
            for k in range(0 if self._identity else self._n):
                digest.update(self.read(np.array([k])).tobytes())
            for extra in (self.families, self._mask):
                digest.update(b"" if extra is None else extra.tobytes())
            self._content = digest.hexdigest()
        return self._content

    def _item(self, index: int) -> tuple[Any, Any]:
        """Image and class of an item; None without a class."""
        item = self.dataset[index]
        if isinstance(item, tuple | list):
            if len(item) != 2:
                raise FileError(
                    f"{self.title}: item {index:,} has {len(item)} values; needed is an image or a pair (image, class)."
                )
            return item[0], item[1]
        return item, None

    def _input(self, index: int, image: Any) -> Batch:
        """An image as input of a net: float32, or int64 for tokens."""
        if hasattr(image, "convert") and hasattr(image, "mode"):
            return self.source.pixels_of(image, self._n_channels)
        values = as_array(image)
        if values.dtype.kind in "iu" and values.ndim == 1:
            return values.astype(np.int64)
        if values.dtype.kind != "f" or not values.ndim or not values.size:
            raise FileError(
                f"{self.title}: item {index:,} is a {type(image).__name__} of shape {values.shape} and type "
                f"{values.dtype}; needed are {INPUTS}. Convert pixels to floats, or return the image of Pillow."
            )
        if not np.isfinite(values).all():
            raise FileError(
                f"{self.title}: item {index:,} holds NaN or infinite values. Replace them, or leave it out."
            )
        return values.astype(np.float32)

    def _given_labels(self, first: Any) -> Indices | None:
        """Classes (n,) of the items; None if all are −1, as in unlabelled parts of data sets."""
        found = self._column("targets", "iu")
        if found is None:
            labels = [first, *(self._item(k)[1] for k in range(1, self._n))]
            found = as_array([np.asarray(as_array(label)).reshape(-1)[:1] for label in labels]).reshape(-1)
            if any(np.size(as_array(label)) != 1 for label in labels) or found.dtype.kind not in "iub":
                raise FileError(
                    f"{self.title}: the second value of an item is no class ({type(first).__name__} "
                    f"{str(first)[:60]}); needed is an integer. Return the image alone if it has none."
                )
        found = np.asarray(found, np.int64)
        if (found == -1).all():
            return None
        if found.min() < 0:
            raise FileError(
                f"{self.title}: item {int(found.argmin()):,} has the class {found.min()}; classes are 0, 1, …"
            )
        return found

    def _column(self, name: str, kinds: str) -> Any:
        """An attribute of the data set with one value an item; None if it has none of this form."""
        values = getattr(self.dataset, name, None)
        if values is None:
            return None
        found = as_array(values)
        if found.shape != (self._n,) or found.dtype.kind not in kinds:
            if name == "targets":
                return None
            raise FileError(
                f"{self.title}: {name} is an array of shape {found.shape} and type {found.dtype}; needed is a value "
                f"for each of {self._n:,} items."
            )
        return found if name == "targets" else np.unique(found, return_inverse=True)[1].astype(np.int64)


def as_array(values: Any) -> npt.NDArray[Any]:
    """Arrays, tensors and lists as arrays."""
    detach: Callable[[], Any] | None = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu().numpy())


def class_names_of(splits: Iterable[MapImages]) -> tuple[str, ...]:
    """Names of the classes of all splits: ``classes`` of a data set, or the numbers of the classes."""
    parts = [part for part in splits if part.labels is not None]
    n = max((int(part.known_labels().max()) + 1 for part in parts), default=0)
    for part in parts:
        names = getattr(part.dataset, "classes", None)
        if isinstance(names, list | tuple) and len(names) >= n:
            return tuple(map(str, names))
    return tuple(map(str, range(n)))
