"""External networks: any torchvision classifier by name, or any factory of a module by import path."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field

from convergence.errors import ConfigError, did_you_mean
from convergence.networks import NetworkSpec
from convergence.registry import load_object

if TYPE_CHECKING:
    import torch


class TorchvisionNetwork(NetworkSpec):
    """``torchvision:<model>``: a classifier of torchvision, with torchvision's initialisation."""

    name: str = Field(pattern=r"^torchvision:")
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the model's builder.")

    def build(self, image_shape: tuple[int, int, int], n_classes: int) -> torch.nn.Module:
        from torchvision import models

        model = self.name.removeprefix("torchvision:")
        known = models.list_models(module=models)
        if model not in known:
            raise ConfigError(f'torchvision has no classifier "{model}"; {did_you_mean(model, known)}')
        try:
            module: torch.nn.Module = models.get_model(model, weights=None, num_classes=n_classes, **self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.name} could not be built with options {self.options}: {error}") from error
        return module


class FactoryNetwork(NetworkSpec):
    """``package.module:factory``: a callable that returns a ``torch.nn.Module``.

    It is called with ``image_shape`` and ``n_classes``, if it has such parameters, and with the options.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the factory.")

    def build(self, image_shape: tuple[int, int, int], n_classes: int) -> torch.nn.Module:
        import torch

        factory = load_object(self.name)
        offered = {"image_shape": image_shape, "n_classes": n_classes}
        taken = inspect.signature(factory).parameters
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
        arguments = {name: value for name, value in offered.items() if anything or name in taken} | self.options
        try:
            module = factory(**arguments)
        except TypeError as error:
            raise ConfigError(f"{self.name}({', '.join(arguments)}) failed: {error}. Check network.options.") from error
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"{self.name} returned a {type(module).__name__}; it must return a torch.nn.Module.")
        return module
