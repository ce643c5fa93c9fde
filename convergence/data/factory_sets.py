"""Data sets that a function of the user returns: ``data = { name = "package.module:factory" }``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PrivateAttr

from convergence.data.images import Splits
from convergence.data.map_style import MapImages, MapStyle, class_names_of
from convergence.data.named_function import NamedFunction
from convergence.data.user_code import DATA_SET, call_factory, load_data_factory, refusal
from convergence.errors import FileError


class FactorySet(NamedFunction, MapStyle):
    """A function that returns a map-style data set, or a pair (train, test).

    Without ``version``, all items are read once before the first stage, and their hash identifies the data.
    """

    options: dict[str, Any] = Field(default_factory=dict, description="Arguments of the function.")
    version: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Identifies the items in place of a hash of all of them: change it whenever they change.",
    )
    _splits: Splits | None = PrivateAttr(None)

    def refusal(self) -> str:
        return refusal(self.name, self._folder, DATA_SET)

    def load(self) -> Splits:
        if self._splits is None:
            self._splits = self._load()
        return self._splits

    def _load(self) -> Splits:
        factory = load_data_factory(self.name, self._folder)
        found = call_factory(self.name, factory, dict(self.options), DATA_SET.section)
        train, test = found if isinstance(found, tuple) and len(found) == 2 else (None, found)
        if test is None:
            raise FileError(f"{self.name} returned no held-out images. Return a data set, or a pair (train, test).")
        held_out = self._images(test, "test")
        if train is None or not self.reads_train:
            reason = f"{self.name} returned no training images. Return a pair (train, test)."
            return Splits.only_test(held_out, reason)
        training = self._images(train, "train")
        training.class_names = held_out.class_names = class_names_of([training, held_out])
        return Splits(training, held_out)

    def _images(self, dataset: Any, part: str) -> MapImages:
        identity = "" if self.version is None else f"{self.name} {self.options} {self.version} {part}"
        return MapImages(self, dataset, f"{self.name}, {part}", identity)
