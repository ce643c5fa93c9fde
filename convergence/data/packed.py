"""Images packed in one file a split: resized once, kept as bytes, read at random without decoding.

The file is plain HDF5. Its images are contiguous in it, so that a reader takes each with one read at an offset, several
threads side by side, and ranks can write it together with no more than that. ``convergence pack`` makes it from an
image folder (:mod:`hpc.pack`).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import Field

from convergence.data.crops import Crop, Crops, PixelImages, Pixels
from convergence.data.image_folder import FolderImages
from convergence.data.images import Indices, Splits
from convergence.errors import ConfigError, FileError
from convergence.io.files import atomic_write
from convergence.io.hdf5 import open_checked, open_hdf5, read_array, write_array

if TYPE_CHECKING:
    import torch

SCHEMA, VERSION = "convergence-images", 1
MADE_BY = "convergence pack CONFIG"
BLOCK_IMAGES = 256
"""Images of a block: what is written, and summed up, at a time."""
_ONE_READER = threading.Lock()


class Packed(Crops):
    """Files that `convergence pack` made of an image folder.

    In evaluation the pixels are those of the folder. Training crops are drawn from the packed images: the same for
    ``augmentation = "crop"`` and images that were resized to (height, width).
    """

    name: Literal["packed"]
    root: Path = Field(description="The folder that holds the two files.")
    train_file: str = Field("train.h5", description="Images to train on.")
    test_file: str = Field("val.h5", description="Images that are held out.")

    def draw(self, width: int, height: int, augment_seed: int, index: int) -> Crop:
        (left, top, right, bottom), mirrored = super().draw(width, height, augment_seed, index)
        left, top = int(left), int(top)  # whole pixels
        return Crop((left, top, max(round(right), left + 1), max(round(bottom), top + 1)), mirrored)

    def load(self) -> Splits:
        train, test = (PackedImages(self, self.root / file) for file in (self.train_file, self.test_file))
        if train.class_names != test.class_names:
            raise FileError(f"{self.root}: {self.train_file} and {self.test_file} do not have the same classes.")
        return Splits(train, test)


class PackedImages(PixelImages):
    """One packed file; safe to read from several threads."""

    def __init__(self, source: Packed, path: Path) -> None:
        self.source, self._path = source, path
        with open_checked(path, SCHEMA, VERSION, MADE_BY) as file:
            self.labels = read_array(file, "labels")
            self.class_names = tuple(str(name) for name in read_array(file, "class_names"))
            self.source_manifest = str(file.attrs["source_manifest_sha256"])
            _, self.height, self.width, _ = file["images"].shape
            self._offset = file["images"].id.get_offset()
        if min(self.height, self.width) < source.crop:
            raise ConfigError(
                f"{path}: the images are of {self.height} × {self.width}, less than data.crop = {source.crop}. Lower "
                "it, or pack them again with a larger data.resize."
            )
        self.image_shape = (3, source.crop, source.crop)
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def whole(self, indices: Indices) -> Pixels:
        """Images as they are packed: (len(indices), height, width, 3)."""
        out = np.empty((len(indices), self.height, self.width, 3), np.uint8)
        for row, index in enumerate(indices):
            self._fill(out[row], int(index), 0)
        return out

    def parts(self, indices: Indices, augment_seed: int | None = None) -> Iterator[Pixels]:
        side = self.source.crop
        resample = augment_seed is not None and self.source.augmentation == "resized_crop"
        image = np.empty((self.height if resample else side, self.width, 3), np.uint8)
        for index in indices:
            box, mirrored = self._crop(int(index), augment_seed)
            left, top, right, bottom = map(int, box)
            if resample:
                self._fill(image[: bottom - top], int(index), top)
                part = _resample(image[: bottom - top, left:right], side)
            else:
                self._fill(image, int(index), top)
                part = image[:, left:right]
            yield part[:, ::-1] if mirrored else part

    def fetch(self, indices: Indices, augment_seed: int | None = None) -> npt.NDArray[Any]:
        return self.whole(indices)

    def finish(self, batch: torch.Tensor, indices: Indices, augment_seed: int | None = None) -> torch.Tensor:
        crops = [self._crop(int(index), augment_seed) for index in indices]
        resample = augment_seed is not None and self.source.augmentation == "resized_crop"
        return self.source.normalise_on_device(cut_on_device(batch, crops, self.source.crop, resample))

    def manifest_hash(self) -> str:
        return self.source_manifest

    def _crop(self, index: int, augment_seed: int | None) -> Crop:
        if augment_seed is None:
            return self.source.centre(self.width, self.height)
        return self.source.draw(self.width, self.height, augment_seed, index)

    def _fill(self, out: Pixels, index: int, first_row: int) -> None:
        """Read as many rows of an image as there is room for."""
        start = self._offset + (index * self.height + first_row) * self.width * 3
        if read_at(self._file, out, start) < out.nbytes:
            raise FileError(f"{self._path}: the file ends within image {index}. Copy it again, or: {MADE_BY}.")


def read_at(file: int, out: npt.NDArray[Any], start: int) -> int:
    """Fill an array from a place in a file, leaving the file's position alone; the number of bytes that were there."""
    buffer = out.data.cast("B")
    done = 0
    while done < len(buffer):
        if hasattr(os, "preadv"):
            n = os.preadv(file, [buffer[done:]], start + done)
        else:  # Windows
            with _ONE_READER:
                os.lseek(file, start + done, os.SEEK_SET)
                part = os.read(file, len(buffer) - done)
            n = len(part)
            buffer[done : done + n] = part
        if n == 0:
            break
        done += n
    return done


