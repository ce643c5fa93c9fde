"""Images in class folders, as ImageNet: ``root/train/<class>/*.JPEG`` and ``root/val/<class>/*.JPEG``.

Images directly in ``root/val`` have no labels. Training images are not listed if no net is trained.

Hidden files and folders are ignored, and links are followed. Files that cannot be used are all found before the first
image is used (:mod:`convergence.data.files`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from convergence.data.crops import Crops, PixelImages, Pixels
from convergence.data.families import check_setting, families_of, family_file
from convergence.data.files import (
    MissingDataError,
    Part,
    Problem,
    describe_problems,
    hash_file,
    hash_image,
    list_classes,
    list_files,
    list_flat,
    listed,
    name_text,
    unusable,
)
from convergence.data.images import Indices, Splits
from convergence.data.manifest import FAMILIES, KnownFiles, make_manifest
from convergence.errors import FileError
from convergence.settings import PLACE_ONLY, PathSetting

RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
"""Pillow's Resampling by name; Pillow is imported when images are decoded."""
Side = Annotated[int, Field(ge=1, le=16_384)]
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ImageFolder(Crops):
    """A folder of images. Evaluation: resize, centre crop, normalise; training: random crop and flip."""

    name: Literal["image_folder"]
    root: PathSetting = Field(
        description="Folder that holds the training and the held-out folder.", json_schema_extra=PLACE_ONLY
    )
    train_folder: PathSetting = Field(
        PathSetting("train"), description="Subfolder of the training images.", json_schema_extra=PLACE_ONLY
    )
    test_folder: PathSetting = Field(
        PathSetting("val"), description="Subfolder of the held-out images.", json_schema_extra=PLACE_ONLY
    )
    unreadable: Literal["refuse", "skip"] = Field(
        "refuse",
        description="What to do with files that cannot be read or decoded: refuse the data, or leave the files out.",
        json_schema_extra=PLACE_ONLY,
    )
    resize: Side | tuple[Side, Side] = Field(
        256, description="Size after the resize in pixels: the shorter side, or (height, width)."
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="Interpolation of the resize."
    )

    families: Annotated[str, AfterValidator(check_setting)] | None = Field(
        None,
        max_length=1000,
        description="What images of one family have in common, so that they stay in one image group: 'folder', a "
        "regular expression on the path below the folder of the split (its first group, or the whole match), or "
        "'file.csv:column' below root, with a column 'path' or a row for each image in the order of paths. "
        "Default: every image is a family.",
        json_schema_extra=PLACE_ONLY,
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

    @property
    def skips_unreadable(self) -> bool:
        return self.unreadable == "skip"

    def list_parts(self) -> dict[str, Part]:
        if not self.reads_train:
            test = self._list(self.root / self.test_folder)
            return {"test": self._with_classes(test, _used_classes(test))} | self._family_part()
        train, test = (self._list(self.root / name) for name in (self.train_folder, self.test_folder))
        odd = sorted(set(train.class_names) ^ set(test.class_names))
        if odd:
            raise FileError(
                f"{self.root}: {self.train_folder} and {self.test_folder} have different classes; only in one of "
                f"them: {listed(odd)}. Each class needs a folder of the same name in both."
            )
        used = _used_classes(train) | _used_classes(test)  # a class without images in one split still is a class
        return {"train": self._with_classes(train, used), "test": self._with_classes(test, used)} | self._family_part()

    def _with_classes(self, part: Part, used: set[str]) -> Part:
        """The part with its problems of empty classes, or with the used classes only if files are left out."""
        if self.skips_unreadable:
            return _of_classes(part, [name for name in part.class_names if name in used])
        return replace(part, problems=(*part.problems, *_empty_classes(part, _used_classes(part))))

    def _family_part(self) -> dict[str, Part]:
        name = family_file(self.families)
        if name is None:
            return {}
        remedy = "data.families names a file below data.root."
        return {FAMILIES: list_files("the families", [(name, self.root / name)], remedy)}

    def _list(self, folder: Path) -> Part:
        if not folder.is_dir():
            raise MissingDataError(
                f"{folder}: there is no such folder. data.root must hold {self.train_folder}/<class>/ and "
                f"{self.test_folder}/<class>/ with the images. For nets that need no training, {self.test_folder}/ is "
                "enough."
            )
        part = list_classes(folder, ENDINGS)
        if not part.files and not part.problems:
            part = list_flat(folder, ENDINGS)
        if not part.files:
            problems = describe_problems([(part.title, problem) for problem in part.problems])
            error = FileError if part.problems else MissingDataError
            raise error(
                f"{folder}: no images were found. Images are files ending in {', '.join(sorted(ENDINGS))} in <class>/, "
                "or directly in the folder if they have no labels; names that begin with a dot are ignored."
                + (f" What was found cannot be used: {problems}." if part.problems else "")
            )
        return part

    def hash_content(self, path: str) -> tuple[str, str, str]:
        return hash_file(path) if path.endswith(".csv") else hash_image(path)

    def load(self) -> Splits:
        if self.manifest is not None:
            found = {key: [(file.name, file.label) for file in part.files] for key, part in self.manifest.parts.items()}
            names = self.manifest.parts["test"].class_names
        else:
            parts = self.list_parts()
            problems = [(part.title, problem) for part in parts.values() for problem in part.problems]
            if problems and not self.skips_unreadable:
                raise unusable(str(self.root), problems)
            found = {key: [(file.name, file.label) for file in part.files] for key, part in parts.items()}
            names = parts["test"].class_names
        test = FolderImages(self, "test", found["test"], names)
        if "train" not in found:
            return Splits.only_test(
                test, f"{self.root / self.train_folder} was not read, because no net of the config is trained."
            )
        return Splits(FolderImages(self, "train", found["train"], names), test)


class FolderImages(PixelImages):
    """Images that are decoded when they are read; safe to read from several threads.

    ``part`` is "train" or "test", and ``files`` has the name below the folder and the label of each image.
    """

    source: ImageFolder

    def __init__(
        self, source: ImageFolder, part: str, files: list[tuple[str, int]], class_names: tuple[str, ...]
    ) -> None:
        self.source, self.part = source, part
        folder = source.root / (source.train_folder if part == "train" else source.test_folder)
        self._names, self._split = [name for name, _ in files], folder.name
        self._files = [os.path.join(folder, name) for name in self._names]
        if class_names:
            self.labels = np.array([label for _, label in files], dtype=np.int64)
        self.class_names = tuple(map(name_text, class_names))
        self.image_shape = (3, source.crop, source.crop)
        self._resize, self._centre = _transforms(source)

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def families(self) -> Indices | None:  # type: ignore[override]
        """(n_images,) families by ``data.families``."""
        setting = self.source.families
        if setting is None:
            return None
        return families_of(setting, self._names, self.source.root.expanded(), self._split)

    def parts(self, indices: Indices, augment_seed: int | None = None) -> Iterator[Pixels]:
        side = self.source.crop
        for index in indices:
            if augment_seed is None:
                yield np.asarray(self._centre(self.resized(index)))
                continue
            whole = self.source.augmentation == "resized_crop"
            image = self._decode(self._files[index]) if whole else self.resized(index)
            box, mirrored = self.source.draw(image.width, image.height, augment_seed, int(index))
            part = (
                image.resize((side, side), RESAMPLING[self.source.interpolation], box=box) if whole else image.crop(box)
            )
            yield np.asarray(part)[:, ::-1] if mirrored else np.asarray(part)

    def resized(self, index: int) -> Any:
        """Decode an image as RGB and apply ``data.resize``."""
        return self._resize(self._decode(self._files[index]))

    def manifest_hash(self) -> str:
        manifest = self.source.manifest or make_manifest(self.source, self.source.list_parts(), KnownFiles())
        return manifest.parts[self.part].sha256

    @staticmethod
    def _decode(path: str) -> Any:
        from PIL import Image

        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's readers raise many types for damaged files
            raise FileError(
                f"{name_text(path)}: the image could not be decoded ({str(error) or type(error).__name__}). Replace or "
                "remove it."
            ) from error


def _used_classes(part: Part) -> set[str]:
    """Names of the classes that have images; none for images without classes."""
    return {part.class_names[file.label] for file in part.files} if part.class_names else set()


def _empty_classes(part: Part, used: Collection[str]) -> list[Problem]:
    return [Problem(name, "empty class") for name in part.class_names if name not in used]


def _of_classes(part: Part, names: list[str]) -> Part:
    """The part with these of its classes only, all of which have images."""
    if not part.class_names:
        return part
    label_of = {name: label for label, name in enumerate(names)}
    files = tuple(file._replace(label=label_of[part.class_names[file.label]]) for file in part.files)
    return replace(part, files=files, class_names=tuple(names))


def _transforms(source: ImageFolder) -> tuple[Any, Any]:
    """Make torchvision's resize and centre crop."""
    from torchvision import transforms

    size = list(source.resize) if isinstance(source.resize, tuple) else source.resize
    mode = transforms.InterpolationMode(source.interpolation)
    return transforms.Resize(size, mode), transforms.CenterCrop(source.crop)
