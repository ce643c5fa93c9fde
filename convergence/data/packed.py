"""Packed images: one file per split, with resized images as bytes that are read at random without decoding.

The file is plain HDF5 with contiguous images. A thread reads an image with one read at an offset, and ranks write the
file jointly in the same way. ``convergence pack`` makes it from an image folder (:mod:`hpc.pack`).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import Field

from convergence.data.crops import Crop, Crops, PixelImages, Pixels
from convergence.data.files import Part, list_files
from convergence.data.image_folder import FolderImages
from convergence.data.images import Indices, Splits
from convergence.errors import ConfigError, FileError
from convergence.io.files import atomic_write
from convergence.io.full_disk import open_hdf5
from convergence.io.hdf5 import open_checked, read_array, reading, write_array
from convergence.settings import PLACE_ONLY, PathSetting

if TYPE_CHECKING:
    import torch

SCHEMA, VERSION = "convergence-images", 2
MADE_BY = "convergence pack CONFIG"
BLOCK_IMAGES = 256
"""Images of a block, the unit of writing."""
DIGEST = 32
"""Bytes of the checksum of an image."""
_ONE_READER = threading.Lock()


class Packed(Crops):
    """Files that `convergence pack` made from an image folder.

    Evaluation uses the same pixels as the folder. Training crops are drawn from the packed images; they equal those of
    the folder for ``augmentation = "crop"`` and images resized to (height, width).
    """

    name: Literal["packed"]
    root: PathSetting = Field(description="Folder that holds the two files.", json_schema_extra=PLACE_ONLY)
    train_file: PathSetting = Field(
        PathSetting("train.h5"), description="File of the training images.", json_schema_extra=PLACE_ONLY
    )
    test_file: PathSetting = Field(
        PathSetting("val.h5"), description="File of the held-out images.", json_schema_extra=PLACE_ONLY
    )

    def list_parts(self) -> dict[str, Part]:
        remedy = f"Make it with: {MADE_BY}."
        return {
            key: list_files(str(file), [(key, self.root / file)], remedy)
            for key, file in (("train", self.train_file), ("test", self.test_file))
            if key == "test" or self.reads_train
        }

    def hash_content(self, path: str) -> tuple[str, str, str]:
        """Hash labels, classes, shape and the checksums of the pixels, which takes no reading of the pixels."""
        with open_packed(Path(path)) as file, reading(path, made_by=MADE_BY):
            text = json.dumps([read_array(file, "labels").tolist(), list(map(str, read_array(file, "class_names")))])
            digest = hashlib.sha256(f"{text} {file['images'].shape}".encode())
            if "families" in file:
                digest.update(read_array(file, "families").tobytes())
            digest.update(file["image_sha256"][()].tobytes())
        return digest.hexdigest(), "", ""

    def draw(self, width: int, height: int, augment_seed: int, index: int) -> Crop:
        (left, top, right, bottom), mirrored = super().draw(width, height, augment_seed, index)
        left, top = int(left), int(top)  # whole pixels
        return Crop((left, top, max(round(right), left + 1), max(round(bottom), top + 1)), mirrored)

    def load(self) -> Splits:
        test = PackedImages(self, self.root / self.test_file)
        if not self.reads_train:
            return Splits.only_test(
                test, f"{self.root / self.train_file} was not read, because no net of the config is trained."
            )
        train = PackedImages(self, self.root / self.train_file)
        if train.class_names != test.class_names:
            raise FileError(
                f"{self.root}: {self.train_file} and {self.test_file} have different classes, or the same in another "
                f"order. Pack both from one image folder with: {MADE_BY}."
            )
        return Splits(train, test)


class PackedImages(PixelImages):
    """One packed file; safe to read from several threads."""

    def __init__(self, source: Packed, path: Path) -> None:
        self.source, self._path = source, path
        with open_packed(path) as file:
            self.labels = read_array(file, "labels")
            self.class_names = tuple(str(name) for name in read_array(file, "class_names"))
            self.families = read_array(file, "families") if "families" in file else None
            self.source_manifest = str(file.attrs["source_manifest_sha256"])
            _, self.height, self.width, _ = file["images"].shape
            self._offset = file["images"].id.get_offset()
            self._digests = file["image_sha256"][()]
        self._is_verified = np.zeros(len(self.labels), bool)
        if min(self.height, self.width) < source.crop:
            raise ConfigError(
                f"{path}: the images are {self.height} × {self.width}, less than data.crop = {source.crop}. Lower "
                "data.crop, or pack the images again with a larger data.resize."
            )
        self.image_shape = (3, source.crop, source.crop)
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def whole(self, indices: Indices) -> Pixels:
        """Read whole packed images: (len(indices), height, width, 3)."""
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
        """Fill ``out`` with consecutive rows of an image; the whole image is verified when it is first read."""
        if not self._is_verified[index]:
            image = out if out.shape[0] == self.height else np.empty((self.height, self.width, 3), np.uint8)
            self._read(image, index, 0)
            if hashlib.sha256(image.data).digest() != self._digests[index].tobytes():
                raise FileError(
                    f"{self._path}: image {index} does not match its checksum: the file was damaged after it was "
                    f"written. Copy it again, or remake it with: {MADE_BY}."
                )
            self._is_verified[index] = True
            if image is not out:
                out[...] = image[first_row : first_row + len(out)]
            return
        self._read(out, index, first_row)

    def _read(self, out: Pixels, index: int, first_row: int) -> None:
        start = self._offset + (index * self.height + first_row) * self.width * 3
        if read_at(self._file, out, start) < out.nbytes:
            raise FileError(
                f"{self._path}: the file ends within image {index}. Copy it again, or remake it with: {MADE_BY}."
            )


@contextmanager
def open_packed(path: Path) -> Iterator[h5py.File]:
    """Open a packed file; FileError for one that is damaged, of another kind or version, or of unlike parts."""
    with open_checked(path, SCHEMA, VERSION, MADE_BY) as file:
        with reading(path, made_by=MADE_BY):
            images, labels = file["images"], read_array(file, "labels")
            n_classes = len(read_array(file, "class_names"))
            if (
                images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape
                or file["image_sha256"].shape != (len(images), DIGEST) or labels.shape != (len(images),)
                or ("families" in file and read_array(file, "families").shape != labels.shape)
                or labels.dtype.kind != "i" or not 0 <= labels.min() <= labels.max() < n_classes
                or not all(isinstance(file.attrs[name], str) for name in ("digest", "source_manifest_sha256"))
            ):  # fmt: skip
                raise FileError(
                    f"{path}: images, labels, classes and attributes do not fit. Make it again with: {MADE_BY}."
                )
        yield file


def image_digests(images: Pixels) -> bytes:
    """SHA-256 of the bytes of each image (n, height, width, 3), one after the other."""
    return b"".join(hashlib.sha256(image.data).digest() for image in images)


def read_at(file: int, out: npt.NDArray[Any], start: int) -> int:
    """Fill an array from an offset of a file without changing the file's position; return the number of bytes read."""
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
    """Cut crops (n, side, side, 3) from (n, height, width, 3) bytes; resampled crops equal the CPU's up to rounding."""
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
    """Bilinear weights (images, side, n) of the pixels along an axis, with antialiasing."""
    import torch

    step = (last - first) / side
    centre = first[:, None] + (torch.arange(side, device=first.device) + 0.5) * step[:, None]
    pixel = torch.arange(n, device=first.device) + 0.5
    weights = 1 - (pixel - centre[:, :, None]).abs() / step.clamp(min=1)[:, None, None]
    weights.clamp_(min=0)
    weights *= (pixel > first[:, None, None]) & (pixel < last[:, None, None])
    return (weights / weights.sum(2, keepdim=True)).float()


