"""Errors that a user can mend. The command prints them as one paragraph, without a traceback.

Everything else that is raised is a defect of the toolkit, and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What came, what is valid and what to do next, in one paragraph (exit code 2)."""


class ConfigError(UserError):
    """A configuration that cannot be used: unknown key, bad value, unknown name."""


class FileError(UserError):
    """A file that is missing, damaged, unfinished, or of a schema that this version does not read."""


class StaleOutputError(UserError):
    """Finished work belongs to another configuration and may not be overwritten without being told to."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending of an error message: the nearest known name, then all of them.

    >>> nearest("dijits", ["digits", "photos"])
    'did you mean "digits"? Known: digits, photos'
    """
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1)
    guess = f'did you mean "{close[0]}"? ' if close else ""
    return f"{guess}Known: {', '.join(options)}"
