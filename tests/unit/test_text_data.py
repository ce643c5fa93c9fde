"""Texts as a data set: every token once, documents as families, padding and short pieces."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from convergence.data.images import AbsentImages
from convergence.data.manifest import KnownFiles, make_manifest
from convergence.data.text import Text
from convergence.errors import FileError

TEXTS = {"b.txt": "Grüße\n\n  \nzwei\r\n\r\ndrei", "a.txt": "abcdefg", "deep/c.txt": "x" * 10, ".hidden.txt": "no"}


@pytest.fixture
def root(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def source(root, **settings) -> Text:
    return Text.model_validate({"name": "text", "root": str(root), **settings})


def texts_of(images) -> list[str]:
    """The text of every document, joined from its pieces."""
    ids, found = images.read(np.arange(len(images))), {}
    mask = images.position_mask(np.arange(len(images)))
    for row, family in enumerate(images.families):
        valid = ids[row] >= 0
        if mask is not None:
            np.testing.assert_array_equal(mask[row], valid)
        found[family] = found.get(family, b"") + bytes(ids[row][valid].tolist())
    return [text.decode() for text in found.values()]


@pytest.mark.parametrize(
    ("documents", "wanted"),
    [
        ("file", ["abcdefg", TEXTS["b.txt"], "x" * 10]),
        ("paragraph", ["abcdefg", "Grüße", "zwei", "drei", "x" * 10]),
        ("line", ["abcdefg", "Grüße", "zwei", "drei", "x" * 10]),
    ],
)
def test_documents_are_families_and_lose_no_token(root, documents, wanted):
    splits = source(root, documents=documents, length=4).load()
    assert texts_of(splits.test) == wanted
    assert isinstance(splits.train, AbsentImages)
    assert splits.test.labels is None
    assert splits.test.read(np.array([0])).dtype == np.int64


def test_short_pieces_are_left_out_and_counted(root, caplog):
    with caplog.at_level(logging.INFO):
        images = source(root, length=4, min_tokens=3).load().test
    assert "left out: shorter than data.min_tokens = 3" in caplog.text
    assert (images.position_mask(np.arange(len(images))).sum(axis=1) >= 3).all()
    whole = source(root, length=4, min_tokens=4).load().test
    assert whole.position_mask(np.arange(2)) is None
    assert (whole.read(np.arange(len(whole))) >= 0).all()
    with pytest.raises(FileError, match=r"no held-out piece has data\.min_tokens = 300"):
        source(root, length=300, min_tokens=300).load()


def test_held_out_documents_are_drawn_by_seed_and_divide_all(root):
    whole = texts_of(source(root, documents="line", length=4).load().test)
    found = []
    for seed in range(6):
        splits = source(root, documents="line", length=4, held_out=0.4, seed=seed).load()
        parts = texts_of(splits.train), texts_of(splits.test)
        assert sorted(parts[0] + parts[1]) == sorted(whole)
        assert len(parts[1]) == 2
        found.append(tuple(parts[1]))
    assert len(set(found)) > 1


def test_tokenizers_of_hugging_face_are_read_from_a_folder_and_part_of_the_content(root):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"abcdefg": 3, "zwei": 5, "drei": 7, "?": 0}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (root / "tok").mkdir()
    made.save(str(root / "tok" / "tokenizer.json"))
    given = source(root, tokenizer=str(root / "tok"), length=3)
    np.testing.assert_array_equal(given.load().test.read(np.arange(3)), [[3, -1, -1], [0, 5, 7], [0, -1, -1]])
    file = source(root, tokenizer=str(root / "tok" / "tokenizer.json"), length=3)

    def content(data: Text) -> str:
        return make_manifest(data, data.list_parts(), KnownFiles()).content

    before = content(given)
    assert content(file) == before
    words["drei"] = 8
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?")).save(str(root / "tok" / "tokenizer.json"))
    assert content(given) != before
    assert content(source(root, length=3)) != before
    (root / "tok" / "tokenizer.json").write_text("{}")
    with pytest.raises(FileError, match="no tokenizer could be read"):
        given.load()


def test_files_that_are_no_text_or_missing_are_refused_by_name(root):
    (root / "d.txt").write_bytes(b"ab\xffcd")
    with pytest.raises(FileError, match=r"d\.txt: no UTF-8 text \(byte 2"):
        source(root).load()
    with pytest.raises(FileError, match=r'no file matches data.files = "\*.md"'):
        source(root, files="*.md").load()
    with pytest.raises(FileError, match="there is no such folder"):
        source(root / "absent").list_parts()
    with pytest.raises(ValueError, match=r"leads out of data\.root"):
        source(root, files="../*.txt")
    with pytest.raises(ValueError, match=r"min_tokens = 9 is more than data\.length = 8"):
        source(root, length=8, min_tokens=9)
