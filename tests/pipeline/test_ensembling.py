"""Ensembles: answers averaged, members chosen, cores shared; a twin with the units in another order shares all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError
from convergence.functional import ensembles
from convergence.functional.answering import Answers, log_probabilities, mean_logit, mean_probability
from convergence.functional.bench import Bench
from convergence.functional.cutting import Cut
from convergence.functional.file import read_results
from convergence.functional.run import functional
from convergence.functional.shared_core import multiply_adds
from convergence.networks import NETWORKS
from convergence.networks.weights import initialise, save_weights
from convergence.report.chapters.ensemble import chapter
from convergence.runs.run_folder import RunFolder
from tests.helpers.runs import datasets
from tests.pipeline.test_stitching import permuted

CONFIG = """
name = "together"
[data]
name = "digits"
[[nets]]
seeds = [1, 2, 3]
network = { name = "small", channels = [6, 8], hidden = [12] }
[[nets]]
label = "untrained"
seeds = [11]
network = { name = "small", channels = [6, 8], hidden = [12] }
trained = false
[training]
epochs = 4
threads = 1
optimizer = "adamw"
learning_rate = 0.005
[statistics]
comparisons = ["conv2", "fc1"]
max_images = 240
groups = 6
threads = 1
[statistics.mutual_information]
enabled = false
[functional]
threads = 1
[functional.ensemble]
trunks = ["net1"]
draws = 2
core_shares = [0.5]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Trained nets and their statistics; net2 is net1 with its units in another order."""
    root = tmp_path_factory.mktemp("ensemble")
    (root / "c.toml").write_text(CONFIG, encoding="utf-8")
    assert main(["train", str(root / "c.toml"), "--runs", str(root)]) == 0
    folder = RunFolder(root / "together", read_config(root / "c.toml"))
    net1 = next(net for net in folder.experiment.all_nets() if net.name == "net1")
    with Bench(folder, root / "out") as bench:
        save_weights(permuted(bench.net("net1")), folder.net_folder(net1._replace(name="net2")))
    assert main(["statistics", str(root / "c.toml"), "--runs", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def results(place):
    assert main(["ensemble", str(place / "c.toml"), "--runs", str(place)]) == 0
    return read_results(place / "together" / "functional" / "ensemble.h5")


def test_twins_add_nothing_and_another_net_does_something(results, place, tmp_path):
    members = results.tree["members"]
    assert list(members["names"]) == ["net1", "net2", "net3"]
    assert members["repeated"]["accuracy_minus_single"]["value"] == 0
    pairs = members["sizes"]["2"]
    (at,) = np.flatnonzero((pairs["subsets"] == [0, 1]).all(axis=1))
    assert pairs["accuracies"][at] == members["single"]["net1"]["accuracy"]["value"]
    with Bench(RunFolder(place / "together", read_config(place / "c.toml")), tmp_path) as bench:
        nets = [bench.net(name) for name in ("net1", "net2", "net3")]

        def together(images):
            return torch.log(sum(torch.softmax(net(images).double(), 1) for net in nets) / 3)

        plain = bench.score({"all": together})["all"]
    np.testing.assert_array_equal(plain.correct, members["sizes"]["3"]["mean"]["scores"]["correct"])
    np.testing.assert_allclose(plain.loss, members["sizes"]["3"]["mean"]["scores"]["loss"])


def test_members_that_are_least_alike_are_not_twins(results):
    chosen = results.tree["members"]["sizes"]["2"]["chosen"]
    assert results.tree["members"]["similarity"][:, 0, 1] == pytest.approx([1, 1], abs=1e-5)
    for half in (0, 1):
        assert 2 in chosen[f"subset_{half}"]
        assert 1 <= chosen[f"rank_{half}"] <= 3


def test_a_twin_shares_the_core(results):
    for name in ("conv2", "fc1"):
        core = results.tree["core"][name]["net1"]["systems"]
        assert core["least_squares"]["cost"] < core["full"]["cost"]
        assert core["permuted_0"]["accuracy"]["value"] < core["full"]["accuracy"]["value"]
        assert core["sparse_4"]["cost"] <= core["least_squares"]["cost"]


def test_a_core_among_twins_alone_is_the_net(place, tmp_path):
    config = read_config(place / "c.toml")
    with Bench(RunFolder(place / "together", config), tmp_path) as bench:
        twins = bench.config.ensemble.model_copy(update={"members": ("net1", "net2")})
        bench.config = bench.config.model_copy(update={"ensemble": twins})
        pieces = {piece.key: piece for piece in ensembles.pieces(bench)}
        found = pieces["core/conv2/net1"].make()["systems"]
    for key in ("least_squares", "one_to_one"):
        np.testing.assert_allclose(found[key]["scores"]["loss"], found["trunk"]["scores"]["loss"], rtol=1e-2, atol=2e-3)
    assert found["permuted_0"]["loss"]["value"] > found["trunk"]["loss"]["value"] + 0.05


def test_averages_and_calibration():
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    log_p = log_probabilities(logits)
    np.testing.assert_allclose(mean_probability(log_p).exp(), log_p.exp().mean(0))
    np.testing.assert_allclose(mean_logit(log_p), torch.log_softmax(torch.tensor([[1.0, 0.5]]).double(), -1))
    rng = np.random.default_rng(0)
    answers = Answers(["calibrated", "sure"], 4, 10)
    for group in range(4):
        p = torch.from_numpy(rng.uniform(0.5, 1, 5000))
        labels = torch.from_numpy((rng.uniform(size=5000) > p.numpy()).astype(np.int64))
        sure = torch.full_like(p, 0.999)
        answers.add(group, torch.stack([torch.stack([q, 1 - q], 1) for q in (p, sure)]).log(), labels)
    assert answers.calibration("calibrated").value < 0.02
    assert answers.calibration("sure").value == pytest.approx(0.249, abs=0.02)
    assert answers.scores("sure").accuracy().value == pytest.approx(0.75, abs=0.02)


def test_costs_by_hand():
    spec = NETWORKS.load("small").model_validate({"name": "small", "channels": [6], "hidden": [12]})
    net = initialise(spec, 0, (1, 8, 8), 10).eval()
    cut = Cut(net, "conv1")
    images = torch.zeros(1, 1, 8, 8)
    assert multiply_adds(cut.front, images) == 9 * 6 * 64
    assert multiply_adds(cut.back, cut.front(images)[0]) == 96 * 12 + 12 * 10
    assert multiply_adds(net, images) == 9 * 6 * 64 + 96 * 12 + 12 * 10


def test_names_that_are_not_there(place, tmp_path):
    with Bench(RunFolder(place / "together", read_config(place / "c.toml")), tmp_path) as bench:
        whole = bench.config
        for change, message in (
            ({"members": ("net1", "nett")}, 'no net "nett"; did you mean'),
            ({"trunks": ("untrained1",)}, '"untrained1" is no member'),
            ({"members": ("net1",)}, "needs two"),
        ):
            update = {"ensemble": whole.ensemble.model_copy(update=change)}
            bench.config = whole.model_copy(update=update)
            with pytest.raises(ConfigError, match=message):
                ensembles.pieces(bench)


def test_subsets_are_all_or_drawn():
    assert ensembles.some_subsets(4, 2, 64, 0) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    drawn = ensembles.some_subsets(30, 5, 10, 0)
    assert len(set(drawn)) == 10
    assert drawn == ensembles.some_subsets(30, 5, 10, 0)


def test_a_stage_that_lost_a_piece_goes_on_with_the_same_bits(place, results, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(place / "together", tmp_path / "together"))
    shutil.rmtree(copy / "functional")
    folder = RunFolder(copy, read_config(place / "c.toml"))
    shared_core = ensembles.shared_core

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ensembles, "shared_core", killed)
    with pytest.raises(KeyboardInterrupt):
        functional(folder, "ensemble")
    assert len(list((copy / "functional" / "ensemble.partial").glob("*.h5"))) == 1
    monkeypatch.setattr(ensembles, "shared_core", shared_core)
    functional(folder, "ensemble")
    whole = place / "together" / "functional" / "ensemble.h5"
    assert datasets(copy / "functional" / "ensemble.h5") == datasets(whole)


def test_the_chapter(results, tmp_path):
    found = chapter(results)
    text = " ".join(found.sentences)
    assert "Core up to conv2" in text
    assert "does not follow" in text  # three subsets of two
    assert "nan" not in text
    for drawing in found.drawings:
        assert drawing.save(tmp_path, tmp_path, ("svg",))["svg"].stat().st_size > 1000
    assert len(found.drawings) == len(found.tables) == 2