def _resample(part: Pixels, side: int) -> Pixels:
    """Resize a part to (side, side, 3), bilinear with antialiasing; three times as fast as Pillow at equal accuracy.

    Explicit strides mark the channels as the last axis, also where the shape is ambiguous; torch would separate the
    channels otherwise. Each call of torch releases the interpreter's lock, for which reading threads wait, so the
    function makes few calls.
    """
    import torch

    part = np.ascontiguousarray(part)
    height, width, _ = part.shape
    image = np.ndarray((1, 3, height, width), np.uint8, part, strides=(part.nbytes, 1, 3 * width, 3))
    resized = torch.nn.functional.interpolate(torch.from_numpy(image), (side, side), mode="bilinear", antialias=True)
    return resized.numpy()[0].transpose(1, 2, 0)


class Layout(NamedTuple):
    """Shape of a packed file, manifest of its images, and digest of everything its bytes depend on."""

    n: int
    height: int
    width: int
    manifest: str
    digest: str

    @property
    def n_blocks(self) -> int:
        """Number of blocks of ``BLOCK_IMAGES`` images; the last block may be shorter."""
        return -(-self.n // BLOCK_IMAGES)

    def block(self, k: int) -> range:
        """Return the images of block k."""
        return range(k * BLOCK_IMAGES, min((k + 1) * BLOCK_IMAGES, self.n))


def layout(images: FolderImages) -> Layout:
    """Plan the packed file of a folder: whole images if resized to (height, width), else a central square.

    Raises
    ------
    ConfigError
        if the crop is larger than the resized images.
    """
    source = images.source
    height, width = source.resize if isinstance(source.resize, tuple) else (source.resize, source.resize)
    if min(height, width) < source.crop:
        raise ConfigError(
            f"data.crop = {source.crop} is larger than data.resize = {source.resize}. Lower data.crop or raise "
            "data.resize."
        )
    manifest = images.manifest_hash()
    text = f"{VERSION} {manifest} {source.resize} {source.crop}"
    text += "" if source.interpolation == "bilinear" else f" {source.interpolation}"
    if images.families is not None:
        text += f" {hashlib.sha256(images.families.tobytes()).hexdigest()}"
    return Layout(len(images), height, width, manifest, hashlib.sha256(text.encode()).hexdigest())


def decode(images: FolderImages, index: int, plan: Layout) -> Pixels:
    """Decode one image for packing: (height, width, 3), positioned so that the evaluation crop equals the folder's."""
    image = images.resized(index)
    (left, top, _, _), _ = images.source.centre(image.width, image.height)
    (inner_left, inner_top, _, _), _ = images.source.centre(plan.width, plan.height)
    left, top = left - inner_left, top - inner_top
    return np.asarray(image.crop((left, top, left + plan.width, top + plan.height)))


def create(path: Path, images: FolderImages, plan: Layout) -> None:
    """Create a packed file, complete except for the allocated images, their checksums and the seal.

    All three are written as plain bytes later. The structure of the file does not change after this, so a kill cannot
    damage it.
    """
    with atomic_write(path) as temporary, open_hdf5(temporary, "w") as file:
        file.attrs["schema"], file.attrs["schema_version"] = SCHEMA, VERSION
        file.attrs["digest"], file.attrs["source_manifest_sha256"] = plan.digest, plan.manifest
        write_array(
            file, "labels", images.known_labels(), ("image",), about="class of each image, an index into class_names"
        )
        write_array(file, "class_names", list(images.class_names), ("class",))
        if images.families is not None:
            about = "family of each image; images of a family are not independent"
            write_array(file, "families", images.families, ("image",), about=about)
        about = "SHA-256 of the bytes of each image"
        _make_room(file, "image_sha256", (plan.n, DIGEST), ("image", "byte"), about)
        about = "pixels after the resize, red green blue"
        _make_room(file, "images", (plan.n, plan.height, plan.width, 3), ("image", "row", "column", "channel"), about)


def _make_room(file: h5py.File, name: str, shape: tuple[int, ...], axes: tuple[str, ...], about: str) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # times would make the bytes of two equal files differ
    space = h5py.h5s.create_simple(shape)
    data = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_U8LE, space, creation))
    for axis, label in enumerate(axes):
        data.dims[axis].label = label
    data.attrs["about"] = about


def unfinished_digest(path: Path) -> str:
    """The digest of an unfinished packed file; "" for a file that cannot be read, which is then replaced."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["digest"])
    except (OSError, KeyError, ValueError, RuntimeError):
        return ""


def offset(path: Path, name: str) -> int:
    """Return the offset of a dataset in its file in bytes."""
    with h5py.File(path, "r") as file:
        return int(file[name].id.get_offset())
