"""Errors that a user can mend. The command prints them as one paragraph, without a traceback.

Everything else that is raised is a defect of the toolkit, and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What came, what is valid and what to do next, in one paragraph (exit code 2).

    ``on_all_ranks``: every rank of a job raises the same error, so each can leave by itself and the first one says it.
    An error of one rank has to end the job, or the others wait for it.
    """

    on_all_ranks = False


class SharedError(UserError):
    """Errors of some ranks, told to all of them."""

    on_all_ranks = True


class ConfigError(UserError):
    """A configuration that cannot be used: unknown key, bad value, unknown name."""


class FileError(UserError):
    """A file that is missing, damaged, unfinished, or of a schema that this version does not read."""


class DiskFullError(FileError):
    """A disk that is full, or a quota that is used up."""


class StaleOutputError(UserError):
    """What a stage reads is missing or belongs to other settings; all ranks look at the same records."""

    on_all_ranks = True


class TaskLost(Exception):
    """A task whose worker process ended, as often as one tries."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ending of an error message: the nearest known name, then all of them.

    >>> did_you_mean("dijits", ["digits", "photos"])
    'did you mean "digits"? Known: digits, photos'
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1)
    guess = f'did you mean "{close[0]}"? ' if close else ""
    return f"{guess}Known: {', '.join(options)}"
