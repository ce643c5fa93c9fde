"""Merging: planted permutations are found and their barriers vanish; a killed stage resumes with the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError, UserError
from convergence.functional.context import ExperimentContext
from convergence.functional.file import read_results
from convergence.functional.merging import barriers, zipping
from convergence.functional.merging.experiment import PairMerger, chosen_nets, tasks
from convergence.functional.scores import Scores
from convergence.functional.surgery.alignment import (
    activation_orders,
    align_many,
    joint_correlations,
    random_orders,
    weight_orders,
)
from convergence.functional.surgery.permutations import permutation_groups, permuted, permuted_state
from convergence.functional.surgery.repair import (
    mean_statistics,
    reestimate_batch_norm,
    repair,
    repairable,
    unit_statistics,
)
from convergence.inference import generator_of
from convergence.networks.small import Small
from convergence.networks.weights import load_net
from convergence.report.chapters.merge import chapter
from convergence.runs.run_folder import RunFolder
from tests.helpers.runs import TINY, datasets

pytestmark = pytest.mark.slow

SMALLER = [
    "training.epochs=12", "training.optimizer=adamw", "training.learning_rate=0.01", "functional.merge.steps=5",
    "functional.merge.fit_images=200", "functional.merge.permutations=2", "functional.merge.pairs=2",
    "functional.threads=1", "nets.0.seeds=[1,2,3]", 'statistics.comparisons=["conv1"]',
]  # fmt: skip
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Config, overrides and folder of a small run with statistics, and merged."""
    root = tmp_path_factory.mktemp("merge")
    (root / "tiny.toml").write_text(TINY, encoding="utf-8")
    options = [f"--set={one}" for one in SMALLER]
    for verb in ("train", "statistics", "merge"):
        assert main([verb, str(root / "tiny.toml"), "--runs", str(root / "runs"), *options]) == 0
    folder = RunFolder(root / "runs" / "tiny", read_config(root / "tiny.toml", SMALLER))
    return root, options, folder


def drawn(groups, seed, draw=0):
    """Random orders of the units of each group."""
    return random_orders(groups, generator_of(seed, draw))


class PlantedContext(ExperimentContext):
    """A context whose second net is the first one with permuted units and some noise."""

    noise = 0.01

    def net(self, name: str) -> nn.Module:
        module = super().net("net1")
        if name == "net1":
            return module
        groups = [group for group in permutation_groups(module, SHAPE) if not group.fixed]
        torch.manual_seed(0)
        with torch.no_grad():
            for value in module.parameters():
                value += self.noise * value.std() * torch.randn_like(value)
        return permuted(module, groups, drawn(groups, 5))


@pytest.mark.parametrize("method", ["activation", "weights"])
def test_planted_permutation_is_found_and_removes_barrier(run, method, tmp_path):
    with PlantedContext(run[2], tmp_path) as context:
        pair = PairMerger(context, "net1", "net2")
        planted = drawn(pair.movable, 5)
        for name, order in pair.orders(method, 1).items():
            n = len(order)
            live = np.diagonal(pair.correlations[name])[:n] > 0 if method == "activation" else np.ones(n, bool)
            assert live.sum() > n / 2
            assert np.array_equal(planted[name][order][live], np.flatnonzero(live)), name
        before, after = pair.aligned("none"), pair.aligned(method)
        (far, *_), (near, *_) = before.alignments, after.alignments
        (unaligned, _), (aligned, _) = before.averages, after.averages
        assert unaligned.barrier.value > 0.1
        assert aligned.barrier.value < 0.01
        assert near.distance < far.distance
        if method == "weights":  # which aligns dead units, too
            assert near.distance < 0.1
        assert aligned.accuracy.value > unaligned.accuracy.value


def test_zipping_a_net_with_its_permuted_copy_returns_it(run, tmp_path):
    with PlantedContext(run[2], tmp_path) as context:
        context.noise = 0.0
        pair = PairMerger(context, "net1", "net2")
        depths = pair.zipped().zip_depths
        (own,) = pair.scores([context.net("net1")])
    assert [row.depth for row in depths] == [0, 1, 2, 3]
    assert np.allclose([row.accuracy.value for row in depths], own.accuracy().value)
    assert np.allclose([row.loss.value for row in depths], own.mean_loss().value, rtol=1e-3)


def test_many_permuted_copies_are_aligned(run, tmp_path):
    with PlantedContext(run[2], tmp_path) as context:
        pair = PairMerger(context, "net1", "net2")
        first = pair.states[0]
        states = [first, *(permuted_state(first, pair.movable, drawn(pair.movable, 9, k)) for k in range(3))]
        orders = align_many(states, pair.movable, 0)
    found = [permuted_state(state, pair.movable, order) for state, order in zip(states, orders, strict=True)]
    for state in found[1:]:
        assert all(torch.equal(state[name], found[0][name]) for name in first)


