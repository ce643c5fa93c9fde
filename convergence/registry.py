"""Registries: tables ``name -> "module:attribute"`` whose entries are imported on first use.

Listing the names imports nothing, which keeps the command line fast. An addition takes one file and one line. The
packages ``hpc`` and ``slurm`` have common names: :func:`put_toolkit_first` keeps files of the user from hiding them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from convergence.errors import LONGEST_VALUE, ConfigError, cut, did_you_mean

ROOT = Path(__file__).resolve().parents[1]
"""Folder that holds the packages of the toolkit."""
PACKAGES = ("convergence", "hpc", "slurm")
DEPENDENCIES = {
    "annotated_types", "click", "cryptography", "dask", "dask_jobqueue", "distributed", "filelock", "h5py",
    "huggingface_hub", "jinja2", "llvmlite", "matplotlib", "mpi4py", "numba", "numpy", "ot", "PIL", "psutil",
    "pydantic", "pydantic_core", "safetensors", "scipy", "skimage", "sklearn", "submitit", "threadpoolctl", "timm",
    "torch", "torchvision", "tqdm", "transformers", "typing_extensions",
}  # fmt: skip
INSTALLED = {"site-packages", "dist-packages"}
"""Names of the folders of installed packages."""


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
        remedy = hiding_remedy() or "Is the package installed, or its folder on PYTHONPATH?"
        raise ConfigError(f'"{path}" could not be imported: {error}. {remedy}') from error
    except AttributeError as error:
        if remedy := hiding_remedy():
            raise ConfigError(f'"{path}" could not be imported: {error}. {remedy}') from error
        raise
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f'"{module_name}" has no "{attribute}"; check the part after the colon.') from None


def put_toolkit_first() -> None:
    """Move folders of the import path whose files hide modules of the toolkit behind all other folders.

    A file ``hpc.py``, ``torch.py`` or ``statistics.py`` beside the user's nets would be imported in place of the
    package of that name. The other modules of such a folder can still be imported.
    """
    hiding = [entry for entry in sys.path if _hiding_files(entry)]
    if not hiding:
        return
    others = [entry for entry in sys.path if entry not in hiding]
    if not any(_same(entry, ROOT) for entry in others):
        others.append(str(ROOT))
    sys.path[:] = [*others, *hiding]
    importlib.invalidate_caches()


def hiding_remedy() -> str:
    """A sentence that names the files of the import path that hide modules of the toolkit; "" if there are none."""
    files = [str(file) for entry in dict.fromkeys(sys.path) for file in _hiding_files(entry)]
    files += [
        str(origin)
        for name in PACKAGES
        if (origin := module_file(name)) is not None and ROOT / name not in origin.parents and str(origin) not in files
    ]
    if not files:
        return ""
    return (
        f"{', '.join(files[:3])} has the name of a package that the toolkit imports, and hides it. Rename the file, or "
        "remove its folder from PYTHONPATH."
    )


def module_file(name: str) -> Path | None:
    """File of a top-level module, or folder of a namespace package, without importing it; None if it has no file."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        return None
    if spec.has_location and spec.origin is not None:
        return Path(spec.origin).resolve()
    return next((Path(folder).resolve() for folder in spec.submodule_search_locations or ()), None)


def _hiding_files(entry: str) -> list[Path]:
    """Files and packages of a folder that have the name of a module which the toolkit imports from elsewhere."""
    folder = Path(entry or ".").resolve()
    stdlib = Path(os.__file__).resolve().parent
    if INSTALLED & set(folder.parts) or stdlib in (folder, *folder.parents) or folder == ROOT:
        return []
    try:
        found = sorted(os.scandir(folder), key=lambda item: item.name)
    except OSError:
        return []
    in_cwd = folder == Path.cwd()
    hiding = []
    for item in found:
        name, ending = os.path.splitext(item.name)
        if ending == ".py":
            hides = name in PACKAGES or name in DEPENDENCIES or name in sys.stdlib_module_names
        else:  # a checkout of a package may be on PYTHONPATH on purpose
            hides = item.name in PACKAGES or (in_cwd and item.name in DEPENDENCIES)
            hides = hides and os.path.isfile(os.path.join(item.path, "__init__.py"))
        if hides:
            hiding.append(Path(item.path))
    return hiding


def _same(entry: str, folder: Path) -> bool:
    return Path(entry or ".").resolve() == folder


class Registry:
    """A table of names; ``what`` is the kind of entry in error messages ("data set", "network", "measure")."""

    def __init__(self, what: str, entries: dict[str, str]) -> None:
        self.what = what
        self.entries = dict(entries)
        self._loaded: dict[str, Any] = {}

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
            raise ConfigError(f'unknown {self.what} "{cut(name, LONGEST_VALUE)}"; {did_you_mean(name, self.entries)}')
        path = self.entries[name]
        if path not in self._loaded:
            self._loaded[path] = load_object(path)
        return self._loaded[path]
