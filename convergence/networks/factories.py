"""Factories of networks: functions and classes of the user that return a ``torch.nn.Module``.

Which modules may run is said in :mod:`convergence.data.user_code`. A factory of networks has to be one of

* a class of nets (a subclass of ``torch.nn.Module``);
* a function that is defined in a module of the user;
* a function that is defined in an installed package that builds on torch, but not in torch itself.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from convergence.data import user_code
from convergence.data.user_code import Kind, defining_module, import_factory, is_allowed, place_of
from convergence.data.user_code import beside_config as beside_config
from convergence.data.user_code import call_factory as call_factory
from convergence.errors import ConfigError

NETWORK = Kind("network", "a torch.nn.Module", "small, alexnet, torchvision:…", "network")


def refusal(name: str, folder: Path | None) -> str:
    """Say why ``module:attribute`` may not be imported for a config in ``folder``; "" if it may. Imports nothing."""
    return user_code.refusal(name, folder, NETWORK)


def load_factory(name: str, folder: Path | None) -> Callable[..., Any]:
    """Import a factory ``module:attribute`` of networks for a config in ``folder``.

    Raises
    ------
    ConfigError
        for a factory that is not allowed, and for a module that cannot be imported.
    """
    factory: Callable[..., Any] = import_factory(name, folder, NETWORK)
    _check(name, factory)
    return factory


def _check(name: str, factory: Any) -> None:
    """Raise ConfigError for an object that is no factory."""
    from torch import nn

    innermost = factory
    while isinstance(innermost, functools.partial):
        innermost = innermost.func
    innermost = inspect.unwrap(innermost)
    if isinstance(innermost, type):
        if issubclass(innermost, nn.Module):
            return
        raise ConfigError(f"{name} is a class, but not of networks. Name a subclass of torch.nn.Module, or a function.")
    module = defining_module(name, innermost, NETWORK, ", or a subclass of torch.nn.Module")
    if place_of(module) == "installed" and not is_allowed(module) and not is_allowed(name.partition(":")[0]):
        top = module.partition(".")[0]
        if top == "torch" or (top == "torchvision" and not module.startswith("torchvision.models")):
            raise ConfigError(
                f"{name} is {module}.{innermost.__qualname__}, which builds no networks. Name a function of your own "
                f"module, or allow this one with --allow-code {module}."
            )
        if not _builds_on_torch(top, sys.modules.get(module)):
            raise ConfigError(
                f"{name} is {module}.{innermost.__qualname__} of an installed package that does not use torch. If it "
                f"builds networks, allow it with --allow-code {module}."
            )


def _builds_on_torch(top: str, module: ModuleType | None) -> bool:
    """Whether an installed package requires torch, or one of its modules imports it."""
    for values in vars(module).values() if module is not None else ():
        name = values.__name__ if isinstance(values, ModuleType) else getattr(values, "__module__", None)
        if isinstance(name, str) and name.partition(".")[0] == "torch":
            return True
    distributions = metadata.packages_distributions().get(top, ())
    required = [line for name in distributions for line in metadata.requires(name) or ()]
    return any(re.match(r"(torch|torchvision)\b", line) for line in required)