class Residual(nn.Module):
    """A net whose second block adds to what the first made, with batch norm."""

    def __init__(self, groups: int = 1, channels: int = 3, n_classes: int = 5):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.inner, self.inner_norm = nn.Conv2d(12, 20, 3, padding=1), nn.BatchNorm2d(20)
        self.outer, self.outer_norm = nn.Conv2d(20, 12, 3, padding=1, groups=groups), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, n_classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.inner_norm(self.inner(x)))
        return self.head(torch.relu(x + self.outer_norm(self.outer(y))).mean((2, 3)))


def test_residual_net_with_batch_norm_is_aligned_and_repaired():
    torch.manual_seed(0)
    module = Residual().eval()
    images = torch.randn(24, 3, 8, 8)
    reestimate_batch_norm(module, [images])
    groups = [group for group in permutation_groups(module, (3, 8, 8)) if not group.fixed]
    planted = drawn(groups, 1)
    other = permuted(module, groups, planted)
    for orders in (
        weight_orders(module.state_dict(), other.state_dict(), groups, 3, 0),
        activation_orders(groups, joint_correlations([module, other], groups, [images]), 0, 1),
    ):
        for name, order in orders.items():
            assert np.array_equal(planted[name][order], np.arange(len(order))), name
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean += 1
            part.running_var *= 3
    reestimate_batch_norm(module, [images])
    assert not module.training
    for name, value in module.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-5), name
    groups = permutation_groups(Residual(groups=2), (3, 8, 8))
    assert zipping.depths(permutation_groups(module, (3, 8, 8))) == [0, 2]  # the stem's units are added to later ones
    with pytest.raises(UserError, match="convolution with"):
        zipping.zippable(groups)


def residual(image_shape, n_classes):
    return Residual(channels=image_shape[0], n_classes=n_classes)


WITH_NORMS = """
name = "norms"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "tests.pipeline.test_merging:residual" }
[training]
epochs = 10
batch_size = 64
optimizer = "adamw"
learning_rate = 0.01
threads = 1
[statistics]
comparisons = ["stem"]
groups = 8
threads = 1
mutual_information.enabled = false
[functional.merge]
steps = 5
permutations = 2
"""


def test_alignment_and_repair_lower_barrier_with_batch_norm(tmp_path):
    """From training to the saved net: alignment lowers the barrier, statistics estimated again lower it further."""
    (tmp_path / "norms.toml").write_text(WITH_NORMS, encoding="utf-8")
    for verb in ("train", "statistics", "merge"):
        assert main([verb, str(tmp_path / "norms.toml"), "--runs", str(tmp_path)]) == 0
    tables = read_results(tmp_path / "norms/functional/merge.h5").tables
    averages = {(row.method, row.kind): row for row in tables.averages}
    random = [row.barrier for row in tables.random if row.kind == "repaired"]
    for method in ("activation", "weights"):
        repaired = averages[method, "repaired"].barrier
        assert repaired.high < averages[method, "plain"].barrier.low
        assert repaired.high < min(averages["none", "repaired"].barrier.low, *random)
    (merged,), best = tables.merged, tables.merged_scores[0].accuracy
    assert merged.method in ("activation-repaired", "weights-repaired")
    config = read_config(tmp_path / "norms.toml")
    context = ExperimentContext(RunFolder(tmp_path / "norms", config), tmp_path / "out")
    saved = load_net(tmp_path / "norms" / merged.folder, context.trained[0].spec, context.images.image_shape, 10)
    score = context.score({"saved": saved})["saved"]
    assert score.accuracy().value == pytest.approx(best.value, abs=1e-9)
    assert score.accuracy().value > 5 * averages["none", "plain"].accuracy.value


def test_repair_sets_target_statistics():
    torch.manual_seed(0)
    nets = [Small(name="small", channels=[5, 6], hidden=[9]).build(SHAPE, 4) for _ in range(3)]
    layers = repairable(permutation_groups(nets[0], SHAPE))
    assert layers == ["conv1", "conv2", "fc1"]
    images = torch.rand(64, *SHAPE)
    target = mean_statistics([unit_statistics(net, layers, [images]) for net in nets[:2]], [0.25, 0.75])
    outputs: dict[str, torch.Tensor] = {}
    nets[0].conv2.register_forward_hook(lambda part, inputs, output: outputs.update(conv2=output))
    nets[0](images)
    seen = outputs["conv2"]
    plain = unit_statistics(nets[0], ["conv2"], [images[:40], images[40:]])["conv2"]
    assert torch.allclose(plain.mean.float(), seen.mean((0, 2, 3)), atol=1e-5)
    repair(nets[2], target, [images])
    for layer, now in unit_statistics(nets[2], layers, [images]).items():
        assert torch.allclose(now.mean, target[layer].mean, atol=1e-4)
        assert torch.allclose(now.deviation, target[layer].deviation, atol=1e-4)


