"""``convergence.open``: three lines to a matching that was planted, and to everything else a notebook asks for."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

import convergence
from convergence.errors import UserError
from convergence.results.labelled import Labelled, ResultsTable
from tests.helpers.analysis_rows import rows
from tests.helpers.runs import ORDER, OTHER

pytestmark = pytest.mark.drawn


@pytest.fixture(scope="module")
def folder(planted_runs):
    return planted_runs / "runs" / "planted"


@pytest.fixture(scope="module")
def run(folder):
    return convergence.open(folder)


@pytest.fixture
def alone(folder, tmp_path):
    """The statistics with nothing beside them."""
    return convergence.open(shutil.copy(folder / "statistics.h5", tmp_path / "statistics.h5"))


@pytest.fixture
def without_statistics(folder, tmp_path):
    (tmp_path / "analysis alone").mkdir()
    return convergence.open(shutil.copy(folder / "analysis.h5", tmp_path / "analysis alone" / "analysis.h5"))


def test_three_lines_to_a_matching_and_its_figure(folder):
    run = convergence.open(folder / "statistics.h5")
    found = run["conv1"].matching("net1", "net2")
    figure = found.figure()
    assert figure._repr_png_().startswith(b"\x89PNG")
    np.testing.assert_array_equal(found.partners, ORDER)
    assert found.estimate.low < found.mean < found.estimate.high
    assert found.estimate.null < found.mean
    assert list(found.table.columns) == ["unit_x", "unit_y", "correlation", "standard_error", "held_out"]


def test_the_same_matching_comes_from_the_sums_alone(run, alone):
    for layer in ("conv1", "fc"):
        for x, y in (("net1", "net2"), ("net3", "net1"), ("net2", "alone")):
            known, computed = run[layer].matching(x, y), alone[layer].matching(x, y)
            np.testing.assert_array_equal(known.partners, computed.partners)
            np.testing.assert_array_equal(known.correlation, computed.correlation)  # bit by bit
            np.testing.assert_array_equal(known.unit_x, computed.unit_x)
            assert computed.standard_error is None
            semi, again = run[layer].semi_matching(x, y), alone[layer].semi_matching(x, y)
            for column in again.columns:
                np.testing.assert_array_equal(semi[column], again[column])
            assert computed.figure()._repr_png_().startswith(b"\x89PNG")


def test_a_matching_turned_round_is_the_inverse(run):
    inverse = run["conv1"].matching("net2", "net1")
    np.testing.assert_array_equal(inverse.partners[ORDER], range(8))
    assert inverse.held_out is None
    np.testing.assert_array_equal(run["conv1"].matching("net1", "net3").partners, OTHER)


def test_correlations_are_those_of_the_activations(run, alone, without_statistics, planted_runs):
    a, b = (np.load(planted_runs / f"{net}_conv1.npy").swapaxes(0, 1).reshape(8, -1) for net in ("net1", "net2"))
    between = np.corrcoef(a, b)
    for one in (run, alone, without_statistics):
        r = one["conv1"].correlation("net1", "net2")
        assert r.dims == ("unit of net1", "unit of net2")
        np.testing.assert_allclose(np.asarray(r), between[:8, 8:], atol=1e-6)
        np.testing.assert_allclose(one["conv1"].correlation("net2").values, between[8:, 8:], atol=1e-6)
    np.testing.assert_array_equal(run["fc"].correlation("net1", "net2")[:, 6], 0)


def test_units_that_carry_nothing_say_why(run, alone, without_statistics):
    for one in (run, alone, without_statistics):
        table = one["fc"].units("net2")
        assert table["inactive_reason"].tolist() == [""] * 6 + ["always zero", ""]
        assert table["zero_fraction"][6] == 1
    assert 6 not in run["fc"].matching("net1", "net2").unit_y
    with pytest.raises(UserError, match="unit 6 of net2 has no results"):
        run["fc"].recipe("net2", 6, "net1")


def test_mutual_information_finds_the_same_partners(run, alone, without_statistics):
    nats = run["conv1"].mutual_information("net1", "net2")
    np.testing.assert_array_equal(np.argmax(nats.values, axis=1), ORDER)
    np.testing.assert_allclose(alone["conv1"].mutual_information("net2", "net1").values, nats.values.T, atol=1e-12)
    with pytest.raises(UserError, match="open statistics"):
        without_statistics["conv1"].mutual_information("net1", "net2")


def test_measures_are_a_table_and_estimates(run, folder):
    table = run.measures().where(layer="conv1", measure="matching", x="net1", y="net2")
    (row,) = table
    estimate = run["conv1"].estimate("matching", "net1", "net2")
    np.testing.assert_equal([row["value"], row["low"], row["null"]], [estimate.value, estimate.low, estimate.null])
    in_file = rows(folder / "analysis.h5", "conv1", "measures", x="net1", y="net2", measure="matching")
    assert [row["value"], row["held_out"]] == in_file["value"].tolist()[:2], "all images, held out"
    summary = run["conv1"].summary("matching")
    assert summary.n_pairs == 3
    assert str(summary).startswith(f"{summary.value:.3f} [")
    assert summary.low <= summary.image_low < summary.image_high <= summary.high
    mixed = run["conv1"].difference("matching", "trained", "mixed")
    assert mixed.missing == "1 untrained net; 3 are needed for an interval over nets"
    assert str(mixed).startswith(f"+{mixed.value:.3f} (images only: [+")
    forth = run["conv1"].estimate("r_squared", "net1", "net2")
    back = run["conv1"].estimate("r_squared", "net2", "net1")
    assert forth.value != back.value
    with pytest.raises(UserError, match='did you mean "matching"'):
        run["conv1"].estimate("matchin", "net1", "net2")
    with pytest.raises(UserError, match="Known: mixed"):
        run["conv1"].summary("matching", "all")
    with pytest.raises(UserError, match="no pair of untrained"):
        run["conv1"].summary("matching", "untrained")


def test_recipe_of_a_unit_names_its_planted_partner(run):
    for unit in range(8):
        recipe = run["conv1"].recipe("net2", ORDER[unit], "net1")
        assert recipe.lasso["predictor"][0] == unit == recipe.forward["predictor"][0]
        assert recipe.all_units_loss < recipe.forward["loss"][0] < 0.5
        back = run["conv1"].recipe("net1", unit, "net2")
        assert back.forward["predictor"][0] == ORDER[unit]
    assert f"net1[7] ≈ {back.lasso['weight'][0]:.2f}·{ORDER[7]}" in repr(back)


def test_clusters_hold_planted_pairs_together(run):
    found = run["conv1"].clusters("net1", "net2")
    together = 0
    for unit in range(8):
        (cluster,) = found.table.where(net="net1", unit=unit)["cluster"]
        together += ORDER[unit] in found.units(cluster, "net2")
    assert together == 8
    assert found.figure()._repr_png_().startswith(b"\x89PNG")


def test_every_figure_of_the_report_is_there(run):
    from convergence.figures import FIGURES

    for name in sorted(set(FIGURES) - {"causes"}):  # nets of several initialisations, orders and subsets
        assert run["conv1"].figure(name, "net2", "net1").axes
    with pytest.raises(UserError, match='did you mean "sparse"'):
        run["conv1"].figure("sparce", "net1", "net2")


def test_everything_shows_itself(run, alone, without_statistics):
    layer = run["conv1"]
    shown = [
        run, alone, without_statistics, layer, layer.matching("net1", "net2"), layer.clusters("net1", "net2"),
        layer.recipe("net1", 0, "net2"), layer.measures(), layer.correlation("net1", "net2"), run.nets,
    ]  # fmt: skip
    for one in shown:
        assert "<table>" in one._repr_html_()
        assert len(repr(one)) > 20
    assert "240 images" in repr(run)
    assert "not analysed" in repr(alone["fc"])
    assert [layer.name for layer in run] == ["conv1", "fc"] == run._ipython_key_completions_()
    assert "conv1" in run
    assert len(run) == 2


def test_what_needs_the_analysis_says_so_and_makes_it(alone):
    with pytest.raises(UserError, match=r"run\.analyze\(\)"):
        alone["fc"].measures()
    with pytest.raises(UserError, match=r"run\.analyze\(\)"):
        alone.measures()
    run = alone.analyze("fc", settings={"rotations": 2, "sparse.enabled": False, "measures": ["matching"]})
    assert run["fc"].measures()["measure"].tolist() == ["matching"] * 6
    assert run["conv1"].matching("net1", "net2").estimate is None  # of the sums: only fc is analysed
    with pytest.raises(UserError, match="no sparse mappings"):
        run["fc"].recipe("net1", 0, "net2")


def test_an_analysis_of_other_statistics_is_left_alone(alone, folder, tmp_path):
    from convergence.statistics.subset import Selection, subset_statistics

    subset_statistics(folder / "statistics.h5", tmp_path / "other" / "statistics.h5", Selection(("fc",)))
    shutil.copy(folder / "analysis.h5", tmp_path / "other" / "analysis.h5")
    assert convergence.open(tmp_path / "other").analysis is None
    assert convergence.open(tmp_path / "other" / "analysis.h5").statistics is None


def test_names_that_are_not_there(run, tmp_path):
    for wrong in (lambda: run["conv"], lambda: run["conv1"].matching("net1", "net"), lambda: run.nets["nam"]):
        with pytest.raises(UserError, match="did you mean"):
            wrong()
    with pytest.raises(UserError, match="beside itself"):
        run["conv1"].matching("net1", "net1")
    with pytest.raises(UserError, match="neither statistics"):
        convergence.open(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        convergence.open(tmp_path / "statistics.h5")
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = convergence.opne


def test_tables_become_what_others_read():
    table = ResultsTable({"a": np.array([2, 1, 3]), "b": np.array(["x", "y", "z"])})
    assert table.sorted("a")["b"].tolist() == ["z", "x", "y"]
    assert table.to_structured()["a"].tolist() == [2, 1, 3]
    assert [row["b"] for row in table.where(a=1)] == ["y"]
    labelled = Labelled(np.eye(2), ("p", "q"), {"p": np.array([3, 4]), "q": np.array([5, 6])}, "n")
    assert np.linalg.norm(labelled) == pytest.approx(np.sqrt(2))
    pandas = pytest.importorskip("pandas")
    assert isinstance(table.to_dataframe(), pandas.DataFrame)
    assert labelled.to_dataframe().loc[4, 6] == 1


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "xarray", None)
    labelled = Labelled(np.eye(2), ("p", "q"), {"p": np.arange(2), "q": np.arange(2)})
    for name, convert in (("pandas", labelled.to_dataframe), ("xarray", labelled.to_xarray)):
        with pytest.raises(UserError, match=f"pip install {name}"):
            convert()


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, convergence; assert 'open' in dir(convergence); print({m.split('.')[0] for m in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("numpy", "h5py", "matplotlib", "torch", "scipy", "pydantic"):
        assert f"'{heavy}'" not in found
