"""The results model: tables with h5py alone, typed results with their checksums, files of other versions."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from convergence.analysis.file import TableRows, open_analysis
from convergence.analysis.layout import MATRICES, SCHEMA, TABLES, VERSION
from convergence.errors import FileError
from convergence.io import hdf5
from convergence.results import read_analysis
from convergence.results.source import spans
from tests.helpers.analysis_rows import rows
from tests.helpers.hdf5_edits import resealed
from tests.helpers.runs import ORDER


@pytest.fixture(scope="module")
def analysis(planted_runs):
    return planted_runs / "runs" / "planted" / "analysis.h5"


@pytest.fixture
def copy(analysis, tmp_path):
    return shutil.copy(analysis, tmp_path / "analysis.h5")


def test_comparison_has_at_most_60_datasets_with_described_columns(analysis):
    with h5py.File(analysis) as file:
        for place in file["comparisons"].values():
            assert len(place) == len(TABLES) + len(MATRICES) <= 60
            for table in TABLES:
                dataset = place[table.name]
                columns = json.loads(dataset.attrs["columns"])
                assert [column["name"] for column in columns] == list(dataset.dtype.names)
                assert all(len(column["about"]) > 3 for column in columns)
                assert dataset.attrs["about"]
                assert all(dataset.dtype[name].kind in "Sfib" for name in dataset.dtype.names)
            for matrix in MATRICES:
                assert [dim.label for dim in place[matrix.name].dims] == list(matrix.axes)
                if matrix.axes[0] in place:
                    assert len(place[matrix.name]) == len(place[matrix.axes[0]])


def test_table_is_a_data_frame_in_one_line(analysis):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(h5py.File(analysis)["comparisons/conv1/measures"][:])
    matching = frame[(frame.measure == b"matching") & (frame.evaluation == b"all_images")]
    assert len(matching) == 6
    assert (matching.low <= matching.value).all()


def test_typed_results_equal_the_rows(analysis):
    found = read_analysis(analysis).comparison("conv1")
    pair = found.pair("net1", "net2")
    np.testing.assert_array_equal(pair.matching.unit_y, ORDER)
    in_file = rows(analysis, "conv1", "semi_matching", x="net1", y="net2", direction="yx")
    for name in ("partner", "correlation", "standard_error", "p", "times_chosen"):
        np.testing.assert_array_equal(getattr(pair.semi_matching("yx"), name), in_file[name])
    sparse = pair.sparse("xy")
    assert sparse.losses.shape == (8, 5)
    np.testing.assert_allclose(sparse.losses.mean(axis=0), sparse.path.loss, rtol=1e-12)
    assert sparse.forward_units.shape == (8, 3)
    np.testing.assert_array_equal(sparse.forward_units[:, 0], np.argsort(ORDER))
    estimate = pair.need("matching")
    assert len(estimate.without) == 6
    assert estimate.low <= estimate.value <= estimate.high
    information = pair.need("same_partner_semi_matching")
    assert len(information.without) == 3, "blocks of groups"
    clusters = pair.clusters
    assert clusters.sizes.sum() == (clusters.labels_x >= 0).sum() + (clusters.labels_y >= 0).sum()
    assert np.isfinite([clusters.stability_halves, clusters.stability_null]).all()
    assert clusters.beyond_chance == rows(analysis, "conv1", "clusterings", x="net1", y="net2")["beyond_chance"][0]
    dimensions = pair.shared_dimensions
    in_file = rows(analysis, "conv1", "shared_dimensions", x="net1", y="net2")
    np.testing.assert_array_equal(dimensions.correlation, in_file["correlation"])
    assert dimensions.shared == dimensions.beyond_chance == dimensions.n_dimensions == 8
    assert found.pair("net1", "alone").shared_dimensions.shared == 0
    summary = found.summary("shared_dimensions", "trained", "held_out")
    assert summary.value == 8
    assert summary.ceiling == 8
    consensus = found.consensus["trained"]
    assert consensus.dimensions.shared == consensus.dimensions.n_dimensions == 8
    assert consensus.members.shape == consensus.strength.shape == (8, 3)
    assert set(consensus.shared) == {2, 3}
    assert found.map.distances.shape == (4, 4)
    np.testing.assert_array_equal(found.joint_correlation(pair)[:8, 8:], found.correlation("net1", "net2"))


@pytest.mark.parametrize("version", [1, 2])
def test_old_version_is_refused_with_its_number_and_the_command(copy, version):
    with resealed(copy) as file:
        file.attrs["schema_version"] = version
    with pytest.raises(FileError, match=f"version {version} of its schema.*convergence analyze"):
        read_analysis(copy)


def test_damaged_table_is_found_when_it_is_read(copy):
    found = read_analysis(copy).comparison("conv1")
    with h5py.File(copy, "r+") as file:
        changed = file["comparisons/conv1/matching"][:]
        changed["correlation"][0] += 1
        file["comparisons/conv1/matching"][...] = changed
    assert found.summary("matching", "trained") is not None
    with pytest.raises(FileError, match="/comparisons/conv1/matching does not match its checksum"):
        _ = found.pairs[0].matching


def test_missing_table_and_unknown_comparison_are_named(copy):
    with resealed(copy) as file:
        del file["comparisons/conv1/forward"]
    found = read_analysis(copy)
    with pytest.raises(FileError, match="conv1/forward is missing"):
        found.comparison("conv1").pairs[0].sparse("xy")
    with pytest.raises(FileError, match='did you mean "conv1"'):
        found.comparison("conv")


def test_replaced_file_is_noticed(copy):
    found = read_analysis(copy).comparison("conv1")
    with resealed(copy) as file:
        file.attrs["digest"] = "another"
    with pytest.raises(FileError, match="replaced by another analysis"):
        _ = found.pairs[0].matching


def test_rows_of_different_lengths_and_texts_survive(tmp_path):
    collected = TableRows()
    collected.add("unavailable", x="ü", y="b", measure="rsa", reason="none – why")
    collected.add("sparse_targets", 2, x="a", y="b", direction="xy", unit=[3, 4])
    collected.add("sparse_targets", x="a", y="ü", direction="xy", unit=[5])
    collected.add_matrix("forward_units", [[1, 2, 3], [4, 5, 6]])
    collected.add_matrix("forward_units", [[7]])
    with pytest.raises(ValueError, match="no columns nothing"):
        collected.add("pairs", nothing=1)
    about = {"digest": "d", "statistics_digest": "s", "provenance": "{}"}
    with hdf5.create(tmp_path / "a.h5", SCHEMA, VERSION, about) as file:
        collected.write(file.create_group("comparisons/c"))
    with open_analysis(tmp_path / "a.h5") as found:
        assert found.table("c", "unavailable")["x"].tolist() == ["ü"]
        assert found.table("c", "unavailable")["reason"].tolist() == ["none – why"]
        targets = found.table("c", "sparse_targets")
        assert np.isnan(targets["dense_loss"]).all()
        np.testing.assert_array_equal(found.matrix("c", "forward_units"), [[1, 2, 3], [4, 5, 6], [7, -1, -1]])
        assert spans(targets, ("x", "y", "direction")) == {("a", "b", "xy"): slice(0, 2), ("a", "ü", "xy"): slice(2, 3)}
        assert len(found.table("c", "clusters")["cluster"]) == 0
