"""Parts of the report against what was planted: partners from either side, galleries, tiles, differences of runs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from convergence.cli import main
from convergence.inference import Estimate, NetsNumber, jackknife
from convergence.report.comparison import compare, difference, flat
from convergence.report.galleries import galleries, signed_sum
from convergence.report.pair_view import pair_views
from convergence.report.results import read_results, read_run
from convergence.report.thumbnail_sheets import COLUMNS, GAP, GREY, TILE, RunPictures, sheet, tiles
from convergence.report.units import numbers, script_json, unit_columns

pytestmark = pytest.mark.slow

CONFIG = """
name = "{name}"
[activations]
root = "{root}"
[activations.nets]
net1 = {{ layer = "net1.npy" }}
net2 = {{ layer = "net2.npy" }}
net3 = {{ layer = "net3.npy" }}
[statistics]
comparisons = ["layer"]
groups = 8
[statistics.mutual_information]
bins = 10
[analysis]
rotations = 4
[analysis.sparse]
alphas = 12
max_units = 4
"""
N = 12
SHIFT = 5


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Unit i of net1 is unit i + 5 of net2, less and less; unit 3 of net3 has a sum of two units of net1."""
    root = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(1600, N)).astype(np.float32)
    noise = 0.2 + 0.2 * np.arange(N)
    y = np.roll(x + noise * rng.standard_normal(x.shape), SHIFT, axis=1)
    z = rng.exponential(size=x.shape)
    z[:, 3] = 0.8 * x[:, 1] + 0.6 * x[:, 2] + 0.1 * rng.standard_normal(len(x))
    z[:, 7] = 0.0
    for name, values in (("net1", x), ("net2", y), ("net3", z)):
        np.save(root / f"{name}.npy", values.astype(np.float32))
    for name, more in (("planted", ""), ("again", "")):
        (root / f"{name}.toml").write_text(CONFIG.format(name=name, root=root) + more, encoding="utf-8")
        command = ["run", str(root / f"{name}.toml"), "--runs", str(root)]
        assert main([*command, *(["--set", "analysis.rotations=6"] if name == "again" else [])]) == 0
    return root


@pytest.fixture(scope="module")
def run(planted):
    """The planted run."""
    return read_results(planted / "planted" / "statistics.h5", planted / "planted" / "analysis.h5", "planted")


def test_partners_are_the_same_from_either_side(run):
    (layer,) = run.layers
    one, other = pair_views(layer.pair("net1", "net2"))
    assert (one.x, other.x) == ("net1", "net2")
    np.testing.assert_array_equal(one.matched, (np.arange(N) + SHIFT) % N)
    np.testing.assert_array_equal(other.matched[one.matched], np.arange(N))
    for name in ("matched_r", "matched_error", "matched_held_out", "nats", "nats_error"):
        partner = one.matched if name.startswith("matched") else one.informative
        np.testing.assert_array_equal(getattr(other, name)[partner], getattr(one, name))
    assert one.matched_r.argmax() == 0
    dead, _ = pair_views(layer.pair("net1", "net3"))[::-1]
    assert len(dead.units) == N - 1
    assert 7 not in dead.units


def test_the_browsers_columns_hold_every_unit(run):
    (layer,) = run.layers
    columns = unit_columns(layer, 2, RunPictures(None, "none"))
    assert columns["n"] == N
    assert columns["left_out"] == {7: "always zero"}
    against = columns["others"]["net1"]
    assert all(len(values) == N for key, values in against.items() if key != "cluster_other")
    assert against["best"][7] == -1
    assert against["best_r"][7] is None
    assert {unit for unit, _ in against["recipe"][3][:2]} == {1, 2}
    text = script_json(columns)
    assert "NaN" not in text


