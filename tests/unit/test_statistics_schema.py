"""The file, its schema, its documentation and its reader agree; other versions are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.config.load import read_config
from convergence.errors import FileError
from convergence.statistics.array_source import ArraySource
from convergence.statistics.file import open_statistics
from convergence.statistics.schema import (
    AXES,
    DATASETS,
    FILE,
    IMAGE_DATASETS,
    IMAGES,
    MEMBERS,
    NET_DATASETS,
    VERSION,
    Dataset,
    renew_documentation,
    stored_bytes,
)
from tests.helpers.hdf5_edits import resealed

DOCUMENT = Path(__file__).parents[2] / "docs" / "files.md"


@pytest.fixture(scope="module")
def path(planted_runs) -> Path:
    """A file with every optional dataset."""
    return planted_runs / "runs" / "planted" / "statistics.h5"


def datasets_of(group: h5py.Group) -> dict[str, h5py.Dataset]:
    found = {}
    group.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def conforms(group: h5py.Group, schema: tuple[Dataset, ...], lengths: dict[str, int]) -> None:
    """Names, types, axes, units and meanings are those of the schema, and equal axes have equal lengths."""
    found = datasets_of(group)
    assert set(found) == {dataset.path for dataset in schema}
    for dataset in schema:
        item = found[dataset.path]
        assert tuple(dimension.label for dimension in item.dims) == dataset.axes, dataset.path
        assert (item.attrs.get("unit", ""), item.attrs["about"]) == (dataset.unit, dataset.about)
        kind = {"text": "O", "counts": "u", "bool": "b"}.get(dataset.dtype)
        assert item.dtype.kind == kind if kind else item.dtype == dataset.dtype, dataset.path
        for axis, length in zip(dataset.axes, item.shape, strict=True):
            assert axis in AXES
            if axis != "bucket":
                assert lengths.setdefault(axis, length) == length, dataset.path


def test_file_conforms_to_the_schema(path):
    with h5py.File(path) as file:
        assert set(file.attrs) == {attribute.name for attribute in FILE} - {"selection"}
        assert set(file["images"].attrs) == {attribute.name for attribute in IMAGES}
        conforms(file["images"], IMAGE_DATASETS, {})
        conforms(file["nets"], NET_DATASETS, {})
        for place in file["comparisons"].values():
            assert set(place.attrs) == {attribute.name for attribute in MEMBERS}
            conforms(place, DATASETS, {"group": 6, "sample": 40, "net": 4, "unit": 32, "block": 3})


def test_documentation_is_that_of_the_schema():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert renew_documentation(text) == text, "run: python -m convergence.statistics.schema docs/files.md"


def test_reader_and_writer_are_inverse(path):
    with open_statistics(path) as file:
        for name in file.comparisons:
            stored, again = file.record(name), file.sums(name).record()
            assert stored.attributes.keys() == again.attributes.keys()
            assert stored.arrays.keys() == again.arrays.keys()
            for key, value in stored.attributes.items():
                np.testing.assert_array_equal(again.attributes[key], value, err_msg=key)
            for key, array in stored.arrays.items():
                np.testing.assert_array_equal(again.arrays[key][...], array[...], err_msg=key)


def test_predicted_size_is_that_of_the_file(planted_runs, path):
    experiment = read_config(planted_runs / "planted.toml")
    joined = ArraySource(experiment).joined
    with h5py.File(path) as file:
        for name, place in file["comparisons"].items():
            sizes = {key: item.nbytes for key, item in datasets_of(place).items() if not key.startswith("histogram/")}
            assert stored_bytes(joined[name], experiment.statistics, 40, 3) == sum(sizes.values())


@pytest.mark.parametrize(("version", "says"), [(4, f"version 4 .* version {VERSION} is needed.*again"), (99, "newer")])
def test_other_versions_are_refused(path, tmp_path, version, says):
    copy = Path(shutil.copy(path, tmp_path / "statistics.h5"))
    with resealed(copy) as file:
        file.attrs.modify("schema_version", version)
    with pytest.raises(FileError, match=says), open_statistics(copy):
        pass
