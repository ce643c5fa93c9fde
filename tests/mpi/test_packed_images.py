"""Packing images over MPI ranks: the bytes of one process, and one error ends all ranks."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.data import packed
from tests.helpers.photographs import config, digest, pack_command, write_photographs
from tests.helpers.ranks import run_ranks


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def pack_on_rank(path: Path, out: Path) -> list[str]:
    return [sys.executable, "-c", SMALL_BLOCKS, *pack_command(path, out)]


SMALL_BLOCKS = """
import sys
from convergence.data import packed
packed.BLOCK_IMAGES = 4
from convergence.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_ranks_pack_the_same_bytes(root, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "BLOCK_IMAGES", 4)
    assert main(pack_command(config(tmp_path, root), tmp_path / "one")) == 0
    code, errors = run_ranks(3, pack_on_rank(config(tmp_path, root), tmp_path / "out"), timeout=120)
    assert code == 0, errors
    for name in ("train.h5", "val.h5"):
        assert digest(tmp_path / "out" / name) == digest(tmp_path / "one" / name)


def test_failing_rank_ends_all_ranks(root, tmp_path):
    shutil.copytree(root, tmp_path / "images")
    (tmp_path / "images" / "train" / "n02" / "3.JPEG").write_bytes(b"\xff\xd8 no picture")
    code, errors = run_ranks(2, pack_on_rank(config(tmp_path, tmp_path / "images"), tmp_path / "out"), timeout=120)
    assert code == 2
    assert errors.count("train/n02/3.JPEG (not an image that Pillow reads)") == 1
    assert not (tmp_path / "out" / "train.h5").exists()