def test_galleries_show_what_was_planted(run):
    (layer,) = run.layers
    found = {gallery.key: gallery for gallery in galleries(layer, layer.pair("net1", "net2"))}
    assert list(found) == [
        key for key in ("matched", "information", "differ", "recipes", "clusters", "consensus", "alone", "activity")
        if key in found
    ]  # fmt: skip
    first = found["matched"].lists[0][1][0]
    assert [(p.net, p.unit) for p in first.parts] == [("net1", 0), ("net2", SHIFT)]
    assert not any(("net3", 7) in gallery.units() for gallery in found.values())
    lonely = {(card.parts[0].net, card.parts[0].unit) for card in found["alone"].lists[0][1]}
    assert {net for net, _ in lonely} == {"net3"}
    assert ("net3", 3) not in lonely
    recipes = {g.key: g for g in galleries(layer, layer.pair("net1", "net3"))}["recipes"]
    card = recipes.lists[0][1][0]
    assert (card.parts[0].net, card.parts[0].unit) == ("net3", 3)
    assert [part.unit for part in card.parts[1:3]] == [1, 2]
    assert re.match(r"unit 3 of net3 ≈ \.\d\d·unit 1 \+ \.\d\d·unit 2", card.title)
    top = found["activity"].lists[0][1][0]
    assert top.parts[0].unit == int(layer.units("net1").mean.argmax())


def test_sums_in_words():
    assert signed_sum([(0.6, "unit 3"), (-0.25, "unit 9"), (0.1, "unit 1")]) == ".60·unit 3 − .25·unit 9 + .10·unit 1"
    assert signed_sum([(-1.2, "unit 3")]) == "−1.20·unit 3"


def test_tiles_hold_every_picture_in_its_place():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 9, 24, 24, 1), dtype=np.uint8)
    present = np.ones((3, 9), bool)
    present[1, 4:] = False
    made = tiles(pictures, present)
    assert made.shape == (3, 3 * 24 + 2 * GAP, 3 * 24 + 2 * GAP, 3)
    for unit in range(3):
        for rank in range(9):
            top, left = (rank // 3) * (24 + GAP), (rank % 3) * (24 + GAP)
            part = made[unit, top : top + 24, left : left + 24]
            wanted = np.broadcast_to(pictures[unit, rank] if present[unit, rank] else GREY, part.shape)
            np.testing.assert_array_equal(part, wanted)


def test_large_pictures_shrink_to_means_and_small_ones_grow():
    ramp = np.broadcast_to(np.arange(163, dtype=np.uint8)[:, None, None], (163, 163, 3))
    large = tiles(np.broadcast_to(ramp, (2, 9, 163, 163, 3)))
    assert max(large.shape[1:3]) <= TILE
    np.testing.assert_allclose(large[0, :54, 0, 0], np.arange(54) * 3 + 1, atol=1)
    small = tiles(np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3, 1) * 20)
    assert small.shape[1] >= 24
    np.testing.assert_array_equal(np.unique(small), np.arange(9) * 20)


def test_a_sheet_has_its_tiles_in_reading_order():
    some = [np.full((4, 5, 3), k, np.uint8) for k in range(COLUMNS + 2)]
    whole = sheet(some)
    assert whole.shape == (8, 5 * COLUMNS, 3)
    assert whole[5, 6, 0] == COLUMNS + 1
    assert whole[0, -1, 0] == COLUMNS - 1
    assert whole[-1, -1, 0] == GREY


def test_numbers_are_short_and_never_nan():
    assert numbers(np.array([0.123456, -1.5, np.nan, np.inf]), 3) == [0.12, -1.5, None, None]
    assert numbers(np.array([1234.56]), 3) == [1235.0]
    assert numbers(np.array([0.0, 0.0]), 3) == [0.0, 0.0]
    assert numbers(np.array([3.2e-7]), 3) == [3.2e-7]


def test_the_difference_of_runs_on_the_same_images_is_paired():
    rng = np.random.default_rng(0)
    common, own = rng.standard_normal((2, 20))
    nets = {"trained nets": {f"seed {k}": value for k, value in enumerate(rng.standard_normal(4))}}
    a = NetsNumber(0.5, 0.5 + 0.01 * common, nets)
    b = NetsNumber(0.6, 0.6 + 0.01 * common + 0.0001 * own, nets)
    paired, apart = difference(a, b, True, "rsa"), difference(a, b, False, "rsa")
    assert paired.value == apart.value == pytest.approx(0.1)
    assert paired.image_error < 0.05 * apart.image_error
    expected = np.sqrt(sum(jackknife(one.value, one.without_groups).standard_error ** 2 for one in (a, b)))
    assert apart.image_error == pytest.approx(expected)
    for one in (paired, apart):
        assert one.image_low < one.value < one.image_high
        assert one.low <= one.image_low + 1e-9
    swapped = difference(b, a, True, "rsa")
    assert swapped.value == -paired.value
    assert (swapped.low, swapped.high) == pytest.approx((-paired.high, -paired.low))
    assert paired.excludes_zero


