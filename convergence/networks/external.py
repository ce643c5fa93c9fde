"""External networks: any torchvision classifier by name, or any factory of a module by import path."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from convergence.errors import ConfigError, did_you_mean, shown
from convergence.networks import NetworkSpec
from convergence.networks.factories import beside_config, call_factory, load_factory, refusal

if TYPE_CHECKING:
    import torch


class TorchvisionNetwork(NetworkSpec):
    """``torchvision:<model>``: a classifier of torchvision, with torchvision's initialisation."""

    name: str = Field(pattern=r"^torchvision:[A-Za-z0-9_]+$", max_length=255)
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the model's builder.")

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        from torchvision import models

        model = self.name.removeprefix("torchvision:")
        known = models.list_models(module=models)
        if model not in known:
            raise ConfigError(f'torchvision has no classifier "{model}"; {did_you_mean(model, known)}')
        try:
            classes = {"num_classes": n_classes} if n_classes else {}
            module: torch.nn.Module = models.get_model(model, weights=None, **(classes | self.options))
        except Exception as error:
            raise ConfigError(f"{self.name} could not be built with options {shown(self.options)}: {error}") from error
        return module


class FactoryNetwork(NetworkSpec):
    """``package.module:factory``: a callable that returns a ``torch.nn.Module``.

    It is called with ``image_shape`` and ``n_classes``, if it has such parameters, and with the options; without
    ``n_classes`` for images without labels.
    """

    name: str = Field(max_length=255)
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the factory.")
    _folder: Path | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _import_path(cls, name: str) -> str:
        module, _, attribute = name.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), attribute)):
            raise ValueError(f"{shown(name)} is not an import path; write it as package.module:attribute")
        return name

    @model_validator(mode="after")
    def _remember_folder(self, info: ValidationInfo) -> FactoryNetwork:
        self._folder = (info.context or {}).get("folder")
        return self

    def code(self) -> str:
        return self.name

    def code_folder(self) -> Path | None:
        return beside_config(self.name, self._folder)

    def refusal(self) -> str:
        return refusal(self.name, self._folder)

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        import torch

        factory = load_factory(self.name, self._folder)
        offered = {"image_shape": image_shape} | ({"n_classes": n_classes} if n_classes else {})
        taken = inspect.signature(factory).parameters
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
        arguments = {name: value for name, value in offered.items() if anything or name in taken} | self.options
        module = call_factory(self.name, factory, arguments)
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"{self.name} returned a {type(module).__name__}; it must return a torch.nn.Module.")
        return module