def test_zip_pairs_most_similar_units_of_either_net():
    joint = np.eye(4)
    joint[0, 1] = joint[1, 0] = 0.9  # within the first net
    joint[2, 3] = joint[3, 2] = 0.8
    joint[0, 2] = joint[2, 0] = 0.5
    zipped = zipping.zip_units(joint)
    assert zipped.within == 2
    assert np.array_equal(zipped.merge[0], [[0.5, 0.5], [0, 0]])
    assert np.array_equal(zipped.unmerge[1], [[0, 1], [0, 1]])


def test_barrier_is_largest_rise_above_the_line():
    steps = np.linspace(0, 1, 5)
    count = np.full(6, 10.0)
    heights = np.array([1.0, 2.0, 5.0, 2.5, 3.0])  # the line at 0.5 is at 2
    found = barriers.barrier(steps, heights[:, None] * count, count)
    assert found.value == pytest.approx(3.0)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    flat = barriers.line(steps, [Scores(count, count, count * h) for h in (1, 1, 1, 1, 1)])
    assert flat.barrier.value == flat.accuracy_barrier.value == 0


def test_saved_nets_have_the_scores_of_the_file(run):
    root, _, folder = run
    results = read_results(folder.functional_folder / "merge.h5")
    tables = results.tables
    assert tables.pairs == ["net1 and net2", "net1 and net3"]
    for best in tables.merged:
        scores = {row.net: row.accuracy.value for row in tables.merged_scores if row.name == best.name}
        ends = {
            (row.method, row.step): row.accuracy.value
            for row in tables.lines
            if (row.name, row.kind) == (best.name, "plain") and row.step in (0, 1)
        }
        net = folder.experiment.all_nets()[0]
        with ExperimentContext(folder, root / "unused") as context:
            module = load_net(folder.path / best.folder, net.spec, SHAPE, 10)
            (score,) = context.score({0: module}).values()
        assert score.accuracy().value == scores["merged"]
        assert (ends["none", 0], ends["none", 1]) == (scores["x"], scores["y"])
        assert ends["activation", 1] == pytest.approx(ends["none", 1]), "a permuted net is the same function"
    found = chapter(results)
    assert found.title.endswith("?")
    assert [drawing.name for drawing in found.drawings] == ["merge-line", "merge-barrier", "merge-zip"]
    assert all(len(drawing.rows) for drawing in found.drawings)
    assert len(found.sentences) == 5
    assert not any(
        "nan" in text for text in (*found.sentences, *(cell for t in found.tables for r in t.rows for cell in r))
    )


@pytest.mark.slow
def test_killed_stage_resumes_with_same_bits(run, monkeypatch):
    root, options, folder = run
    path = folder.functional_folder / "merge.h5"
    before = datasets(path)
    path.unlink()
    calls = []
    original = PairMerger.shuffled

    def killed(self):
        calls.append(self.names)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self)

    command = ["merge", str(root / "tiny.toml"), "--runs", str(root / "runs"), *options]
    with monkeypatch.context() as patch:
        patch.setattr(PairMerger, "shuffled", killed)
        assert main(command) != 0
    assert not path.exists()
    assert main(command) == 0
    assert calls == [("net1", "net2"), ("net1", "net3")]
    assert datasets(path) == before


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ('functional.merge.nets=["net1","nett2"]', ConfigError, 'did you mean "net2"'),
        ('functional.merge.nets=["net1","untrained1"]', ConfigError, "no trained net"),
        ('functional.merge.nets=["net1"]', UserError, "two trained nets"),
    ],
)
def test_unsuitable_nets_are_refused(run, override, error, words, tmp_path):
    def tasks_of_config():
        folder = RunFolder(run[2].path, read_config(run[0] / "tiny.toml", [*SMALLER, override]))
        with ExperimentContext(folder, tmp_path) as context:
            return tasks(context)

    with pytest.raises(error, match=words):
        tasks_of_config()


def test_nets_of_different_architectures_are_refused(run, tmp_path):
    text = (
        TINY.replace('label = "untrained"', 'label = "wide"')
        .replace("trained = false", "")
        .replace(
            'seeds = [11, 12]\nnetwork = { name = "small", channels = [6, 8]',
            'seeds = [11, 12]\nnetwork = { name = "small", channels = [6, 9]',
        )
    )
    (tmp_path / "two.toml").write_text(text, encoding="utf-8")
    folder = RunFolder(run[2].path, read_config(tmp_path / "two.toml", ['functional.merge.nets=["net1","wide1"]']))
    with ExperimentContext(folder, tmp_path) as context, pytest.raises(UserError, match="different architectures"):
        chosen_nets(context)


def test_scoring_training_images_is_refused(run, tmp_path):
    folder = RunFolder(run[2].path, read_config(run[0] / "tiny.toml", [*SMALLER, "statistics.split=train"]))
    with ExperimentContext(folder, tmp_path) as context, pytest.raises(UserError, match='split = "test"'):
        tasks(context)
