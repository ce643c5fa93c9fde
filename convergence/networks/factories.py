"""Factories of networks: functions and classes of the user that return a ``torch.nn.Module``.

Which modules may run is said in :mod:`convergence.data.user_code`. A factory of networks has to be one of

* a class of nets (a subclass of ``torch.nn.Module``);
* a function that is defined in a module of the user;
* a function of torchvision's or timm's models.

Other functions of installed packages may do anything with the options of a downloaded config, such as write a file, and
need a yes (``--allow-code``).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convergence.data import user_code
from convergence.data.user_code import Kind, defining_module, import_factory, is_allowed, place_of
from convergence.data.user_code import beside_config as beside_config
from convergence.data.user_code import call_factory as call_factory
from convergence.errors import ConfigError

BUILDERS = ("torchvision.models.", "timm.models.")
"""Modules of installed packages whose functions build networks."""
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
    allowed = f"{module}.".startswith(BUILDERS) or is_allowed(module) or is_allowed(name.partition(":")[0])
    if place_of(module) == "installed" and not allowed:
        raise ConfigError(
            f"{name} is {module}.{innermost.__qualname__}, a function of an installed package, which may do more than "
            "build a network. Name a class of networks or a function of your own module, or allow this one with "
            f"--allow-code {module}."
        )
