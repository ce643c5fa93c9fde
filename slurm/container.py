"""The container of a stage: the command that starts the stage inside an Apptainer or Singularity image.

The job runner and the launcher stay outside, where Slurm's commands and its process manager are; the launcher starts
one container for each process (the *hybrid model* of MPI in containers). The image brings Python and the packages; the
code of this toolkit is the copy in the run folder.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from convergence.settings import PathSetting
from slurm.profile import Resources
from slurm.shell import check_paths, expanded

PROFILE = "the cluster profile"


def container_words(resources: Resources, folders: Sequence[str], cwd: str, texts: Sequence[str] = ()) -> list[str]:
    """The command that runs a program inside the image, as quoted words; [] without a container.

    ``folders`` are bound at the same path inside. So are ``texts``, in which the job expands ``~`` and ``$NAME``.
    ``cwd`` is the working folder inside.

    Raises
    ------
    UserError
        for a folder with a character that separates the parts of ``--bind``.
    """
    if resources.container is None:
        return []
    outer = outermost([*folders, cwd])
    check_paths([*outer, *texts], ":,")
    binds = [shlex.quote(folder) for folder in outer] + ['"${TMPDIR:-/tmp}"']
    binds += [expanded(text, "a path in the config") for text in texts]
    binds += [expanded(bind, f"container_binds of {PROFILE}") for bind in resources.container_binds]
    devices = ["--nv"] if resources.gpus_per_node and "--rocm" not in resources.container_options else []
    options = [*devices, *(shlex.quote(option) for option in resources.container_options)]
    program, image = shlex.quote(resources.container_program), expanded(resources.container, f"container of {PROFILE}")
    bound = [word for bind in binds for word in ("--bind", bind)]
    return [program, "exec", *options, "--pwd", shlex.quote(cwd), *bound, image]


def python_words(resources: Resources, python: str) -> list[str]:
    """The interpreter that runs a stage, as quoted words: that of the image, or ``python``."""
    return [shlex.quote(python if resources.container is None else resources.container_python)]


def outermost(folders: Iterable[str]) -> list[str]:
    """The folders without those below another one, in order."""
    unique = list(dict.fromkeys(folders))
    return [folder for folder in unique if not any(str(above) in unique for above in Path(folder).parents)]


def data_paths(settings: Any, cwd: str) -> tuple[list[str], list[str]]:
    """Paths in the settings of an experiment outside ``cwd``: absolute paths, and texts with ``~`` or ``$NAME``."""
    found: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, Path | PathSetting):
            found.append(str(value))
        elif isinstance(value, str) and value.startswith(("/", "~/", "$")):  # "file.h5:name"
            found.append(value.rpartition(":")[0] or value)
        elif isinstance(value, BaseModel):
            for name in type(value).model_fields:
                visit(getattr(value, name))
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, tuple | list):
            for item in value:
                visit(item)

    visit(settings)
    found = list(dict.fromkeys(found))
    texts = [text for text in found if text.startswith(("~", "$")) or (text.startswith("/") and "$" in text)]
    plain = [os.path.normpath(os.path.join(cwd, text)) for text in found if text not in texts]
    return [path for path in plain if not Path(path).is_relative_to(cwd)], texts
