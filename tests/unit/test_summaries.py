"""Tables of means over pairs of nets: planted values of pairs, draws of their nulls, and groups of pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from convergence.analysis.file import TableRows, open_analysis
from convergence.analysis.layout import SCHEMA, SHARES, VERSION
from convergence.analysis.summaries import PopulationNumbers, difference_rows, summary_rows
from convergence.inference import jackknife, mean_estimate
from convergence.io import hdf5
from convergence.results import read_analysis

GROUPS, DRAWS = 6, 5


def kind_of(x, y):
    if x["trained"] != y["trained"]:
        return "mixed"
    if not x["trained"]:
        return "untrained"
    return "same_init" if x["initialisation"] == y["initialisation"] and x["net"] != y["net"] else "trained"


def planted(members, measures=("matching",), spread=0.1, seed=0):
    """Rows of pairs of ``members`` with numbers of both directions, replicates and draws; and the numbers by pair."""
    rng = np.random.default_rng(seed)
    rows, values = TableRows(), {}
    of_net = {member["member"]: spread * rng.standard_normal() for member in members}
    of_draw = {member["member"]: 0.1 * rng.standard_normal(DRAWS) for member in members}
    for member in members:
        rows.add("members", **{"source": "s", "epoch": -1, "n_units": 8, "layer": "conv1", **member})
    for x, y in combinations(members, 2):
        names = {"x": x["member"], "y": y["member"]}
        rows.add("pairs", **names, kind=kind_of(x, y), significant_xy=0.2, significant_yx=0.4)
        for measure in measures:
            for direction in ("xy", "yx"):
                value = 0.5 + sum(of_net[name] for name in names.values()) + 0.01 * rng.standard_normal()
                estimate = jackknife(value, value + 0.001 * rng.standard_normal(GROUPS))
                draws = 0.3 + of_draw[names["y" if direction == "xy" else "x"]]
                rows.add(
                    "measures", **names, measure=measure, family="matching", direction=direction,
                    evaluation="all_images", value=value, standard_error=estimate.standard_error, low=estimate.low,
                    high=estimate.high, bias=estimate.bias, null=draws.mean(), null_sd=draws.std(ddof=1),
                    null_draws=DRAWS, n_replicates=GROUPS, ceiling=0.9,
                )  # fmt: skip
                rows.add_matrix("measures_without", estimate.without)
                rows.add_matrix("measures_draws", draws)
                values.setdefault((measure, *names.values()), []).append((estimate, draws))
    return rows, values


def net(name, trained=True, **more):
    return {"member": name, "net": name, "trained": trained, "initialisation": name, **more}


def numbers(rows):
    tables = (rows.table(name) for name in ("members", "pairs", "measures"))
    return PopulationNumbers(*tables, rows.matrix("measures_without"), rows.matrix("measures_draws"))


def by_key(found, *names):
    return {tuple(row[name] for name in names): row for row in found}


NETS = [net(f"net{k}") for k in range(4)] + [net(f"un{k}", False) for k in range(3)]


def test_rows_are_means_over_pairs_with_both_intervals():
    rows, values = planted(NETS)
    found = by_key(summary_rows(numbers(rows)), "kind", "measure")
    assert {kind for kind, _ in found} == {"trained", "untrained", "mixed"}
    trained = [mean_estimate([e for e, _ in both]) for (_, x, y), both in values.items() if x[0] == y[0] == "n"]
    row, expected = found["trained", "matching"], mean_estimate(trained)
    assert (row["n_pairs"], row["n_trained"], row["n_untrained"]) == (6, 4, 0)
    assert row["value"] == pytest.approx(expected.value)
    assert (row["image_low"], row["image_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["lowest"], row["highest"]) == (min(e.value for e in trained), max(e.value for e in trained))
    assert row["net_error"] > 5 * row["image_error"]
    assert row["low"] < row["image_low"] < row["image_high"] < row["high"]
    assert found["mixed", "matching"]["n_pairs"] == 12
    assert (found["mixed", "matching"]["n_trained"], found["mixed", "matching"]["n_untrained"]) == (4, 3)


def test_spread_of_a_null_is_that_of_the_mean_over_pairs():
    rows, values = planted(NETS)
    row = by_key(summary_rows(numbers(rows)), "kind", "measure")["trained", "matching"]
    draws = [np.mean([d for _, d in both], axis=0) for (_, x, y), both in values.items() if x[0] == y[0] == "n"]
    of_mean = np.mean(draws, axis=0)
    assert (row["null"], row["null_sd"], row["null_draws"]) == pytest.approx(
        (of_mean.mean(), of_mean.std(ddof=1), DRAWS)
    )
    assert row["null_sd"] < np.mean([d.std(ddof=1) for d in draws])
    assert row["excess"] == pytest.approx(row["value"] - row["null"])
    assert row["excess_error"] ** 2 >= row["null_sd"] ** 2 / DRAWS
    assert row["excess_low"] < row["excess"] < row["excess_high"]


def test_differences_match_nets_of_both_kinds():
    rows, _ = planted(NETS)
    found = by_key(difference_rows(numbers(rows)), "measure", "first", "second")
    apart, mixed = (found["matching", "trained", kind] for kind in ("untrained", "mixed"))
    assert mixed["difference"] == pytest.approx(apart["difference"] / 2, abs=0.02), "nets add up"
    assert mixed["net_error"] == pytest.approx(apart["net_error"] / 2, rel=0.2), "trained nets of both kinds cancel"
    for row in (apart, mixed):
        assert row["p"] > 0.05
        assert row["low"] < 0 < row["high"]


def test_few_nets_have_no_interval_and_a_reason():
    rows, _ = planted([*NETS[:4], NETS[4], NETS[5]])
    found = by_key(summary_rows(numbers(rows)), "kind", "measure")
    assert found["trained", "matching"]["missing"] == ""
    for kind in ("untrained", "mixed"):
        row = found[kind, "matching"]
        assert row["missing"] == "2 untrained nets; 3 are needed for an interval over nets"
        assert np.isnan([row["low"], row["high"], row["excess_low"]]).all()
        assert np.isfinite([row["value"], row["image_low"], row["excess"]]).all()
    difference = by_key(difference_rows(numbers(rows)), "measure", "second")["matching", "untrained"]
    assert "2 untrained nets" in difference["missing"]
    assert difference["image_low"] < difference["difference"] < difference["image_high"]


def test_nets_of_one_initialisation_are_one_unit_and_the_ceiling():
    members = [net(f"net{k}", initialisation=f"seed {k // 2}") for k in range(8)]
    rows, values = planted(members)
    found = by_key(summary_rows(numbers(rows)), "kind", "measure")
    assert (found["trained", "matching"]["n_pairs"], found["same_init", "matching"]["n_pairs"]) == (24, 4)
    replicates = numbers(rows).number(("matching", "all_images"), "trained").without_nets
    assert {name: len(units) for name, units in replicates.items()} == {"initialisations of trained nets": 4}
    same = [np.mean([e.value for e, _ in values["matching", f"net{k}", f"net{k + 1}"]]) for k in (0, 2, 4, 6)]
    assert found["same_init", "matching"]["value"] == pytest.approx(np.mean(same))
    assert found["trained", "matching"]["ceiling"] == pytest.approx(np.mean(same))
    assert found["same_init", "matching"]["ceiling"] == pytest.approx(0.9)
    assert found["same_init", "matching"]["df"] <= 10
    difference = by_key(difference_rows(numbers(rows)), "measure", "first", "second")[
        "matching", "same_init", "trained"
    ]
    assert difference["low"] < difference["difference"] < difference["high"]
    rows, _ = planted(members[:4])
    row = by_key(summary_rows(numbers(rows)), "kind", "measure")["trained", "matching"]
    assert row["missing"].startswith("2 initialisations of trained nets; 3 are needed")


def test_shares_have_no_interval_over_images():
    rows, _ = planted(NETS, ("below_half", "code_local"))
    assert {"below_half", "code_local", "significant"} < SHARES
    found = by_key(summary_rows(numbers(rows)), "kind", "measure")
    row = found["trained", "below_half"]
    assert not {"image_low", "image_high"} & set(row)
    assert 0 < row["low"] < row["value"] < row["high"] < 1
    equal = found["trained", "significant"]
    assert equal["value"] == pytest.approx(0.3)
    assert "equal in all nets" in equal["missing"]
    code = found["trained", "code_local"]
    assert np.isnan([code["low"], code["high"]]).all()
    assert "depend on the number of images" in code["missing"]
    assert code["excess_low"] < code["excess"] < code["excess_high"]


def test_counts_that_are_equal_in_all_nets_of_a_kind_have_no_interval():
    rows, _ = planted(NETS, ("shared_dimensions",))
    table = rows.table("measures")
    untrained = np.char.startswith(table["x"].astype(str), "un") & np.char.startswith(table["y"].astype(str), "un")
    table["value"][untrained] = 8.0
    matrices = (rows.matrix(f"measures_{name}") for name in ("without", "draws"))
    every = PopulationNumbers(rows.table("members"), rows.table("pairs"), table, *matrices)
    found = by_key(summary_rows(every), "kind", "measure")
    assert "equal in all nets" in found["untrained", "shared_dimensions"]["missing"]
    assert found["trained", "shared_dimensions"]["missing"] == ""
    difference = by_key(difference_rows(every), "measure", "first", "second")[
        "shared_dimensions", "trained", "untrained"
    ]
    assert "equal in all nets" in difference["missing"]
    assert np.isnan([difference["low"], difference["high"], difference["p"]]).all()


def test_groups_of_pairs_are_layers_or_widths():
    members = [net(f"net{k}", n_units=8 * (1 + k // 4)) for k in range(8)]
    rows, _ = planted(members)
    found = by_key(summary_rows(numbers(rows)), "group", "measure")
    groups = ["", "width 8", "width 8 & width 16", "width 16"]
    assert [found[group, "matching"]["n_pairs"] for group in groups] == [28, 6, 16, 6]
    layers = [
        {**net(f"net{k}"), "member": f"net{k}:{layer}", "layer": layer} for k in range(3) for layer in ("conv1", "fc")
    ]
    rows, _ = planted(layers)
    found = by_key(summary_rows(numbers(rows)), "group", "measure")
    groups = ["", "conv1", "conv1 & fc", "fc"]
    assert [found[group, "matching"]["n_pairs"] for group in groups] == [12, 3, 6, 3], "no pairs within a net"
    assert found["conv1 & fc", "matching"]["n_trained"] == 3


def test_typed_summaries_are_the_rows(tmp_path):
    rows, _ = planted(NETS, ("matching", "code_local"), spread=0.3)
    found = numbers(rows)
    for table, of_table in (("summaries", summary_rows(found)), ("differences", difference_rows(found))):
        for row in of_table:
            rows.add(table, **row)
    about = {"digest": "d", "statistics_digest": "s", "provenance": "{}"}
    with hdf5.create(tmp_path / "a.h5", SCHEMA, VERSION, about) as file:
        rows.write(file.create_group("comparisons/conv1"))
    with open_analysis(tmp_path / "a.h5") as file:
        columns = file.table("conv1", "summaries")
    read = read_analysis(tmp_path / "a.h5").comparison("conv1")
    summary = read.summary("matching", "trained")
    k = np.flatnonzero((columns["kind"] == "trained") & (columns["measure"] == "matching"))[0]
    assert (summary.value, summary.net_error, summary.n_nets) == (columns["value"][k], columns["net_error"][k], 4)
    assert (summary.low, summary.high) == tuple(np.clip([columns["low"][k], columns["high"][k]], -1, 1))
    assert str(summary) == f"{summary.value:.3f} [{summary.low:.3f}, {summary.high:.3f}]"
    assert summary.calibrated.low == pytest.approx(columns["excess_low"][k] / (summary.ceiling - summary.null))
    assert read.number("matching", "trained").value == summary.value
    assert read.difference("matching").value == pytest.approx(
        summary.value - read.summary("matching", "untrained").value
    )
    turned = read.difference("matching", "untrained", "trained")
    assert (turned.value, turned.p) == pytest.approx(
        (-read.difference("matching").value, read.difference("matching").p)
    )
    assert read.summary("matching", "same_init") is None
    assert read.difference("matching", "same_init", "trained") is None


def test_summary_without_interval_over_nets_says_that_its_interval_is_of_images(tmp_path):
    rows, _ = planted(NETS[:2], ("matching", "code_local"))
    for row in summary_rows(numbers(rows)):
        rows.add("summaries", **row)
    about = {"digest": "d", "statistics_digest": "s", "provenance": "{}"}
    with hdf5.create(tmp_path / "a.h5", SCHEMA, VERSION, about) as file:
        rows.write(file.create_group("comparisons/conv1"))
    read = read_analysis(tmp_path / "a.h5").comparison("conv1")
    summary = read.summary("matching", "trained")
    ends = f"[{summary.image_low:.3f}, {summary.image_high:.3f}]"
    assert str(summary) == f"{summary.value:.3f} (images only: {ends})"
    share = read.summary("code_local", "trained")
    assert str(share) == f"{share.value:.3f}"