def cut_on_device(batch: torch.Tensor, crops: list[Crop], side: int, resample: bool) -> torch.Tensor:
    """Crops (n, side, side, 3) of (n, height, width, 3) bytes, all at once; resampled ones to a rounding."""
    import torch

    boxes = torch.tensor([crop.box for crop in crops], dtype=torch.float64, device=batch.device)
    if resample:
        rows = _bilinear(boxes[:, 1], boxes[:, 3], batch.shape[1], side)
        columns = _bilinear(boxes[:, 0], boxes[:, 2], batch.shape[2], side)
        across = torch.einsum("nxw,nhwc->nhxc", columns, batch.float()).round_()
        part = torch.einsum("nyh,nhxc->nyxc", rows, across).round_().to(torch.uint8)
    else:
        ahead = torch.arange(side, device=batch.device)
        rows, columns = boxes[:, 1].long()[:, None] + ahead, boxes[:, 0].long()[:, None] + ahead
        images = torch.arange(len(batch), device=batch.device)[:, None, None]
        part = batch[images, rows[:, :, None], columns[:, None, :]]
    mirrored = torch.tensor([crop.mirrored for crop in crops], device=batch.device)
    return torch.where(mirrored[:, None, None, None], part.flip(2), part)


def _bilinear(first: torch.Tensor, last: torch.Tensor, n: int, side: int) -> torch.Tensor:
    """Weights (images, side, n) of the pixels along an axis: a triangle as wide as what it is to cover."""
    import torch

    step = (last - first) / side
    centre = first[:, None] + (torch.arange(side, device=first.device) + 0.5) * step[:, None]
    pixel = torch.arange(n, device=first.device) + 0.5
    weights = 1 - (pixel - centre[:, :, None]).abs() / step.clamp(min=1)[:, None, None]
    weights.clamp_(min=0)
    weights *= (pixel > first[:, None, None]) & (pixel < last[:, None, None])
    return (weights / weights.sum(2, keepdim=True)).float()


