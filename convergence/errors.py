"""Errors that a user can fix. The command prints them as one paragraph, without a traceback.

Any other exception is a defect of the toolkit and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_VALUE, LONGEST_MESSAGE = 200, 2000
"""Characters of a received value, and of a message about a config."""

EXIT_RESUME = 75
"""Exit code of a stage that a signal stopped and that can resume (EX_TEMPFAIL of sysexits.h)."""


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
    """An invalid configuration: unknown key, invalid value or unknown name. Longer messages are cut in the middle."""

    def __init__(self, message: str) -> None:
        super().__init__(cut(message, LONGEST_MESSAGE))


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
    close = difflib.get_close_matches(name[:LONGEST_VALUE], options, n=1)
    guess = f'did you mean "{close[0]}"? ' if close else ""
    return f"{guess}Known: {listed(options)}"


def listed(names: Iterable[str], most: int = 4 * LONGEST_VALUE) -> str:
    """Names separated by commas; of a long list the first ones and the number of the others."""
    names = list(names)
    text = ", ".join(names)
    if len(text) <= most:
        return text
    n_shown = max(1, text[:most].count(", "))
    return f"{cut(', '.join(names[:n_shown]), most)}, … ({len(names) - n_shown:,} more)"


def shown(value: Any) -> str:
    r"""A received value for a message: its ``repr`` in at most :data:`LONGEST_VALUE` characters.

    >>> shown("a\n"), shown([1, "b"])
    ("'a\\n'", "[1, 'b']")
    """
    try:
        if isinstance(value, str | bytes | list | tuple):
            value = value[: LONGEST_VALUE + 1]
        text = repr(value)
    except ValueError:  # Python writes at most 4,300 digits
        return f"an integer of {value.bit_length():,} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return cut(text, LONGEST_VALUE)


def cut(text: str, most: int) -> str:
    """A text without its middle if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 3]} … {text[-end:]}"
