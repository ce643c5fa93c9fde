"""Images in class folders, as ImageNet: ``root/train/<class>/*.JPEG`` and ``root/val/<class>/*.JPEG``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from convergence.data.crops import Crops, PixelImages, Pixels
from convergence.data.images import Indices, Splits
from convergence.errors import FileError
from convergence.settings import PathSetting

BILINEAR = 2  # Pillow's Resampling.BILINEAR; Pillow is imported when images are decoded
Side = Annotated[int, Field(ge=1, le=16_384)]
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ImageFolder(Crops):
    """A folder of images. Evaluation: resize, centre crop, normalise; training: random crop and flip."""

    name: Literal["image_folder"]
    root: PathSetting = Field(description="Folder that holds the training and the held-out folder.")
    train_folder: PathSetting = Field(PathSetting("train"), description="Subfolder of the training images.")
    test_folder: PathSetting = Field(PathSetting("val"), description="Subfolder of the held-out images.")
    resize: Side | tuple[Side, Side] = Field(
        256, description="Size after the resize in pixels: the shorter side, or (height, width)."
    )

    @model_validator(mode="after")
    def _crop_inside(self) -> ImageFolder:
        side = self.resize if isinstance(self.resize, int) else min(self.resize)
        if self.crop > side:
            raise ValueError(
                f"data.crop = {self.crop} is larger than the images after data.resize = {self.resize}; lower data.crop "
                "or raise data.resize"
            )
        return self

    def load(self) -> Splits:
        train, test = (FolderImages(self, self.root / part) for part in (self.train_folder, self.test_folder))
        if train.class_names != test.class_names:
            odd = sorted(set(train.class_names) ^ set(test.class_names))
            raise FileError(
                f"{self.root}: {self.train_folder} and {self.test_folder} have different classes; only in one of "
                f"them: {', '.join(odd[:10])}. Each class needs a folder of the same name in both."
            )
        return Splits(train, test)


class FolderImages(PixelImages):
    """Images that are decoded when they are read; safe to read from several threads."""

    source: ImageFolder

    def __init__(self, source: ImageFolder, folder: Path) -> None:
        self.source = source
        if not folder.is_dir():
            raise FileError(
                f"{folder}: there is no such folder. data.root must hold {source.train_folder}/<class>/ and "
                f"{source.test_folder}/<class>/ with the images."
            )
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        files = [
            (file, label)
            for label, place in enumerate(classes)
            for file in sorted(place.rglob("*"))
            if file.suffix.lower() in ENDINGS
        ]
        if not files:
            raise FileError(
                f"{folder}: no images were found in {len(classes)} class folders. Images are files ending in "
                f"{', '.join(sorted(ENDINGS))} in <class>/."
            )
        self._folder = folder
        self._files = [file for file, _ in files]
        self.labels = np.array([label for _, label in files], dtype=np.int64)
        self.class_names = tuple(place.name for place in classes)
        self.image_shape = (3, source.crop, source.crop)
        self._resize, self._centre = _transforms(source)

    def parts(self, indices: Indices, augment_seed: int | None = None) -> Iterator[Pixels]:
        side = self.source.crop
        for index in indices:
            if augment_seed is None:
                yield np.asarray(self._centre(self.resized(index)))
                continue
            whole = self.source.augmentation == "resized_crop"
            image = self._decode(self._files[index]) if whole else self.resized(index)
            box, mirrored = self.source.draw(image.width, image.height, augment_seed, int(index))
            part = image.resize((side, side), BILINEAR, box=box) if whole else image.crop(box)
            yield np.asarray(part)[:, ::-1] if mirrored else np.asarray(part)

    def resized(self, index: int) -> Any:
        """Decode an image as RGB and apply ``data.resize``."""
        return self._resize(self._decode(self._files[index]))

    def manifest_hash(self) -> str:
        digest = hashlib.sha256()
        for file, label in zip(self._files, self.labels, strict=True):
            digest.update(f"{file.relative_to(self._folder).as_posix()}\0{file.stat().st_size}\0{label}\n".encode())
        return digest.hexdigest()

    @staticmethod
    def _decode(path: Path) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise FileError(f"{path}: the image could not be decoded ({error}). Replace or remove it.") from error


def _transforms(source: ImageFolder) -> tuple[Any, Any]:
    """Make torchvision's resize and centre crop."""
    from torchvision import transforms

    size = list(source.resize) if isinstance(source.resize, tuple) else source.resize
    return transforms.Resize(size), transforms.CenterCrop(source.crop)
