"""Families of the files of an image folder: by folder, by expression, and by a column of a CSV file."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.data.families import check_setting, families_of
from convergence.data.image_folder import ImageFolder
from convergence.data.manifest import KnownFiles, make_manifest
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


def test_families_of_an_image_folder_leave_the_identity_of_its_images(image_root):
    """Training depends on images and labels; a file of families is recorded apart from them."""
    plain = {"name": "image_folder", "root": str(image_root), "crop": 16, "resize": 20}
    by_name = ImageFolder(**plain, families=r"(\d)\.JPEG").load().test
    np.testing.assert_array_equal(by_name.families, [0, 1, 2, 3, 0, 1, 2, 3])
    assert ImageFolder(**plain).load().test.families is None
    (image_root / "of.csv").write_text(
        "path,film\n" + "".join(f"{c}/{k}.JPEG,{k // 2}\n" for c in ("n01", "n02") for k in range(6))
    )
    by_table = ImageFolder(**plain, families="of.csv:film")
    np.testing.assert_array_equal(by_table.load().test.families, [0, 0, 1, 1] * 2)
    made = [make_manifest(source, source.list_parts(), KnownFiles()) for source in (ImageFolder(**plain), by_table)]
    assert made[0].content == made[1].content
    assert set(made[1].parts) == {"train", "test", "families"}
    assert by_table.digest_values() == ImageFolder(**plain).digest_values()
    by_table.read_from(made[1])
    np.testing.assert_array_equal(by_table.load().test.families, [0, 0, 1, 1] * 2)
