"""Images in folders by class, as ImageNet is kept: ``root/train/<class>/*.JPEG`` and ``root/val/<class>/*.JPEG``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from convergence.data.images import DataSource, Floats, ImageSet, Indices, Splits
from convergence.errors import FileError

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ImageFolder(DataSource):
    """A folder of images. Evaluation: resize, centre crop, normalise; training: random crop and flip."""

    name: Literal["image_folder"]
    root: Path = Field(description="The folder that holds the training and the held-out folder.")
    train_folder: str = Field("train", description="Subfolder to train on.")
    test_folder: str = Field("val", description="Subfolder that is held out.")
    resize: int | tuple[int, int] = Field(256, description="Shorter side, or (height, width) of the whole image.")
    crop: int = Field(224, ge=1, description="Side of the square that the net sees.")
    augmentation: Literal["resized_crop", "crop"] = Field(
        "resized_crop", description="Training crops: of random size and place, or of random place after the resize."
    )
    scale: float = Field(1 / 255, gt=0, description="Factor on the pixels' 0 … 255.")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="Taken off, after the factor.")
    deviation: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="Divided by, after that.")

    def load(self) -> Splits:
        train, test = (FolderImages(self, self.root / part) for part in (self.train_folder, self.test_folder))
        if train.class_names != test.class_names:
            odd = sorted(set(train.class_names) ^ set(test.class_names))
            raise FileError(
                f"{self.root}: {self.train_folder} and {self.test_folder} do not have the same classes; only in one of "
                f"them: {', '.join(odd[:10])}. Each class needs a folder of the same name in both."
            )
        return Splits(train, test)


class FolderImages(ImageSet):
    """Images that are decoded when they are read; safe to read from several threads."""

    def __init__(self, source: ImageFolder, folder: Path) -> None:
        self._source = source
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
        self._evaluate, self._augment = _transforms(source)
        self._mean = np.array(source.mean, np.float32)[:, None, None]
        self._deviation = np.array(source.deviation, np.float32)[:, None, None]

    def read(self, indices: Indices, augment_seed: int | None = None) -> Floats:
        out = np.empty((len(indices), *self.image_shape), np.float32)
        for row, index in enumerate(indices):
            image = self._decode(self._files[index])
            if augment_seed is None:
                pixels = np.asarray(self._evaluate(image))
            else:
                pixels = self._augment(image, np.random.default_rng([augment_seed, int(index)]))
            scaled = pixels.astype(np.float32).transpose(2, 0, 1) * np.float32(self._source.scale)
            out[row] = (scaled - self._mean) / self._deviation
        return out

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
    """The evaluation transform, and the augmentation with a generator of an image's own."""
    from PIL import Image
    from torchvision import transforms

    size = list(source.resize) if isinstance(source.resize, tuple) else source.resize
    resize = transforms.Resize(size)
    evaluate = transforms.Compose([resize, transforms.CenterCrop(source.crop)])

    def augment(image: Any, generator: np.random.Generator) -> Any:
        if source.augmentation == "resized_crop":
            box = _random_box(image.width, image.height, generator)
            image = image.resize((source.crop, source.crop), Image.Resampling.BILINEAR, box=box)
        else:
            image = resize(image)
            left = int(generator.integers(0, max(image.width - source.crop, 0) + 1))
            top = int(generator.integers(0, max(image.height - source.crop, 0) + 1))
            image = image.crop((left, top, left + source.crop, top + source.crop))
        pixels = np.asarray(image)
        return pixels[:, ::-1] if generator.integers(2) else pixels

    return evaluate, augment


def _random_box(width: int, height: int, generator: np.random.Generator) -> tuple[float, float, float, float]:
    """A box of 8–100 % of the area and an aspect of 3/4 … 4/3 (Szegedy et al. 2015, arXiv 1409.4842)."""
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1.0)
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = generator.uniform(0, width - w), generator.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
