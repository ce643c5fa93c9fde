"""Arrays as a data set: the values of the files, whatever their format, and what is refused."""

from __future__ import annotations

import json
import struct

import h5py
import numpy as np
import pytest

from convergence.config.load import parse_config
from convergence.data.arrays import Arrays
from convergence.data.images import AbsentImages, read_batches
from convergence.data.manifest import KnownFiles, make_manifest
from convergence.errors import ConfigError, FileError

VALUES = np.random.default_rng(0).standard_normal((9, 3, 4, 5)).astype(np.float32)
TOKENS = np.where(np.arange(6) < np.arange(1, 10)[:, None], np.arange(54).reshape(9, 6), -1)


def arrays(folder, **settings) -> Arrays:
    return Arrays.model_validate({"name": "arrays", "root": str(folder), **settings})


def write_safetensors(path, **arrays) -> None:
    """The format as its specification describes it."""
    types = {"float32": "F32", "int64": "I64", "bool": "BOOL"}
    header, at = {"__metadata__": {"made": "by hand"}}, 0
    for name, array in arrays.items():
        offsets = [at, at := at + array.nbytes]
        header[name] = {"dtype": types[str(array.dtype)], "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values()))


def write_all(folder, values) -> tuple[str, ...]:
    np.save(folder / "a.npy", values)
    np.savez_compressed(folder / "a.npz", other=values[:2], x=values)
    write_safetensors(folder / "a.safetensors", other=values[:2], x=values)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("in/side", data=values, compression="gzip")
    return "a.npy", "a.npz:x", "a.safetensors:x", "a.h5:in/side"


@pytest.mark.parametrize(
    "values", [VALUES, VALUES[:, :, 0], VALUES[:, 0, 0], TOKENS], ids=["images", "series", "vectors", "tokens"]
)
def test_values_are_those_of_the_file_whatever_the_format(tmp_path, values):
    for source in write_all(tmp_path, values):
        splits = arrays(tmp_path, inputs=source).load()
        images = splits.test
        assert isinstance(splits.train, AbsentImages)
        assert (len(images), images.image_shape, images.labels, images.n_classes) == (9, values.shape[1:], None, 0)
        read = list(read_batches(images, [np.array([8, 1]), np.array([0])], workers=2))
        np.testing.assert_array_equal(np.concatenate([batch for _, batch in read]), values[[8, 1, 0]])
        assert {batch.dtype for _, batch in read} == {np.dtype(np.int64 if values is TOKENS else np.float32)}


def test_labels_families_masks_and_training_inputs(tmp_path):
    write_safetensors(tmp_path / "all.safetensors", x=TOKENS, mask=TOKENS % 2 == 0)
    np.savez(tmp_path / "more.npz", y=np.repeat([7, 3, 5], 3), train=TOKENS[:4], train_y=np.array([5, 5, 3, 9]))
    np.save(tmp_path / "documents.npy", np.array(list("ccaabbbcc")))
    splits = arrays(
        tmp_path, inputs="all.safetensors:x", mask="all.safetensors:mask", labels="more.npz:y",
        families="documents.npy", train_inputs="more.npz:train", train_labels="more.npz:train_y",
    ).load()  # fmt: skip
    test, train = splits.test, splits.train
    assert test.class_names == train.class_names == ("3", "5", "7", "9")
    assert test.known_labels().tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1]
    assert train.known_labels().tolist() == [1, 1, 0, 3]
    assert test.families.tolist() == [2, 2, 0, 0, 1, 1, 1, 2, 2]
    np.testing.assert_array_equal(test.position_mask(np.array([3, 0])), ((TOKENS >= 0) & (TOKENS % 2 == 0))[[3, 0]])
    np.testing.assert_array_equal(train.position_mask(np.array([2])), TOKENS[[2]] >= 0)


def test_inputs_without_padding_have_no_mask(tmp_path):
    np.save(tmp_path / "a.npy", np.abs(TOKENS))
    assert arrays(tmp_path, inputs="a.npy").load().test.position_mask(np.arange(2)) is None


def content(source: Arrays) -> str:
    return make_manifest(source, source.list_parts(), KnownFiles()).content


def test_content_is_that_of_the_arrays_and_not_their_place(tmp_path):
    np.savez(tmp_path / "a.npz", x=VALUES, y=VALUES + 1)
    np.save(tmp_path / "families.npy", np.arange(9))
    found = content(arrays(tmp_path, inputs="a.npz:x"))
    assert content(arrays(tmp_path, inputs="a.npz:x", families="families.npy")) == found
    assert content(arrays(tmp_path, inputs="a.npz:y")) != found
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")
    assert content(arrays(tmp_path, inputs="b.npz:x")) == found
    np.savez(tmp_path / "b.npz", x=VALUES, y=VALUES)
    assert content(arrays(tmp_path, inputs="b.npz:x")) != found


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named_before_any_work(tmp_path, value):
    values = VALUES.copy()
    values[6, 1, 2, 3] = value
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(FileError, match=r"a\.npy: input 6 holds NaN or infinite values"):
        content(arrays(tmp_path, inputs="a.npy"))
    with pytest.raises(FileError, match="input 6 holds"):
        arrays(tmp_path, inputs="a.npy").load().test.read(np.array([2, 6]))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.array([[None, 1]] * 3), "Python objects"),
        (np.zeros((3, 8, 8), np.uint8), r"integers of shape \(3, 8, 8\); needed are .*Convert pixels to float32"),
        (np.zeros(3), r"an array of shape \(3,\) and type float64; needed are floats"),
        (np.array([["a", "b"]]), "needed are floats"),
        (np.zeros((3, 0)), "needed are floats"),
    ],
)
def test_arrays_that_are_no_inputs_are_refused(tmp_path, values, found):
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(FileError, match=found):
        arrays(tmp_path, inputs="a.npy").load()


def test_other_lengths_names_and_damage_are_refused_by_name(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", x=VALUES, y=np.arange(8))
    with pytest.raises(FileError, match=r"safetensors:y: an array of shape \(8,\); needed are 9 integers"):
        arrays(tmp_path, inputs="a.safetensors:x", labels="a.safetensors:y").load()
    with pytest.raises(FileError, match='has no array "z"'):
        arrays(tmp_path, inputs="a.safetensors:z").load()
    np.save(tmp_path / "b.npy", VALUES[:, :2])
    with pytest.raises(FileError, match=r"inputs of shape \(2, 4, 5\)"):
        arrays(tmp_path, inputs="a.safetensors:x", train_inputs="b.npy").load()
    whole = (tmp_path / "a.safetensors").read_bytes()
    for damaged in (whole[:-70], whole[:5], b"\xff" * 40, b""):
        (tmp_path / "a.safetensors").write_bytes(damaged)
        with pytest.raises(FileError, match="no array could be read"):
            arrays(tmp_path, inputs="a.safetensors:x").load()


def test_labels_of_one_split_alone_are_refused():
    text = """
name = "x"
data = { name = "arrays", inputs = "a.npy", train_inputs = "b.npy", labels = "c.npy" }
statistics = { comparisons = ["fc"] }
[[nets]]
seeds = [1, 2]
network = { name = "nets:make" }
"""
    with pytest.raises(ConfigError, match=r"labels are given without data\.train_labels"):
        parse_config(text)