def _resample(part: Pixels, side: int) -> Pixels:
    """Bilinear, with a triangle as wide as what a pixel is to cover; three times as fast as Pillow, and as exact.

    Strides say that the channels come last, also where the shape leaves it open: torch would take them apart otherwise.
    Few calls of torch, for each lets go of the interpreter's lock, and threads that read side by side wait for it.
    """
    import torch

    part = np.ascontiguousarray(part)
    height, width, _ = part.shape
    image = np.ndarray((1, 3, height, width), np.uint8, part, strides=(part.nbytes, 1, 3 * width, 3))
    resized = torch.nn.functional.interpolate(torch.from_numpy(image), (side, side), mode="bilinear", antialias=True)
    return resized.numpy()[0].transpose(1, 2, 0)


class Layout(NamedTuple):
    """What a packed file of a folder will be: its shape, and the digest of all on which its bytes depend."""

    n: int
    height: int
    width: int
    manifest: str
    digest: str

    @property
    def n_blocks(self) -> int:
        """Blocks of ``BLOCK_IMAGES`` images, the last one shorter."""
        return -(-self.n // BLOCK_IMAGES)

    def block(self, k: int) -> range:
        """Images of block k."""
        return range(k * BLOCK_IMAGES, min((k + 1) * BLOCK_IMAGES, self.n))


def layout(images: FolderImages) -> Layout:
    """The packed form of a folder: whole images if they are resized to (height, width), else a square in the middle.

    Raises
    ------
    ConfigError
        where the crop would not fit in.
    """
    source = images.source
    height, width = source.resize if isinstance(source.resize, tuple) else (source.resize, source.resize)
    if min(height, width) < source.crop:
        raise ConfigError(
            f"data.crop = {source.crop} is more than data.resize = {source.resize} leaves to cut it from."
        )
    manifest = images.manifest_hash()
    text = f"{VERSION} {manifest} {source.resize} {source.crop}"
    return Layout(len(images), height, width, manifest, hashlib.sha256(text.encode()).hexdigest())


def decode(images: FolderImages, index: int, plan: Layout) -> Pixels:
    """One image as it is packed: (height, width, 3), placed so that the crop of evaluation is the folder's."""
    image = images.resized(index)
    (left, top, _, _), _ = images.source.centre(image.width, image.height)
    (inner_left, inner_top, _, _), _ = images.source.centre(plan.width, plan.height)
    left, top = left - inner_left, top - inner_top
    return np.asarray(image.crop((left, top, left + plan.width, top + plan.height)))


def create(path: Path, images: FolderImages, plan: Layout) -> None:
    """A file with room for the images and their checksums, and all else in it.

    Both are written as plain bytes later, and the structure of the file is not touched again: no kill can tear it.
    """
    with atomic_write(path) as temporary, open_hdf5(temporary, "w") as file:
        file.attrs["schema"], file.attrs["schema_version"] = SCHEMA, VERSION
        file.attrs["digest"], file.attrs["source_manifest_sha256"] = plan.digest, plan.manifest
        write_array(file, "labels", images.labels, ("image",), about="class of each image, an index into class_names")
        write_array(file, "class_names", list(images.class_names), ("class",))
        about = f"SHA-256 of the bytes of every {BLOCK_IMAGES} images"
        _make_room(file, "block_sha256", (plan.n_blocks, 32), ("block", "byte"), about)
        about = "pixels after the resize, red green blue"
        _make_room(file, "images", (plan.n, plan.height, plan.width, 3), ("image", "row", "column", "channel"), about)


def _make_room(file: h5py.File, name: str, shape: tuple[int, ...], axes: tuple[str, ...], about: str) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # or no two files would have the same bytes
    space = h5py.h5s.create_simple(shape)
    data = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_U8LE, space, creation))
    for axis, label in enumerate(axes):
        data.dims[axis].label = label
    data.attrs["about"] = about


def offset(path: Path, name: str) -> int:
    """Where a dataset begins in a file."""
    with h5py.File(path, "r") as file:
        return int(file[name].id.get_offset())
