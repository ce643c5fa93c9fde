"""Given activations with families, labels and any order: intervals and chance levels of independent layers."""

from __future__ import annotations

import numpy as np
import pytest

from convergence.analysis.active_units import active_units
from convergence.analysis.pair_sums import PairSums
from convergence.cli import main
from convergence.inference import jackknife
from convergence.similarity import MEASURES
from convergence.statistics.file import StatisticsFile, open_statistics

CONFIG = """
name = "given"
[activations]
root = "{root}"
{more}
[activations.nets]
a = {{ l = "a.npy" }}
b = {{ l = "b.npy" }}
[statistics]
comparisons = ["l"]
groups = 8
threads = 1
batch_size = 50
subset = 64
shifted_null = true
{statistics}
mutual_information.enabled = false
"""


def statistics(folder, arrays, more: str = "", statistics: str = "") -> str:
    """Path of the statistics of two layers."""
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    (folder / "given.toml").write_text(CONFIG.format(root=folder.as_posix(), more=more, statistics=statistics))
    assert main(["statistics", str(folder / "given.toml"), "--runs", str(folder)]) == 0
    return str(folder / "given" / "statistics.h5")


def pair_of(file: StatisticsFile) -> PairSums:
    sums = file.sums("l")
    return PairSums.of(sums, active_units(sums), "a", "b")


def test_interval_of_independent_layers_contains_the_truth_for_clustered_images(tmp_path):
    """60 scenes of 10 near-copies: without their families, held-out partners seem to be better than chance."""
    rng = np.random.default_rng(1)
    arrays = {}
    for net in "ab":
        scenes = np.repeat(rng.standard_normal((60, 12)), 10, axis=0)
        arrays[net] = (scenes + 0.3 * rng.standard_normal(scenes.shape)).astype(np.float32)
    families = np.array([f"scene {k}" for k in np.repeat(np.arange(60), 10)])
    path = statistics(tmp_path, arrays | {"families": families}, 'families = "families.npy"')
    measure = MEASURES.load("matching")
    with open_statistics(path) as file:
        assert file.n_families == 60
        header = file.header()
        group, family = header.group_of_image, header.family_of_image
        assert all(len(set(group[family == f])) == 1 for f in range(60))
        pair = pair_of(file)
        held_out = [measure.held_out(measure.fit(pair.halves[1 - k]), pair.halves[k]) for k in (0, 1)]
        fitted = [measure.fit(half) for half in pair.halves]
        without = [
            (measure.held_out(fitted[1 - g % 2], pair.half_without(g)) + held_out[1 - g % 2]) / 2 for g in range(8)
        ]
        estimate = jackknife(float(np.mean(held_out)), without)
        assert estimate.low < 0 < estimate.high
        assert estimate.standard_error > 0.015


@pytest.mark.parametrize("sampled", [False, True])
def test_level_of_the_next_image_does_not_depend_on_the_stored_order(tmp_path, sampled):
    """Images sorted by class, as in folders, have the level of images in random order, near that of nothing shared."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(8), 100))
    causes = 2 * rng.standard_normal((8, 5))[labels] + 0.7 * rng.standard_normal((800, 5))
    arrays = {}
    for net in "ab":
        x = np.einsum("nk,ku->nu", causes, rng.standard_normal((5, 10)))
        maps = x[:, :, None, None] + rng.standard_normal((800, 10, 3, 3))
        arrays[net] = np.maximum(maps if sampled else maps.mean(axis=(2, 3)), 0).astype(np.float32)
    found = []
    for name, order in (("random", np.arange(800)), ("sorted", np.argsort(labels, kind="stable"))):
        folder = tmp_path / name
        folder.mkdir()
        path = statistics(
            folder, {net: values[order] for net, values in arrays.items()}, statistics="positions = 4" * sampled
        )
        with open_statistics(path) as file:
            pair = pair_of(file)
            cka = MEASURES.load("linear_cka")
            assert cka(pair.pooled) > 0.4
            found.append(cka(pair.shifted))
    assert max(found) < 0.04
    assert abs(found[0] - found[1]) < 0.03


def test_class_sums_and_gram_matrices_are_those_of_the_activations(tmp_path):
    rng = np.random.default_rng(2)
    labels = rng.choice([3, 5, 9], 200)
    arrays = {net: rng.standard_normal((200, 6, 3, 4)).astype(np.float32) for net in "ab"}
    path = statistics(tmp_path, arrays | {"labels": labels}, 'labels = "labels.npy"')
    with open_statistics(path) as file:
        sums, header = file.sums("l"), file.header()
        joined = np.concatenate([arrays[net] for net in "ab"], axis=1).reshape(200, 12, -1).astype(float)
        for g in range(8):
            for c, label in enumerate((3, 5, 9)):
                chosen = joined[(header.group_of_image == g) & (labels == label)]
                assert sums.class_count[g, c] == 12 * len(chosen)
                wanted = (chosen - sums.shift[:, None]).sum(axis=(0, 2))
                np.testing.assert_allclose(sums.class_sums[g, c], wanted, atol=1e-9)
        flat = [arrays[net][header.subset].reshape(64, -1).astype(float) for net in "ab"]
        for k, values in enumerate(flat):
            np.testing.assert_allclose(sums.image_gram[k], values @ values.T, rtol=1e-10)
        value = MEASURES.load("image_cka")(pair_of(file).pooled)
    order = rng.permutation(12)
    moved = {net: values.reshape(200, 6, 12)[:, :, order].reshape(200, 6, 3, 4) for net, values in arrays.items()}
    (tmp_path / "moved").mkdir()
    with open_statistics(statistics(tmp_path / "moved", moved)) as file:
        assert MEASURES.load("image_cka")(pair_of(file).pooled) == pytest.approx(value, abs=1e-10)
        assert file.sums("l").class_sums is None
