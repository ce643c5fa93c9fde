"""Tokenizers: bytes of UTF-8 text, or a local tokenizer of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convergence.errors import FileError

BYTES = "bytes"
FILE = "tokenizer.json"
Tokens = npt.NDArray[np.int32]
Tokenizer = Callable[[bytes], Tokens]
"""UTF-8 text to the ids (n,) of its tokens."""


def byte_tokens(text: bytes) -> Tokens:
    """The bytes of a text: ids 0 … 255."""
    return np.frombuffer(text, np.uint8).astype(np.int32)


def tokenizer_file(place: Path) -> Path:
    """Path of tokenizer.json in a folder, or of the file itself."""
    return place / FILE if place.is_dir() else place


def load_tokenizer(place: Path) -> Tokenizer:
    """A tokenizer of a folder with tokenizer.json, or of such a file; it adds no special tokens.

    Raises
    ------
    FileError
        for a file that is missing or no tokenizer, and without the package tokenizers.
    """
    path = tokenizer_file(place)
    try:
        from tokenizers import Tokenizer as HuggingFaceTokenizer
    except ImportError as error:
        raise FileError(
            f"{path}: the tokenizer needs the package tokenizers: pip install 'convergent-learning[hf]'. Or set "
            f'data.tokenizer = "{BYTES}".'
        ) from error
    try:
        found = HuggingFaceTokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain exceptions of Rust
        raise FileError(
            f"{path}: no tokenizer could be read ({error}). Give a folder with {FILE}, as save_pretrained of a fast "
            "tokenizer writes it."
        ) from error
    found.no_truncation()
    found.no_padding()

    def tokens(text: bytes) -> Tokens:
        return np.array(found.encode(text.decode("utf-8"), add_special_tokens=False).ids, np.int32)

    return tokens