def test_nets_of_unknown_initialisation_are_others_in_the_other_run():
    units = dict(zip(("net a", "net b", "net c"), (0.1, 0.5, 0.9), strict=True))
    unknown = NetsNumber(0.5, np.zeros(0), {"trained nets": units})
    known = NetsNumber(0.5, np.zeros(0), {"trained nets": {f"seed {unit}": value for unit, value in units.items()}})
    assert difference(known, known, True, "rsa").net_error == 0
    assert difference(unknown, unknown, True, "rsa").net_error > 0.5


def test_an_interval_ends_where_the_range_does():
    e = Estimate(0.98, 0.05, 0.9, 1.09)
    assert (e.within((0.0, 1.0)).low, e.within((0.0, 1.0)).high) == (0.9, 1.0)
    assert e.within((-np.inf, np.inf)) == e
    assert e.within((0.0, 1.0)).value == 0.98


def test_runs_are_compared_with_what_differs(planted):
    a, b = (read_run(planted / name) for name in ("planted", "again"))
    compared = compare(a, b)
    assert compared.same_images
    assert compared.settings.rows == (("analysis.rotations", "4", "6"),)
    rows = {(row[0], row[1], row[2]): row for row in compared.measures.rows}
    row = next(row for key, row in rows.items() if key[1] == "matching correlation" or "atching" in key[1])
    assert row[3] == row[4], "the same sums"
    assert row[5].startswith("+0.000 [")
    assert row[-1] == "no"


def test_compare_writes_a_page_and_refuses_what_it_cannot_use(planted, capsys):
    arguments = ["compare", str(planted / "planted"), str(planted / "again")]
    assert main(arguments) == 0
    page = planted / "planted" / "comparisons" / "again" / "index.html"
    assert capsys.readouterr().out.strip() == str(page.resolve())
    text = page.read_text(encoding="utf-8")
    assert "analysis.rotations" in text
    assert (page.parent / "figures" / "two-runs.pdf").exists()
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert " ".join(found) == "kind page a b same_images findings measures settings only_a only_b"
    assert found["page"] == str(page.resolve())
    assert found["settings"] == [{"setting": "analysis.rotations", "a": 4, "b": 6}]
    for item in found["measures"]:
        assert item["a"] == item["b"], "the same sums"
        assert item["difference"]["low"] <= item["difference"]["value"] == 0.0
        assert item["excludes_zero"] is False
    assert main(["compare", str(planted / "planted"), str(planted / "planted")]) == 2
    assert "same run" in capsys.readouterr().err
    assert main(["compare", str(planted / "planted"), str(planted / "gone")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    kept = planted / "net1.npy"
    assert main([*arguments, "--out", str(planted)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert kept.exists()


def test_a_comparison_that_cannot_be_read_is_said_and_not_fatal(planted):
    arguments = ["report", str(planted / "planted.toml"), "--runs", str(planted), "--compare", str(planted / "gone")]
    assert main(arguments) == 0
    assert "There is no comparison with" in (planted / "planted" / "report" / "index.html").read_text(encoding="utf-8")
    assert main([*arguments[:-1], str(planted / "again")]) == 0
    text = (planted / "planted" / "report" / "comparison.html").read_text(encoding="utf-8")
    assert "again" in text


def test_settings_by_their_names():
    assert dict(flat({"a": {"b": 1}, "c": [{"d": 2}, {"d": 3}], "e": [1, 2]})) == {
        "a.b": 1, "c.0.d": 2, "c.1.d": 3, "e": [1, 2],
    }  # fmt: skip
