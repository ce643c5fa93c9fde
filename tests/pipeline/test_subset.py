"""A subset is a statistics file: results from it equal those of the whole file for the same units and images."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest

from convergence.analysis.layout import MATRICES, TABLES
from convergence.analysis.layout import TABLE_BY_NAME as BY_NAME
from convergence.analysis.pair_tables import PAIR
from convergence.analysis.run import analyze
from convergence.cli import main
from convergence.config.stages import AnalysisConfig, SparseConfig
from convergence.errors import FileError, UserError
from convergence.io import hdf5
from convergence.results import read_analysis
from convergence.statistics.file import NULL_SUMS, open_statistics
from convergence.statistics.subset import Selection, parse_groups, subset_statistics
from hpc.dask_executor import in_process
from tests.helpers.runs import datasets

pytestmark = pytest.mark.slow

CONFIG = AnalysisConfig(rotations=2, sparse=SparseConfig(alphas=4, max_units=2))


@pytest.fixture(scope="module")
def source(planted_runs):
    return planted_runs / "runs" / "planted" / "statistics.h5"


def analysed(path, tmp_path):
    target = tmp_path / f"{path.stem}-analysis.h5"
    analyze(path, target, CONFIG, "of a test", tmp_path / f"{path.stem}-partial", lambda plan: in_process())
    return target


@pytest.fixture(scope="module")
def of_whole(source, tmp_path_factory):
    return analysed(source, tmp_path_factory.mktemp("whole"))


def test_analysis_of_a_subset_equals_that_part_of_the_whole(source, of_whole, tmp_path):
    part = tmp_path / "part.h5"
    assert subset_statistics(source, part, Selection(("fc",), ("net1", "net2", "net3")))
    with open_statistics(source) as whole, open_statistics(part) as file:
        file.verify()
        assert file.comparisons == ["fc"]
        assert [net["name"] for net in file.nets] == ["net1", "net2", "net3"]
        assert file.selection["of"] == whole.digest != file.digest
        assert file.provenance == whole.provenance
    with h5py.File(of_whole) as file, h5py.File(analysed(part, tmp_path)) as other:
        whole, some = file["comparisons/fc"], other["comparisons/fc"]
        assert {(pair["x"], pair["y"]) for pair in some["pairs"][:]} == {
            (b"net1", b"net2"), (b"net1", b"net3"), (b"net2", b"net3"),
        }  # fmt: skip
        for table in (table for table in TABLES if table.columns[:2] == PAIR):
            everything, wanted = whole[table.name][:], some[table.name][:]
            kept = (everything["x"] != b"alone") & (everything["y"] != b"alone")
            assert len(wanted) == kept.sum() > 0 or table.name == "unavailable", table.name
            for column in table.columns:
                np.testing.assert_array_equal(wanted[column.name], everything[kept][column.name])
            for matrix in (matrix for matrix in MATRICES if matrix.axes[0] == table.name):
                np.testing.assert_array_equal(some[matrix.name][:], whole[matrix.name][:][kept])
        np.testing.assert_array_equal(whole["correlation"][:24, :24], some["correlation"][:])
        for column in BY_NAME["units"].columns:
            np.testing.assert_array_equal(whole["units"][column.name][:24], some["units"][column.name])


def test_subset_of_one_comparison_gives_all_of_its_results(source, of_whole, tmp_path):
    subset_statistics(source, tmp_path / "part.h5", Selection(("conv1",)))
    whole = datasets(of_whole)
    of_one = {name: digest for name, digest in whole.items() if name.startswith("comparisons/conv1/")}
    assert datasets(analysed(tmp_path / "part.h5", tmp_path)) == of_one


def test_sums_of_a_subset_are_those_of_its_members_and_groups(source, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK_ROWS", 5)  # blocks that end within a net, and gaps between the nets
    part = tmp_path / "part.h5"
    subset_statistics(source, part, Selection(("conv1",), ("net1", "net3", "alone"), (0, 2, 3)))
    units = np.r_[0:8, 16:32]
    with h5py.File(source) as f, h5py.File(part) as g:
        old, new = f["comparisons/conv1"], g["comparisons/conv1"]
        groups = [0, 2, 3]
        for name in ("group_products", "group_shifted_products"):
            np.testing.assert_array_equal(new[name][:], old[name][:][np.ix_(groups, units, units)])
        np.testing.assert_array_equal(new["group_sums"][:], old["group_sums"][:][np.ix_(groups, units)])
        assert list(new.attrs["null_kind"]) == [""] * 3, "sums of pseudo-nets are of all groups together"
        assert set(new.attrs["null_reason"]) == {"pseudo-nets are summed over all image groups"}
        np.testing.assert_array_equal(new["class_count"][:], old["class_count"][:][groups])
        np.testing.assert_array_equal(new["class_sums"][:], old["class_sums"][:][np.ix_(groups, range(3), units)])
        np.testing.assert_array_equal(new["unit_net"][:], np.repeat([0, 1, 2], 8))
        kept = np.isin(f["images/group_of_image"][:], groups)
        assert g["images"].attrs["n_images"] == kept.sum() == 120
        np.testing.assert_array_equal(g["images/group_of_image"][:] >= 0, kept)
        assert set(g["images/group_of_image"][:]) == {-1, 0, 1, 2}
        of_subset = np.isin(f["images/subset_group"][:], groups)
        stored = np.flatnonzero(of_subset)
        gram = old["image_gram"][:][np.ix_([0, 2, 3], stored, stored)]
        np.testing.assert_array_equal(new["image_gram"][:], gram)
        np.testing.assert_array_equal(new["subset_samples"][:], old["subset_samples"][:][of_subset][:, units])
        assert [dimension.label for dimension in new["group_products"].dims] == ["group", "unit", "unit"]
    monkeypatch.undo()
    with open_statistics(source) as file:
        file.verify()


def test_pseudo_nets_of_a_subset_are_those_of_its_members(source, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK_ROWS", 5)
    part = tmp_path / "part.h5"
    subset_statistics(source, part, Selection(("conv1",), ("net1", "net3")))
    monkeypatch.undo()
    with open_statistics(source) as f, open_statistics(part) as g:
        old, new = f.sums("conv1").null, g.sums("conv1").null
        for half in (None, 1):
            for x, y in ((slice(0, 8), slice(8, 16)), (slice(8, 16), slice(0, 8))):
                rows, columns = (slice(2 * part.start, 2 * part.start + 8) for part in (x, y))
                np.testing.assert_array_equal(new.cross(half, 2, x, y), old.cross(half, 2, rows, columns))
                np.testing.assert_array_equal(new.within(half, 2, y), old.within(half, 2, columns))
                np.testing.assert_array_equal(new.real_variance(half, x), old.real_variance(half, rows))


def test_subset_of_groups_omits_datasets_over_all_groups_and_has_a_report(source, tmp_path):
    part = tmp_path / "some groups.h5"
    subset_statistics(source, part, Selection(groups=(0, 1, 2, 4)))
    with open_statistics(part) as file:
        file.verify()
        sums = file.sums("fc")
        assert sums.histograms is None
        assert sums.mutual_information is None
        assert set(file.selection["omitted"]) == {
            "histogram", "bin_edges", "effective_bins", "mutual_information", "mutual_information_without",
            "top_image", "top_position", "top_value", *(f"null_{key}" for key in NULL_SUMS),
        }  # fmt: skip
        assert file.selection["groups"] == [0, 1, 2, 4]
    assert main(["analyze", str(part)]) == 0
    assert main(["report", str(part)]) == 0
    found = read_analysis(tmp_path / "some groups.analysis.h5").comparison("fc")
    assert found.units("net1").zero_fraction is None
    pair = found.pair("net1", "net2")
    assert pair.distributions is None
    assert pair.mutual_information is None
    assert len(pair.need("matching").without) == 4


def test_subset_of_a_subset_names_its_source(source, tmp_path):
    subset_statistics(source, tmp_path / "one.h5", Selection(("conv1",), groups=(1, 2, 3)))
    subset_statistics(tmp_path / "one.h5", tmp_path / "two.h5", Selection(nets=("net2", "net3"), groups=(0, 2)))
    subset_statistics(source, tmp_path / "direct.h5", Selection(("conv1",), ("net2", "net3"), (1, 3)))
    with open_statistics(tmp_path / "one.h5") as one, open_statistics(tmp_path / "two.h5") as two:
        assert two.selection["of"] == one.digest
        assert two.selection["of_selection"] == one.selection
    assert datasets(tmp_path / "two.h5") == datasets(tmp_path / "direct.h5")


def test_command_writes_once_and_replaces_no_other_file(source, tmp_path, caplog):
    target = tmp_path / "new folder" / "fc & more.h5"
    command = [
        "subset",
        str(source),
        "--comparison",
        "fc",
        "--net",
        "net1",
        "--net",
        "net2",
        "--groups",
        "0-3",
        str(target),
    ]
    assert main(command) == 0
    first = target.read_bytes()
    assert main(command) == 0
    assert target.read_bytes() == first
    assert main([*command[:-2], "0-2", str(target)]) == 2
    assert target.read_bytes() == first
    assert main([*command[:-2], "0-2", str(target), "--overwrite"]) == 0
    assert target.read_bytes() != first


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection(("conv",)), 'did you mean "conv1"'),
        (Selection(nets=("net9",)), "Known: alone, net1"),
        (Selection(("fc",), ("net1",)), "keeps 1 nets"),
        (Selection(nets=("net1",)), "no comparison has two"),
        (Selection(groups=(0, 6)), "0 to 5"),
        (Selection(groups=(0,)), "two or more"),
    ],
)
def test_selections_that_keep_too_little_are_refused(source, tmp_path, selection, says):
    with pytest.raises(UserError, match=says):
        subset_statistics(source, tmp_path / "never.h5", selection)
    assert not (tmp_path / "never.h5").exists()


def test_a_damaged_source_is_refused(source, tmp_path):
    damaged = tmp_path / "damaged.h5"
    shutil.copy(source, damaged)
    with h5py.File(damaged, "r+") as file:
        file["comparisons/fc/group_products"][1, 2, 3] += 1
    subset_statistics(damaged, tmp_path / "conv1.h5", Selection(("conv1",)))  # the other comparison is whole
    with pytest.raises(FileError, match="does not match its checksum"):
        subset_statistics(damaged, tmp_path / "never.h5", Selection(("fc",), ("net1", "net2")))
    with pytest.raises(UserError, match="cannot replace its source"):
        subset_statistics(damaged, damaged, Selection(("conv1",)))


def test_parse_groups_accepts_numbers_and_ranges():
    assert parse_groups("0-3,7, 5") == (0, 1, 2, 3, 5, 7)
    for text in ("", "a", "3-1", "-1", "1-", "1;2"):
        with pytest.raises(UserError, match="0-7"):
            parse_groups(text)
