"""Factories: functions and classes of the user that build networks, and which of them a config may name.

A config is data until a verb builds its nets. Then ``network = { name = "mynets:make" }`` imports the module and calls
the factory, which has to be one of

* a class of nets (a subclass of ``torch.nn.Module``);
* a function that is defined in a module of the user: in the folder of the config, the working folder or a folder of
  PYTHONPATH;
* a function that is defined in an installed package that builds on torch, but not in torch itself.

Modules of the standard library are never factories. Other modules, and every module that a config names which was
fetched from another machine, have to be allowed by name (:data:`ALLOWED`, ``--allow-code``).
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal

from convergence.errors import ConfigError
from convergence.provenance import FETCH_RECORD
from convergence.registry import INSTALLED, PACKAGES, ROOT, hiding_remedy, load_object, module_file

ALLOWED: list[str] = []
"""Modules, with their submodules, that the user allowed on the command line."""
Place = Literal["standard library", "toolkit", "installed", "user"]


def is_allowed(module: str) -> bool:
    """Whether a module, or a package that holds it, was allowed by name."""
    return any(module == name or module.startswith(f"{name}.") for name in ALLOWED)


def fetched_folder(path: Path | None) -> Path | None:
    """The folder above a path that `convergence fetch` filled; None if there is none."""
    if path is None:
        return None
    return next((folder for folder in path.resolve().parents if os.path.lexists(folder / FETCH_RECORD)), None)


def refusal(name: str, folder: Path | None) -> str:
    """Say why ``module:attribute`` may not be imported for a config in ``folder``; "" if it may. Imports nothing."""
    module = name.partition(":")[0]
    file = _find(module, folder)
    place = _place(module, file)
    if place == "standard library":
        remedy = hiding_remedy()
        return (
            f"{name}: {module} is a module of Python's standard library, which builds no networks. "
            f"{remedy or 'Name a function of your own module that returns a torch.nn.Module.'}"
        )
    if place == "toolkit":
        return f"{name}: {module} is a module of the toolkit. Use its networks by name: small, alexnet, torchvision:…"
    fetched = fetched_folder(folder and folder / "config") or (fetched_folder(file) if place == "user" else None)
    if fetched is not None and not is_allowed(module):
        return (
            f"network {name}: {fetched} was fetched from another machine, and building this network runs the code of "
            f"{file or module}. Read it first; then allow it with --allow-code {module}."
        )
    return ""


def beside_config(name: str, folder: Path | None) -> Path | None:
    """The folder of the config if the module is there and nowhere on the import path; else None."""
    top = name.partition(":")[0].partition(".")[0]
    if folder is None or _file_of(top) is not None or _find(top, folder) is None:
        return None
    return folder.resolve()


def load_factory(name: str, folder: Path | None) -> Callable[..., Any]:
    """Import a factory ``module:attribute`` for a config in ``folder``.

    Raises
    ------
    ConfigError
        for a factory that is not allowed, and for a module that cannot be imported.
    """
    reason = refusal(name, folder)
    if reason:
        raise ConfigError(reason)
    module = name.partition(":")[0]
    beside = beside_config(name, folder)
    if beside is not None and str(beside) not in sys.path:
        sys.path.append(str(beside))
    try:
        factory = load_object(name)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name}: importing {module} failed: {_where(error)}. {hiding_remedy()}".rstrip()) from error
    _check(name, factory)
    found: Callable[..., Any] = factory
    return found


def call_factory(name: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a factory; an exception becomes a ConfigError with the line that raised it."""
    try:
        return factory(**arguments)
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"{name}({', '.join(arguments)}) failed: {error}. Check network.options.") from error
    except Exception as error:
        raise ConfigError(f"{name}({', '.join(arguments)}) failed: {_where(error)}.") from error


def _check(name: str, factory: Any) -> None:
    """Raise ConfigError for an object that is no factory."""
    from torch import nn

    while isinstance(factory, functools.partial):
        factory = factory.func
    factory = inspect.unwrap(factory)
    if isinstance(factory, type):
        if issubclass(factory, nn.Module):
            return
        raise ConfigError(f"{name} is a class, but not of networks. Name a subclass of torch.nn.Module, or a function.")
    if not isinstance(factory, FunctionType) or not isinstance(factory.__module__, str):
        raise ConfigError(
            f"{name} is a {type(factory).__name__}. A factory is a function of your own module, or a subclass of "
            "torch.nn.Module: wrap the call in a function."
        )
    module = factory.__module__
    place = _place(module, _file_of(module))
    if place in ("standard library", "toolkit"):
        raise ConfigError(
            f"{name} is {module}.{factory.__qualname__}, a function of the {place}, which builds no networks. Name a "
            "function of your own module."
        )
    if place == "installed" and not is_allowed(module) and not is_allowed(name.partition(":")[0]):
        top = module.partition(".")[0]
        if top == "torch" or (top == "torchvision" and not module.startswith("torchvision.models")):
            raise ConfigError(
                f"{name} is {module}.{factory.__qualname__}, which builds no networks. Name a function of your own "
                f"module, or allow this one with --allow-code {module}."
            )
        if not _builds_on_torch(top, sys.modules.get(module)):
            raise ConfigError(
                f"{name} is {module}.{factory.__qualname__} of an installed package that does not use torch. If it "
                f"builds networks, allow it with --allow-code {module}."
            )


def _find(module: str, folder: Path | None) -> Path | None:
    """File of the top-level package of a module, looked up beside the config last; None if it is not found."""
    top = module.partition(".")[0]
    found = _file_of(top)
    if found is None and folder is not None:
        beside = (folder / f"{top}.py", folder / top / "__init__.py", folder / top)
        found = next((path.resolve() for path in beside if path.exists()), None)
    return found


def _file_of(module: str) -> Path | None:
    loaded = getattr(sys.modules.get(module), "__file__", None)
    return Path(loaded).resolve() if loaded else module_file(module.partition(".")[0])


def _place(module: str, file: Path | None) -> Place:
    """Where a module comes from; a module without a file is built in."""
    top = module.partition(".")[0]
    if file is None:
        return "standard library" if top in sys.stdlib_module_names else "user"
    if top in PACKAGES and ROOT / top in (file, *file.parents):
        return "toolkit"
    if INSTALLED & set(file.parts):
        return "installed"
    return "standard library" if Path(os.__file__).resolve().parent in file.parents else "user"


def _builds_on_torch(top: str, module: ModuleType | None) -> bool:
    """Whether an installed package requires torch, or one of its modules imports it."""
    for values in vars(module).values() if module is not None else ():
        name = values.__name__ if isinstance(values, ModuleType) else getattr(values, "__module__", None)
        if isinstance(name, str) and name.partition(".")[0] == "torch":
            return True
    distributions = metadata.packages_distributions().get(top, ())
    required = [line for name in distributions for line in metadata.requires(name) or ()]
    return any(re.match(r"(torch|torchvision)\b", line) for line in required)


def _where(error: BaseException) -> str:
    """An exception of the user's code, with the line that raised it."""
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text
