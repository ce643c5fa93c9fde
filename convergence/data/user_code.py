"""Code of the user that a config names: functions that build networks and data sets, and which of them may run.

A config is data until a verb builds its nets or reads its images. Then ``network = { name = "mynets:make" }`` or
``data = { name = "mydata:make" }`` imports the module and calls the function, which is defined in a module of the user:
in the folder of the config, the working folder or a folder of PYTHONPATH.

Modules of the standard library are never used. Modules of installed packages, and every module that a config names
which was fetched from another machine, have to be allowed by name (:data:`ALLOWED`, ``--allow-code``); networks of
installed packages that build on torch do not (:mod:`convergence.networks.factories`).
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, NamedTuple

from convergence.errors import ConfigError
from convergence.provenance import FETCH_RECORD
from convergence.registry import INSTALLED, PACKAGES, ROOT, hiding_remedy, load_object, module_file

ALLOWED: list[str] = []
"""Modules, with their submodules, that the user allowed on the command line."""
Place = Literal["standard library", "toolkit", "installed", "user"]


class Kind(NamedTuple):
    """What functions of the user return, in words: "network", "a torch.nn.Module", and names of the toolkit's own."""

    what: str
    returns: str
    own: str
    section: str


DATA_SET = Kind("data set", "a map-style data set", "digits, image_folder, torchvision:…", "data")


def is_allowed(module: str) -> bool:
    """Whether a module, or a package that holds it, was allowed by name."""
    return any(module == name or module.startswith(f"{name}.") for name in ALLOWED)


def fetched_folder(path: Path | None) -> Path | None:
    """The folder above a path that `convergence fetch` filled; None if there is none."""
    if path is None:
        return None
    return next((folder for folder in path.resolve().parents if os.path.lexists(folder / FETCH_RECORD)), None)


def refusal(name: str, folder: Path | None, kind: Kind) -> str:
    """Say why ``module:attribute`` may not be imported for a config in ``folder``; "" if it may. Imports nothing."""
    module = name.partition(":")[0]
    file = _find(module, folder)
    place = _place(module, file)
    if place == "standard library":
        remedy = hiding_remedy()
        return (
            f"{name}: {module} is a module of Python's standard library, which builds no {kind.what}s. "
            f"{remedy or f'Name a function of your own module that returns {kind.returns}.'}"
        )
    if place == "toolkit":
        return f"{name}: {module} is a module of the toolkit. Use its {kind.what}s by name: {kind.own}"
    fetched = fetched_folder(folder and folder / "config") or (fetched_folder(file) if place == "user" else None)
    if fetched is not None and not is_allowed(module):
        return (
            f"{kind.what} {name}: {fetched} was fetched from another machine, and building it runs the code of "
            f"{file or module}. Read it first; then allow it with --allow-code {module}."
        )
    return ""


def beside_config(name: str, folder: Path | None) -> Path | None:
    """The folder of the config if the module is there and nowhere on the import path; else None."""
    top = name.partition(":")[0].partition(".")[0]
    if folder is None or _file_of(top) is not None or _find(top, folder) is None:
        return None
    return folder.resolve()


def import_factory(name: str, folder: Path | None, kind: Kind) -> Any:
    """Import a factory ``module:attribute`` for a config in ``folder``; what it is remains to be checked.

    Raises
    ------
    ConfigError
        for a factory that is not allowed, and for a module that cannot be imported.
    """
    reason = refusal(name, folder, kind)
    if reason:
        raise ConfigError(reason)
    module = name.partition(":")[0]
    beside = beside_config(name, folder)
    if beside is not None and str(beside) not in sys.path:
        sys.path.append(str(beside))
    try:
        return load_object(name)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{name}: importing {module} failed: {where_raised(error)}. {hiding_remedy()}".rstrip()
        ) from error


def defining_module(name: str, factory: Any, kind: Kind, or_class: str = "") -> str:
    """Module that defines a function, or a class.

    Raises
    ------
    ConfigError
        for other objects, and for functions of the standard library and the toolkit.
    """
    while isinstance(factory, functools.partial):
        factory = factory.func
    factory = inspect.unwrap(factory)
    if not isinstance(factory, FunctionType | type) or not isinstance(factory.__module__, str):
        raise ConfigError(
            f"{name} is a {type(factory).__name__}. A factory is a function of your own module{or_class}: wrap the "
            "call in a function."
        )
    module = factory.__module__
    found = place_of(module)
    if found in ("standard library", "toolkit"):
        raise ConfigError(
            f"{name} is {module}.{factory.__qualname__}, a function of the {found}, which builds no {kind.what}s. "
            "Name a function of your own module."
        )
    return module


def load_data_factory(name: str, folder: Path | None) -> Callable[..., Any]:
    """Import a function or class that makes a data set; one of an installed package has to be allowed.

    Raises
    ------
    ConfigError
        for a factory that is not allowed, and for a module that cannot be imported.
    """
    factory: Callable[..., Any] = import_factory(name, folder, DATA_SET)
    module = defining_module(name, factory, DATA_SET, ", or a class of data sets")
    if place_of(module) == "installed" and not is_allowed(module) and not is_allowed(name.partition(":")[0]):
        raise ConfigError(
            f"{name} is {module}.{name.partition(':')[2]} of an installed package. If it makes data sets, allow it "
            f"with --allow-code {module}."
        )
    return factory


def call_factory(name: str, factory: Callable[..., Any], arguments: dict[str, Any], section: str = "network") -> Any:
    """Call a factory; an exception becomes a ConfigError with the line that raised it."""
    try:
        return factory(**arguments)
    except ConfigError:
        raise
    except TypeError as error:
        raise ConfigError(f"{name}({', '.join(arguments)}) failed: {error}. Check {section}.options.") from error
    except Exception as error:
        raise ConfigError(f"{name}({', '.join(arguments)}) failed: {where_raised(error)}.") from error


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


def place_of(module: str) -> Place:
    """Where a module comes from, by its file."""
    return _place(module, _file_of(module))


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


def where_raised(error: BaseException) -> str:
    """An exception of the user's code, with the line that raised it."""
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text
