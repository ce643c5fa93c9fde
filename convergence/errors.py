"""Errors that a user can fix. The command prints them as one paragraph, without a traceback.

Any other exception is a defect of the toolkit and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error with its remedy: what was received, what is valid and how to fix it (exit code 2).

    ``on_all_ranks`` is true if every rank of a job raises the same error: each rank exits by itself and the first rank
    prints the message. An error of a single rank has to abort the job, because the other ranks would wait for it.
    """

    on_all_ranks = False


class SharedError(UserError):
    """Errors of some ranks, raised on all ranks."""

    on_all_ranks = True


class ConfigError(UserError):
    """An invalid configuration: unknown key, invalid value or unknown name."""


class FileError(UserError):
    """A file that is missing, damaged or unfinished, or whose schema this version does not read."""


class DiskFullError(FileError):
    """A full disk or an exhausted quota."""


class StaleOutputError(UserError):
    """The input of a stage is missing or belongs to other settings; all ranks read the same records."""

    on_all_ranks = True


class TaskLost(Exception):
    """A task whose worker process ended in every attempt."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of an error message: the nearest known name, then all known names.

    >>> did_you_mean("dijits", ["digits", "photos"])
    'did you mean "digits"? Known: digits, photos'
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1)
    guess = f'did you mean "{close[0]}"? ' if close else ""
    return f"{guess}Known: {', '.join(options)}"
