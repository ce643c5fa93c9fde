"""Texts as a data set: documents of text files, as pieces of a fixed number of tokens.

The pieces of a document are a family, and stay in one image group. The last piece of a document is padded with −1.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from convergence.data.files import MissingDataError, Part, counted, is_hidden, list_files, name_text
from convergence.data.images import Batch, Bools, DataSource, ImageSet, Indices, Splits
from convergence.data.tokenizers import BYTES, Tokenizer, Tokens, byte_tokens, load_tokenizer, tokenizer_file
from convergence.errors import FileError, shown
from convergence.settings import MAX_SEED, PLACE_ONLY, PathSetting

logger = logging.getLogger(__name__)
PADDING = -1
TOKENIZER = "tokenizer"
"""Part of the files that tokenise the texts."""
_SEPARATORS = {"line": re.compile(rb"\r?\n"), "paragraph": re.compile(rb"\r?\n(?:[ \t]*\r?\n)+")}


class Text(DataSource):
    """Pieces of documents, (length,) token ids each, without labels."""

    name: Literal["text"]
    root: PathSetting = Field(description="Folder of the text files, in UTF-8.", json_schema_extra=PLACE_ONLY)
    files: str = Field(
        "**/*.txt", min_length=1, max_length=1000, description="Pattern of the files below root; ** is any folder."
    )
    documents: Literal["file", "paragraph", "line"] = Field(
        "file", description="What a document is: a file, a paragraph (between blank lines) or a line."
    )
    tokenizer: PathSetting = Field(
        PathSetting(BYTES),
        description="'bytes' (ids 0 to 255), or a tokenizer of Hugging Face: a folder with tokenizer.json or the file.",
        json_schema_extra=PLACE_ONLY,
    )
    length: int = Field(128, ge=1, le=1_000_000, description="Tokens of a piece.")
    min_tokens: int = Field(1, ge=1, le=1_000_000, description="Shorter pieces, at the end of documents, are left out.")
    held_out: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Held-out share of the documents, drawn by seed; the others are for training. Default: all.",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of the held-out documents.")

    @model_validator(mode="after")
    def _fits(self) -> Text:
        if PurePath(self.files).is_absolute() or ".." in PurePath(self.files).parts:
            raise ValueError(f"data.files = {shown(self.files)} leads out of data.root; give a pattern below it")
        if self.min_tokens > self.length:
            raise ValueError(
                f"data.min_tokens = {self.min_tokens} is more than data.length = {self.length}, so no piece would be "
                "left; lower it"
            )
        return self

    def known_shape(self) -> tuple[int, ...]:
        return (self.length,)

    def list_parts(self) -> dict[str, Part]:
        root = self.root.expanded()
        if not root.is_dir():
            raise MissingDataError(f"{root}: there is no such folder. data.root must hold text files.")
        found = sorted(path.relative_to(root).as_posix() for path in root.glob(self.files) if path.is_file())
        names = [name for name in found if not any(map(is_hidden, name.split("/")))]
        if not names:
            raise MissingDataError(
                f'{root}: no file matches data.files = "{self.files}". Give the pattern of the text files, as **/*.txt.'
            )
        parts = {"test": list_files("the texts", [(name, root / name) for name in names], "Give the text files.")}
        if str(self.tokenizer) != BYTES:
            path = tokenizer_file(self.tokenizer.expanded())
            remedy = f'data.tokenizer is "{BYTES}", a folder with tokenizer.json, or such a file.'
            parts[TOKENIZER] = list_files("the tokenizer", [(path.name, path)], remedy)
        return parts

    def load(self) -> Splits:
        if self.manifest is not None:
            names = [file.name for file in self.manifest.parts["test"].files]
        else:
            names = [file.name for file in self.list_parts()["test"].files]
        tokenize = byte_tokens if str(self.tokenizer) == BYTES else load_tokenizer(self.tokenizer.expanded())
        documents = [tokens for name in names for tokens in self._documents(name, tokenize)]
        held_out = self._drawn(len(documents))
        test = self._pieces(documents, np.flatnonzero(held_out), "held-out")
        if held_out.all():
            return Splits.only_test(test, "all texts are held out. Set data.held_out below 1 to train on the others.")
        return Splits(self._pieces(documents, np.flatnonzero(~held_out), "training"), test)

    def _documents(self, name: str, tokenize: Tokenizer) -> Iterator[Tokens]:
        """The tokens of the documents in a file, without empty documents."""
        path = self.root / name
        try:
            content = path.read_bytes()
            content.decode("utf-8")
        except OSError as error:
            raise FileError(f"{name_text(str(path))}: the text cannot be read ({error.strerror or error}).") from error
        except UnicodeDecodeError as error:
            raise FileError(
                f"{name_text(str(path))}: no UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8, or "
                "leave it out by data.files."
            ) from None
        texts = [content] if self.documents == "file" else _SEPARATORS[self.documents].split(content)
        for text in texts:
            if text.strip():
                yield tokenize(text)

    def _drawn(self, n: int) -> Bools:
        """A mask (n,) of the held-out documents."""
        if n < 2 and self.held_out < 1:
            raise FileError(
                f"{self.root}: data.held_out = {self.held_out:g} needs two documents; found: {n}. "
                'Set data.documents = "paragraph" or "line", or data.held_out = 1.'
            )
        n_held_out = n if self.held_out == 1 else min(max(1, round(self.held_out * n)), n - 1)
        chosen = np.zeros(n, bool)
        chosen[np.random.default_rng([self.seed, n]).permutation(n)[:n_held_out]] = True
        return chosen

    def _pieces(self, documents: list[Tokens], chosen: Indices, what: str) -> TokenPieces:
        pieces = [
            Piece(int(document), start, min(start + self.length, len(documents[document])))
            for document in chosen
            for start in range(0, len(documents[document]), self.length)
        ]
        kept = [piece for piece in pieces if piece.stop - piece.start >= self.min_tokens]
        if len(kept) < len(pieces):
            logger.info(
                "data: %s of %s %s left out: shorter than data.min_tokens = %d",
                counted(len(pieces) - len(kept), f"{what} piece"), f"{len(pieces):,}",
                "is" if len(pieces) - len(kept) == 1 else "are", self.min_tokens,
            )  # fmt: skip
        if not kept:
            raise FileError(
                f"{self.root}: no {what} piece has data.min_tokens = {self.min_tokens} tokens; the longest document "
                f"has {max((len(documents[k]) for k in chosen), default=0):,}. Lower data.min_tokens."
            )
        return TokenPieces(documents, kept, self.length)


class Piece(NamedTuple):
    """Tokens ``start`` to ``stop`` of a document."""

    document: int
    start: int
    stop: int


class TokenPieces(ImageSet):
    """Pieces of documents; ``read`` gives token ids (n, length) int64, −1 for padding."""

    dtype = np.dtype(np.int64)

    def __init__(self, documents: list[Tokens], pieces: list[Piece], length: int) -> None:
        self._documents, self._pieces, self.image_shape = documents, pieces, (length,)
        self.families = np.array([piece.document for piece in pieces], np.int64)
        self._sizes = np.array([piece.stop - piece.start for piece in pieces], np.int64)

    def __len__(self) -> int:
        return len(self._pieces)

    def n_tokens(self) -> int:
        return 1 + max((int(tokens.max()) for tokens in self._documents if len(tokens)), default=-1)

    def position_mask(self, indices: Indices) -> Bools | None:
        if (self._sizes == self.image_shape[0]).all():
            return None
        mask: Bools = np.arange(self.image_shape[0]) < self._sizes[indices][:, None]
        return mask

    def read(self, indices: Indices, augment_seed: int | None = None) -> Batch:
        out = np.full((len(indices), *self.image_shape), PADDING, np.int64)
        for row, index in enumerate(indices):
            piece = self._pieces[index]
            out[row, : piece.stop - piece.start] = self._documents[piece.document][piece.start : piece.stop]
        return out

    def manifest_hash(self) -> str:
        digest = hashlib.sha256(str((self.image_shape, self._pieces)).encode())
        for document in self._documents:
            digest.update(document.tobytes())
        return digest.hexdigest()
