"""A slice is a statistics file of its own: what is computed from it is that part of what the whole file gives."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest

from convergence.analysis.file import open_analysis
from convergence.analysis.run import analyze
from convergence.cli import main
from convergence.config.stages import AnalysisConfig, SparseConfig
from convergence.errors import FileError, UserError
from convergence.io import hdf5
from convergence.statistics.file import open_statistics
from convergence.statistics.slicing import Cut, parse_groups, slice_statistics
from convergence.statistics.view import view_comparisons
from hpc.tasks import in_process
from tests.helpers.runs import datasets

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


def test_analysis_of_a_slice_is_that_part_of_the_whole(source, of_whole, tmp_path):
    part = tmp_path / "part.h5"
    assert slice_statistics(source, part, Cut(("fc",), ("net1", "net2", "net3")))
    with open_statistics(source) as whole, open_statistics(part) as file:
        file.verify()
        assert file.comparisons == ["fc"]
        assert [net["name"] for net in file.nets] == ["net1", "net2", "net3"]
        assert file.slice["of"] == whole.digest != file.digest
        assert file.provenance == whole.provenance
    everything, of_part = datasets(of_whole), datasets(analysed(part, tmp_path))
    pairs = [name for name in of_part if "/pairs/" in name]
    assert len(pairs) > 300
    for name in pairs:  # what is about all nets at once is about fewer of them
        assert of_part[name] == everything[name], name
    assert {name.split("/")[3] for name in pairs} == {"net1|net2", "net1|net3", "net2|net3"}
    with h5py.File(of_whole) as whole, h5py.File(tmp_path / "part-analysis.h5") as some:
        np.testing.assert_array_equal(
            whole["comparisons/fc/correlation"][:24, :24], some["comparisons/fc/correlation"][:]
        )
        for name, values in some["comparisons/fc/units"].items():
            np.testing.assert_array_equal(whole["comparisons/fc/units"][name][:24], values[:])


def test_a_slice_of_one_comparison_and_a_view_give_all_of_it(source, of_whole, tmp_path):
    slice_statistics(source, tmp_path / "part.h5", Cut(("conv1",)))
    view_comparisons(source, tmp_path / "view.h5", ["conv1"])
    whole = datasets(of_whole)
    of_one = {name: digest for name, digest in whole.items() if name.startswith("comparisons/conv1/")}
    assert datasets(analysed(tmp_path / "part.h5", tmp_path)) == of_one
    assert datasets(analysed(tmp_path / "view.h5", tmp_path)) == of_one
    assert (tmp_path / "view.h5").stat().st_size < source.stat().st_size / 4


def test_sums_are_those_of_the_members_and_groups_that_are_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK_ROWS", 5)  # blocks that end within a net, and gaps between the nets
    part = tmp_path / "part.h5"
    slice_statistics(source, part, Cut(("conv1",), ("net1", "net3", "alone"), (0, 2, 3)))
    units = np.r_[0:8, 16:32]
    with h5py.File(source) as f, h5py.File(part) as g:
        old, new = f["comparisons/conv1"], g["comparisons/conv1"]
        groups = [0, 2, 3]
        for name in ("group_products", "group_shifted_products"):
            np.testing.assert_array_equal(new[name][:], old[name][:][np.ix_(groups, units, units)])
        np.testing.assert_array_equal(new["group_sums"][:], old["group_sums"][:][np.ix_(groups, units)])
        cross = old["group_norm_cross"][:][np.ix_(groups, [0, 2, 3], units)]
        np.testing.assert_array_equal(new["group_norm_cross"][:], cross)
        np.testing.assert_array_equal(new["unit_net"][:], np.repeat([0, 1, 2], 8))
        kept = np.isin(f["images/group_of_image"][:], groups)
        assert g["images"].attrs["n_images"] == kept.sum() == 120
        np.testing.assert_array_equal(g["images/group_of_image"][:] >= 0, kept)
        assert set(g["images/group_of_image"][:]) == {-1, 0, 1, 2}
        of_subset = np.isin(f["images/subset_group"][:], groups)
        np.testing.assert_array_equal(new["subset_samples"][:], old["subset_samples"][:][of_subset][:, units])
        assert [dimension.label for dimension in new["group_products"].dims] == ["group", "unit", "unit"]
    monkeypatch.undo()
    with open_statistics(source) as file:
        file.verify()


def test_what_is_pooled_over_groups_is_left_out_where_groups_are_cut_and_the_report_does_without(source, tmp_path):
    part = tmp_path / "some groups.h5"
    slice_statistics(source, part, Cut(groups=(0, 1, 2, 4)))
    with open_statistics(part) as file:
        file.verify()
        sums = file.sums("fc")
        assert sums.histograms is None
        assert sums.mutual_information is None
        assert set(file.slice["left_out"]) == {
            "histogram", "bin_edges", "effective_bins", "mutual_information", "mutual_information_without",
            "top_image", "top_position", "top_value",
        }  # fmt: skip
        assert file.slice["groups"] == [0, 1, 2, 4]
    assert main(["analyze", str(part)]) == 0
    assert main(["report", str(part)]) == 0
    with open_analysis(tmp_path / "some groups.analysis.h5") as analysis:
        assert "zero_fraction" not in analysis.units("fc")
        tree = analysis.pair("fc", "net1", "net2")
        assert "distributions" not in tree
        assert "information" not in tree
        assert len(tree["measures"]["matching"]["xy"]["without"]) == 4


def test_a_slice_of_a_slice_says_of_which(source, tmp_path):
    slice_statistics(source, tmp_path / "one.h5", Cut(("conv1",), groups=(1, 2, 3)))
    slice_statistics(tmp_path / "one.h5", tmp_path / "two.h5", Cut(nets=("net2", "net3"), groups=(0, 2)))
    slice_statistics(source, tmp_path / "direct.h5", Cut(("conv1",), ("net2", "net3"), (1, 3)))
    with open_statistics(tmp_path / "one.h5") as one, open_statistics(tmp_path / "two.h5") as two:
        assert two.slice["of"] == one.digest
        assert two.slice["of_slice"] == one.slice
    assert datasets(tmp_path / "two.h5") == datasets(tmp_path / "direct.h5")


def test_the_command_slices_once_and_replaces_nothing_else(source, tmp_path, caplog):
    target = tmp_path / "new folder" / "fc & more.h5"
    command = [
        "slice",
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
    ("cut", "says"),
    [
        (Cut(("conv",)), 'did you mean "conv1"'),
        (Cut(nets=("net9",)), "Known: alone, net1"),
        (Cut(("fc",), ("net1",)), "1 nets are left"),
        (Cut(nets=("net1",)), "no comparison has two"),
        (Cut(groups=(0, 6)), "0 to 5"),
        (Cut(groups=(0,)), "two or more"),
    ],
)
def test_cuts_that_leave_nothing_are_refused(source, tmp_path, cut, says):
    with pytest.raises(UserError, match=says):
        slice_statistics(source, tmp_path / "never.h5", cut)
    assert not (tmp_path / "never.h5").exists()


def test_a_damaged_source_gets_no_fresh_checksums(source, tmp_path):
    damaged = tmp_path / "damaged.h5"
    shutil.copy(source, damaged)
    with h5py.File(damaged, "r+") as file:
        file["comparisons/fc/group_products"][1, 2, 3] += 1
    slice_statistics(damaged, tmp_path / "conv1.h5", Cut(("conv1",)))  # the other comparison is whole
    with pytest.raises(FileError, match="does not match its checksum"):
        slice_statistics(damaged, tmp_path / "never.h5", Cut(("fc",), ("net1", "net2")))
    with pytest.raises(UserError, match="place of its source"):
        slice_statistics(damaged, damaged, Cut(("conv1",)))


def test_groups_are_numbers_and_ranges():
    assert parse_groups("0-3,7, 5") == (0, 1, 2, 3, 5, 7)
    for text in ("", "a", "3-1", "-1", "1-", "1;2"):
        with pytest.raises(UserError, match="0-7"):
            parse_groups(text)
