"""Ensembling, on nets of which two are twins with their units in another order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError
from convergence.functional.context import ExperimentContext
from convergence.functional.costs import multiply_adds
from convergence.functional.ensembling import experiment as ensembling
from convergence.functional.file import read_results
from convergence.functional.prediction_metrics import PredictionMetrics, log_probabilities, mean_logit, mean_probability
from convergence.functional.stage import run_experiment
from convergence.functional.surgery.splitting import SplitNetwork
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
    with ExperimentContext(folder, root / "out") as context:
        save_weights(permuted(context.net("net1")), folder.net_folder(net1._replace(name="net2")))
    assert main(["statistics", str(root / "c.toml"), "--runs", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def results(place):
    assert main(["ensemble", str(place / "c.toml"), "--runs", str(place)]) == 0
    return read_results(place / "together" / "functional" / "ensemble.h5")


def test_ensemble_of_twins_equals_one_net(results, place, tmp_path):
    tables = results.tables
    assert [row.net for row in tables.members] == ["net1", "net2", "net3"]
    assert tables.reference("repeated").accuracy_minus_single.value == 0
    (twins,) = (row for row in tables.subsets_of(2) if row.nets == "net1+net2")
    assert twins.accuracy == tables.members[0].accuracy.value
    with ExperimentContext(RunFolder(place / "together", read_config(place / "c.toml")), tmp_path) as context:
        nets = [context.net(name) for name in ("net1", "net2", "net3")]

        def together(images):
            return torch.log(sum(torch.softmax(net(images).double(), 1) for net in nets) / 3)

        plain = context.score({"all": together})["all"]
    np.testing.assert_array_equal(plain.correct, tables.sizes[-1].scores.correct)
    np.testing.assert_allclose(plain.loss, tables.sizes[-1].scores.loss)


def test_least_similar_members_are_no_twins(results):
    chosen = results.tables.chosen_of(2)
    alike = [row.cka for row in results.tables.similarities if (row.net, row.other) == ("net1", "net2")]
    assert alike == pytest.approx([1, 1], abs=1e-5)
    assert "net3" in chosen.nets_0
    assert "net3" in chosen.nets_1
    assert 1 <= min(chosen.rank_0, chosen.rank_1) <= max(chosen.rank_0, chosen.rank_1) <= 3


def test_shared_core_costs_less_than_full_ensemble(results):
    assert [layer.name for layer in results.tables.core_layers()] == ["conv2", "fc1"]
    for layer in results.tables.core_layers():
        assert layer.cost("least_squares") < layer.cost("full")
        assert layer.accuracy("permuted").value < layer.accuracy("full").value
        assert layer.cost("sparse_4") <= layer.cost("least_squares")


def test_core_shared_by_twins_equals_the_net(place, tmp_path):
    config = read_config(place / "c.toml")
    with ExperimentContext(RunFolder(place / "together", config), tmp_path) as context:
        twins = context.config.ensemble.model_copy(update={"members": ("net1", "net2")})
        context.config = context.config.model_copy(update={"ensemble": twins})
        tasks = {task.key: task for task in ensembling.tasks(context)}
        found = {row.system: row for row in tasks["core/conv2/net1"].run().systems}
    for key in ("least_squares", "one_to_one"):
        np.testing.assert_allclose(found[key].scores.loss, found["trunk"].scores.loss, rtol=1e-2, atol=2e-3)
    assert found["permuted_0"].loss.value > found["trunk"].loss.value + 0.05


def test_calibration_error_of_planted_confidences():
    logits = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    log_p = log_probabilities(logits)
    np.testing.assert_allclose(mean_probability(log_p).exp(), log_p.exp().mean(0))
    np.testing.assert_allclose(mean_logit(log_p), torch.log_softmax(torch.tensor([[1.0, 0.5]]).double(), -1))
    rng = np.random.default_rng(0)
    metrics = PredictionMetrics(["calibrated", "sure"], 4, 10)
    for group in range(4):
        p = torch.from_numpy(rng.uniform(0.5, 1, 5000))
        labels = torch.from_numpy((rng.uniform(size=5000) > p.numpy()).astype(np.int64))
        sure = torch.full_like(p, 0.999)
        metrics.add(group, torch.stack([torch.stack([q, 1 - q], 1) for q in (p, sure)]).log(), labels)
    assert metrics.calibration("calibrated").value < 0.02
    assert metrics.calibration("sure").value == pytest.approx(0.249, abs=0.02)
    assert metrics.scores("sure").accuracy().value == pytest.approx(0.75, abs=0.02)


def test_multiply_adds_equal_those_by_hand():
    spec = NETWORKS.load("small").model_validate({"name": "small", "channels": [6], "hidden": [12]})
    net = initialise(spec, 0, (1, 8, 8), 10).eval()
    split = SplitNetwork(net, "conv1", torch.rand(2, 1, 8, 8))
    images = torch.zeros(1, 1, 8, 8)
    assert multiply_adds(split.front, images) == 9 * 6 * 64
    assert multiply_adds(split.back, split.front(images)[0]) == 96 * 12 + 12 * 10
    assert multiply_adds(net, images) == 9 * 6 * 64 + 96 * 12 + 12 * 10


def test_unknown_names_are_refused(place, tmp_path):
    with ExperimentContext(RunFolder(place / "together", read_config(place / "c.toml")), tmp_path) as context:
        whole = context.config
        for change, message in (
            ({"members": ("net1", "nett")}, 'no net "nett"; did you mean'),
            ({"trunks": ("untrained1",)}, '"untrained1" is not a member'),
            ({"members": ("net1",)}, "needs two nets"),
        ):
            update = {"ensemble": whole.ensemble.model_copy(update=change)}
            context.config = whole.model_copy(update=update)
            with pytest.raises(ConfigError, match=message):
                ensembling.tasks(context)


def test_subsets_are_all_or_drawn():
    assert ensembling.some_subsets(4, 2, 64, 0) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    drawn = ensembling.some_subsets(30, 5, 10, 0)
    assert len(set(drawn)) == 10
    assert drawn == ensembling.some_subsets(30, 5, 10, 0)


@pytest.mark.slow
def test_killed_stage_resumes_with_same_bits(place, results, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(place / "together", tmp_path / "together"))
    shutil.rmtree(copy / "functional")
    folder = RunFolder(copy, read_config(place / "c.toml"))
    shared_core = ensembling.shared_core

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ensembling, "shared_core", killed)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(folder, "ensemble")
    assert len(list((copy / "functional" / "ensemble.partial").glob("*.h5"))) == 1
    monkeypatch.setattr(ensembling, "shared_core", shared_core)
    run_experiment(folder, "ensemble")
    whole = place / "together" / "functional" / "ensemble.h5"
    assert datasets(copy / "functional" / "ensemble.h5") == datasets(whole)


@pytest.mark.drawn
def test_chapter_is_complete(results, tmp_path):
    found = chapter(results)
    text = " ".join(found.sentences)
    assert "A core up to conv2 has" in text
    assert "no evidence that dissimilar members are better" in text  # three subsets of two
    assert "nan" not in text
    for drawing in found.drawings:
        assert drawing.save(tmp_path, tmp_path, ("svg",))["svg"].stat().st_size > 1000
    assert len(found.drawings) == len(found.tables) == 2
