"""Standard streams of any kind: another encoding than UTF-8, closed, a pipe that ends, a full disk."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress

ERRORS = "convergence-plain"
PLAIN = {
    "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "≈": "~",
    "·": "*", "’": "'", "‘": "'", "“": '"', "”": '"', "°": " deg", "²": "^2", "µ": "u", "½": "1/2", "λ": "lambda",
}  # fmt: skip
"""Replacements of characters that an encoding does not have; others become escapes such as \\u2713."""


def prepare_streams() -> None:
    """Open closed standard streams on the null device, and replace characters that a stream cannot encode.

    A stream whose encoding is not of Unicode gets ASCII, which programs that read the output in another encoding
    understand too. A file that is opened while stream 0, 1 or 2 is closed would get its number, and library output
    would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the smallest free number
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    codecs.register_error(ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not the streams of a notebook
            of_unicode = codecs.lookup(stream.encoding).name.startswith("utf")
            stream.reconfigure(encoding=stream.encoding if of_unicode else "ascii", errors=ERRORS)


def flush_output() -> None:
    """Write what was printed; raises the OSError of a closed pipe or a full disk."""
    sys.stdout.flush()


def drop_output() -> None:
    """Send the rest of the output to the null device, so that the interpreter does not report it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler of codecs: replace one character that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":  # a byte of a file name in another encoding
        return bytes([ord(character) - 0xDC00]), after
    return PLAIN.get(character, character.encode("ascii", "backslashreplace").decode("ascii")), after
