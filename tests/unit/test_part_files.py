"""Part files of the analysis give back every value with its type, and damage is found."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from convergence.analysis import part_files
from convergence.analysis.part_files import read_leaf, read_tree, write_tree
from convergence.errors import FileError

TREE = {
    "number": 0.1,
    "count": 3,
    "flag": True,
    "text": "none – here",
    "nothing": float("nan"),
    "empty": {},
    "measures": {
        "cka": {"xy": {"value": 1e-300, "without": np.arange(6.0) / 7}},
        "texts": np.array(["a", "", "ü"], dtype=object),
    },
    "flags": np.array([True, False]),
    "indices": np.arange(3, dtype=np.int32)[::-1],
    "no rows": np.zeros((0, 4), np.float32),
    "matrix": np.random.default_rng(0).standard_normal((30, 40)).T,
    "a/b": 1,
}


def same(found, expected):
    assert list(found) == sorted(found)
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, dict):
            same(found[name], value)
        elif isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
            found[name][...] = found[name]  # writable
        else:
            assert type(found[name]) is type(value)
            np.testing.assert_equal(found[name], value)


@pytest.mark.parametrize("large", [1 << 18, 100])
def test_trees_are_read_as_they_were_written(tmp_path, monkeypatch, large):
    monkeypatch.setattr(part_files, "LARGE_BYTES", large)
    with h5py.File(tmp_path / "part.h5", "w") as file:
        write_tree(file, TREE)
    with h5py.File(tmp_path / "part.h5") as file:
        assert len(file) == (2 if large > 10_000 else 3), "the matrix is a dataset if it is large"
        found = read_tree(file)
        assert read_leaf(file, "measures", "cka", "xy", "value") == 1e-300
        assert read_leaf(file, "a", "b") == 1
        assert read_leaf(file, "measures", "rsa") is None
        np.testing.assert_array_equal(read_leaf(file, "matrix"), TREE["matrix"])
    expected = {name: value for name, value in TREE.items() if name != "a/b"} | {"a": {"b": 1}}
    same(found, expected)


def test_tree_without_results_is_read_as_one(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        write_tree(file, {})
        assert read_tree(file) == {}


@pytest.mark.parametrize("damage", ["packed", "index", "missing"])
def test_damage_is_found(tmp_path, damage):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        write_tree(file, TREE)
        if damage == "packed":
            file["packed"][5] ^= 1
        elif damage == "index":
            file["index"][()] = file["index"].asstr()[()].replace("[6]", "[5]")
        else:
            del file["packed"]
        with pytest.raises(FileError, match=r"checksum|missing"):
            read_tree(file)
