"""Registries: tables ``name -> "module:attribute"`` whose entries are imported on first use.

Listing the names imports nothing, which keeps the command line fast. An addition takes one file and one line.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from convergence.errors import ConfigError, did_you_mean


def load_object(path: str) -> Any:
    """Import ``"package.module:attribute"``.

    Raises
    ------
    ConfigError
        if the path has no colon, the module cannot be imported or the attribute is missing.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f'"{path}" is not an import path; write it as package.module:attribute.')
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f'"{path}" could not be imported: {error}. Is the package installed, or its folder on PYTHONPATH?'
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f'"{module_name}" has no "{attribute}"; check the part after the colon.') from None


class Registry:
    """A table of names; ``what`` is the kind of entry in error messages ("data set", "network", "measure")."""

    def __init__(self, what: str, entries: dict[str, str]) -> None:
        self.what = what
        self.entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def load(self, name: str) -> Any:
        """Import and return the object registered as ``name``.

        Raises
        ------
        ConfigError
            for an unknown name, with the nearest known name.
        """
        if name not in self.entries:
            raise ConfigError(f'unknown {self.what} "{name}"; {did_you_mean(name, self.entries)}')
        return load_object(self.entries[name])
