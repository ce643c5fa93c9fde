"""Classification data sets of torchvision from a local folder: ``data = { name = "torchvision:MNIST", root = … }``."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from pydantic import Field

from convergence.data.files import MissingDataError, Part, is_hidden, list_files
from convergence.data.images import Splits
from convergence.data.manifest import KnownFiles, make_manifest
from convergence.data.map_style import MapImages, MapStyle, class_names_of
from convergence.errors import ConfigError, FileError, did_you_mean
from convergence.settings import PLACE_ONLY, PathSetting

FOLDERS = {
    "CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python", "STL10": "stl10_binary", "DTD": "dtd",
    "Flowers102": "flowers-102", "Food101": "food-101", "OxfordIIITPet": "oxford-iiit-pet", "GTSRB": "gtsrb",
    "EuroSAT": "eurosat", "MNIST": "MNIST", "FashionMNIST": "FashionMNIST", "KMNIST": "KMNIST", "EMNIST": "EMNIST",
    "QMNIST": "QMNIST",
}  # fmt: skip
"""Folders below the root of those data sets that have one; the files of other data sets are all below the root."""
ARCHIVES = {".gz", ".tgz", ".zip", ".tar", ".bz2", ".xz", ".7z"}
HELD_OUT = ("test", "val", "valid")


class TorchvisionSet(MapStyle):
    """``torchvision:<data set>``, a map-style data set of images and classes."""

    name: str = Field(pattern=r"^torchvision:[A-Za-z0-9_]+$", max_length=255)
    root: PathSetting = Field(
        description="Folder that torchvision calls root. All files of the data set below it, except archives, identify "
        "the data.",
        json_schema_extra=PLACE_ONLY,
    )
    download: bool = Field(False, description="Have torchvision download missing files.", json_schema_extra=PLACE_ONLY)
    train_split: str | None = Field(None, max_length=80, description="Name of the training split; default: 'train'.")
    test_split: str | None = Field(
        None, max_length=80, description="Name of the held-out split; default: 'test', 'val' or 'valid'."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the data set.")

    @property
    def _set(self) -> str:
        return self.name.removeprefix("torchvision:")

    def list_parts(self) -> dict[str, Part]:
        files = self._files()
        if not files and self.download:
            for part in ("train", "test"):
                self._open(part)
            files = self._files()
        if not files:
            raise MissingDataError(f"{self.root.expanded()}: there are no files of {self.name}. {self._remedy()}")
        return {"files": list_files(self.name, files, self._remedy())}

    def _files(self) -> list[tuple[str, Path]]:
        """Names and paths of all files, without archives unless there is nothing else."""
        root = self.root.expanded()
        folder = root / FOLDERS.get(self._set, "")
        found = []
        for place, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            found += [Path(place, name) for name in sorted(names) if not is_hidden(name)]
        chosen = [path for path in found if path.suffix.lower() not in ARCHIVES] or found
        return [(path.relative_to(root).as_posix(), path) for path in chosen]

    def load(self) -> Splits:
        test = self._open("test")
        train = self._open("train") if self.reads_train else None
        assert test is not None
        held_out = self._images(test, "test")
        if train is None:
            return Splits.only_test(held_out, f"{self.name} has no training split, or the config trains no net.")
        training = self._images(train, "train")
        training.class_names = held_out.class_names = class_names_of([training, held_out])
        return Splits(training, held_out)

    def _images(self, dataset: Any, part: str) -> MapImages:
        if not hasattr(dataset, "targets"):  # SVHN and STL10 have labels, Flowers102 and others _labels
            labels = getattr(dataset, "labels", getattr(dataset, "_labels", None))
            if labels is not None:
                dataset.targets = labels
        manifest = self.manifest or make_manifest(self, self.list_parts(), KnownFiles())
        return MapImages(self, dataset, f"{self.name}, {part}", f"{manifest.content} {part}")

    def _open(self, part: str) -> Any:
        """The data set of a split; None for the training split of a data set without splits."""
        kind = self._class()
        taken = {name for base in kind.__mro__ if "__init__" in vars(base) for name in _parameters(base)}
        arguments = dict(self.options)
        if "root" in taken:
            arguments["root"] = str(self.root.expanded())
        if "download" in taken:
            arguments["download"] = self.download
        if "train" in taken:
            return self._made(kind, arguments | {"train": part == "train"})
        if "split" not in taken:
            return self._made(kind, arguments) if part == "test" else None
        chosen = self.train_split if part == "train" else self.test_split
        known = (chosen,) if chosen else ("train",) if part == "train" else HELD_OUT
        for name in known:
            try:
                return self._made(kind, arguments | {"split": name})
            except ValueError as error:  # torchvision checks the names of splits
                problem = error
        raise ConfigError(f"{self.name}: {problem}. Set data.{part}_split.")

    def _class(self) -> Any:
        from torchvision import datasets

        known = [
            name
            for name in datasets.__all__
            if isinstance(getattr(datasets, name), type) and issubclass(getattr(datasets, name), datasets.VisionDataset)
        ]
        if self._set not in known:
            raise ConfigError(f'torchvision has no data set "{self._set}"; {did_you_mean(self._set, known)}')
        return getattr(datasets, self._set)

    def _made(self, kind: Any, arguments: dict[str, Any]) -> Any:
        try:
            return kind(**arguments)
        except ValueError:
            raise
        except TypeError as error:
            raise ConfigError(f"{self.name} could not be made: {error}. Check data.options.") from error
        except Exception as error:  # torchvision raises RuntimeError for missing files, and what downloads raise
            raise FileError(f"{self.name} could not be read: {error}. {self._remedy()}") from error

    def _remedy(self) -> str:
        return f"data.root is the folder in which torchvision put {self._set}; data.download = true fetches it."


def _parameters(kind: type) -> list[str]:
    return list(inspect.signature(kind.__init__).parameters)  # type: ignore[misc]
