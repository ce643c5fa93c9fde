"""Families of the files of an image folder: by folder, by expression, and by a column of a CSV file."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.data.families import check_setting, families_of
from convergence.data.photos import Photos
from convergence.errors import FileError

NAMES = ["cat/s1_01.png", "cat/s1_02.png", "cat/s2_01.png", "dog/s1_01.png", "dog/deep/s1_09.png"]


def test_families_by_folder_and_by_expression(tmp_path):
    np.testing.assert_array_equal(families_of("folder", NAMES, tmp_path, "val"), [0, 0, 0, 1, 2])
    np.testing.assert_array_equal(families_of(r"(s\d+)_", NAMES, tmp_path, "val"), [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(families_of(r"^\w+/(deep/)?s\d+", NAMES, tmp_path, "val"), [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(families_of(r"^\w+", NAMES, tmp_path, "val"), [0, 0, 0, 1, 1])
    with pytest.raises(FileError, match=r"no part of 1 path of 5: cat/s2_01\.png"):
        families_of("s1", NAMES, tmp_path, "val")
    with pytest.raises(ValueError, match="no regular expression"):
        check_setting("(")


@pytest.mark.parametrize("prefix", ["", "./", "val/"])
def test_families_by_paths_of_a_table(tmp_path, prefix):
    subjects = ["b", "a", "b", "a", "c"]
    rows = [f"{prefix}{name},{subject}" for name, subject in zip(NAMES, subjects, strict=True)]
    (tmp_path / "of.csv").write_text("\n".join(["path,subject", *rows[::-1], f"{prefix}other.png,d"]) + "\n")
    np.testing.assert_array_equal(families_of("of.csv:subject", NAMES, tmp_path, "val"), [1, 0, 1, 0, 2])
    with pytest.raises(FileError, match=r"does not have 1 image of 6: new\.png"):
        families_of("of.csv:subject", [*NAMES, "new.png"], tmp_path, "val")


def test_families_by_rows_of_a_table(tmp_path):
    (tmp_path / "of.csv").write_text("subject\n3\n3\n1\n2\n1\n")
    np.testing.assert_array_equal(families_of("of.csv:subject", NAMES, tmp_path, "val"), [2, 2, 0, 1, 0])
    with pytest.raises(FileError, match="5 rows for 4 images"):
        families_of("of.csv:subject", NAMES[:4], tmp_path, "val")
    with pytest.raises(FileError, match='no column "person"'):
        families_of("of.csv:person", NAMES, tmp_path, "val")
    with pytest.raises(FileError, match="cannot be read"):
        families_of("none.csv:subject", NAMES, tmp_path, "val")


def test_patches_of_a_photograph_are_a_family():
    test = Photos(name="photos", n_train=64, n_test=64).load().test
    np.testing.assert_array_equal(test.families, test.labels)
