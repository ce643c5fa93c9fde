"""Compression: units that others predict are removed first without loss; pruned nets are saved and loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from convergence.cli import main
from convergence.config.functional import CompressConfig
from convergence.errors import FileError, UserError
from convergence.functional.compression.experiment import learning_images
from convergence.functional.compression.principal_components import projected
from convergence.functional.compression.prunable_net import METHODS, PrunableNet, magnitudes
from convergence.functional.compression.redundancy import (
    ConsumerMoments,
    eliminate,
    eliminate_few,
    eliminate_plain,
    predicted,
)
from convergence.functional.compression.smaller_nets import load_smaller, save_smaller
from convergence.functional.costs import costs
from convergence.functional.file import read_results
from convergence.functional.surgery.permutations import permutation_groups
from convergence.functional.surgery.repair import reestimate_batch_norm
from convergence.networks.small import Small
from tests.helpers.runs import TINY, datasets

SHAPE = (1, 8, 8)
CONFIG = (
    TINY.replace("epochs = 2", "epochs = 12\nlearning_rate = 0.05\nbatch_size = 32")
    .replace("max_images = 200", "max_images = 400")
    .replace("mutual_information]\npositions = 20", "mutual_information]\npositions = 5")
    + """
[functional]
threads = 1
[functional.compress]
nets = ["net1"]
shares = [0.25, 0.5]
layer_shares = [0.5]
draws = 2
"""
)


def activations(n=12, n_images=400, seed=0):
    """Of which unit 3 is unit 5, unit 7 is made of three others, and unit 9 is dead."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal((n_images, n)) @ rng.standard_normal((n, n)), 0)
    x[:, 3], x[:, 7], x[:, 9] = x[:, 5], x[:, 1] + 0.5 * x[:, 2] - x[:, 0], 0
    return x


def moments(x, constant=True, seed=1):
    center = x.mean(0) if constant else np.zeros(x.shape[1])
    weights = np.random.default_rng(seed).standard_normal((30, x.shape[1]))
    return ConsumerMoments((x - center).T @ (x - center) / len(x), center, weights)


@pytest.mark.parametrize("constant", [True, False])
def test_fast_order_equals_order_by_definition(constant):
    consumers = [moments(activations(), constant), moments(activations(seed=4), constant, seed=2)]
    for some in (consumers[:1], consumers):
        fast, plain = eliminate(some), eliminate_plain(some)
        np.testing.assert_array_equal(fast.order, plain.order)
        np.testing.assert_allclose(fast.loss, plain.loss, rtol=1e-5, atol=1e-12)


def test_dead_copied_and_summed_units_are_removed_first():
    found = eliminate([moments(activations())])
    assert found.order[0] == 9
    assert found.loss[0] == 0
    assert found.order[1] in (3, 5)
    assert set(found.order[2:3]) <= {0, 1, 2, 7}
    assert (found.loss[:3] < 1e-8).all()
    assert found.loss[3] > 1e-3
    one = eliminate_few([moments(activations())], 1)
    assert one.order[0] == 9
    assert one.order[1] in (3, 5)
    assert one.loss[1] < 1e-7 < 1e-3 < one.loss[2], "no single unit predicts the sum of three"
    three = eliminate_few([moments(activations())], 3)
    assert set(three.order[:3]) <= {9, 3, 5, 7, 0, 1, 2}
    assert (three.loss[:3] < 1e-7).all()


@pytest.mark.parametrize(("terms", "exact"), [(None, [3, 7, 9]), (4, [3, 7, 9]), (1, [3, 9])])
def test_linearly_dependent_units_are_predicted_exactly(terms, exact):
    x = activations()
    removed = np.array([3, 7, 9])
    kept = np.setdiff1d(np.arange(12), removed)
    matrix, constant = predicted(moments(x), kept, removed, terms)
    error = np.abs(x[:, removed] - x[:, kept] @ matrix.T - constant).max(0)
    np.testing.assert_array_equal(error < 1e-6, np.isin(removed, exact))
    assert terms is None or ((matrix != 0).sum(1) <= terms).all()


def planted(seed=0):
    """A net in which conv1:4 is a copy of conv1:1, conv2:2 is dead, and fc1:7 is the sum of three that are linear."""
    torch.manual_seed(seed)
    net = Small(name="small", channels=(6, 8), hidden=(12,)).build(SHAPE, 10).eval()
    with torch.no_grad():
        net.conv1.weight[4], net.conv1.bias[4] = net.conv1.weight[1], net.conv1.bias[1]
        net.conv2.weight[2], net.conv2.bias[2] = 0.1 * net.conv2.weight[2], -100.0
        net.fc1.bias[[3, 5, 9]] = 8.0
        net.fc1.weight[[3, 5, 9]] *= 0.1
        net.fc1.weight[7], net.fc1.bias[7] = net.fc1.weight[[3, 5, 9]].sum(0), net.fc1.bias[[3, 5, 9]].sum()
    return net


def images(n=300, shape=SHAPE, seed=3):
    return torch.from_numpy(np.random.default_rng(seed).random((n, *shape)).astype(np.float32))


def prunable(net, shape=SHAPE, terms=4, n=300):
    return PrunableNet("net1", net, shape, lambda: iter(images(n, shape).split(100)), terms, 0)


@pytest.mark.parametrize("method", ["redundancy", "few"])
def test_pruning_predicted_units_changes_no_logits(method):
    net = prunable(planted())
    how = METHODS[method]
    kept, gone = {}, {}
    units = {"conv1": {1, 4}, "conv2": {2}, "fc1": {3, 5, 7, 9}}
    for group in net.groups:
        found = net.elimination(group.name, how.order)
        n = int((found.loss < 1e-7).sum())
        gone[group.name] = sorted(set(found.order[:n].tolist()) & units[group.name])
        kept[group.name] = np.setdiff1d(np.arange(group.n_units), gone[group.name])
    assert [len(some) for some in gone.values()] == [1, 1, 1]
    smaller = net.pruned(kept, how)
    assert (smaller.conv1.out_channels, smaller.conv2.out_channels, smaller.fc1.out_features) == (5, 7, 11)
    assert smaller.fc1.in_features == 7 * 4
    assert smaller.conv2.weight.shape == (7, 5, 3, 3)
    others = images(seed=8)
    before, after = net.module(others), smaller(others)
    assert (before - after).abs().max() < 1e-5 * before.abs().max()
    unfolded = net.pruned(kept, METHODS["redundancy_unfolded"])(others)
    assert (before - unfolded).abs().max() > 1e-2 * before.abs().max()


def test_multiply_adds_equal_those_by_hand():
    net = prunable(planted())
    kept = net.kept(0.5, "magnitude", ["conv1", "conv2", "fc1"])
    assert [len(units) for units in kept.values()] == [3, 4, 6]
    found = net.costs(net.pruned(kept, METHODS["magnitude"]), kept)
    by_hand = 64 * 3 * 9 + 16 * 4 * 3 * 9 + 6 * 4 * 4 + 10 * 6
    assert found == (13, 3 * 9 + 3 + 4 * 27 + 4 + 6 * 16 + 6 + 60 + 10, by_hand)
    depthwise = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 5, 1))
    assert costs(depthwise, (4, 6, 6), 0).multiply_adds == 16 * 4 * 9 + 16 * 5 * 4


def test_magnitudes_rank_units_like_torch():
    net = planted()
    for group in permutation_groups(net, SHAPE)[:3]:
        layer = net.get_submodule(group.name)
        by_us = np.sort(np.argsort(magnitudes(net, group))[: group.n_units // 2])
        pruned = prune.ln_structured(layer, "weight", amount=group.n_units // 2, n=1, dim=0)
        np.testing.assert_array_equal(by_us, np.flatnonzero(pruned.weight_mask.flatten(1).sum(1).numpy() == 0))
        prune.remove(pruned, "weight")


def test_components_of_low_rank_units_lose_nothing():
    torch.manual_seed(0)
    net = Small(name="small", channels=(6, 8), hidden=(12,)).build(SHAPE, 10).eval()
    with torch.no_grad():
        for layer, n in ((net.conv1, 3), (net.conv2, 4)):
            layer.weight[n:], layer.bias[n:] = layer.weight[:n], layer.bias[:n]
    found = prunable(net)
    cheaper = projected(net, found.consumers, found.moments, 0.5)
    others = images(seed=8)
    assert (net(others) - cheaper(others)).abs().max() < 1e-5 * net(others).abs().max()
    assert costs(cheaper, SHAPE, 0).multiply_adds < costs(net, SHAPE, 0).multiply_adds
    worse = projected(net, found.consumers, found.moments, 0.2)
    assert (net(others) - worse(others)).abs().max() > 1e-2


def test_residual_net_with_batch_norm_is_pruned():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=10).eval()
    twin = net.layer1[0]
    with torch.no_grad():  # inside a block: unit 9 of the first convolution is its unit 2
        twin.conv1.weight[9] = twin.conv1.weight[2]
    found = prunable(net, (3, 32, 32), n=100)
    (group,) = (s for s in found.groups if s.name == "layer1.0.conv1")
    order = found.elimination(group.name, "redundancy")
    n = int((order.loss < 1e-7).sum())
    assert len(set(order.order[:n]) & {2, 9}) == 1
    kept = {group.name: np.sort(order.order[n:])}
    smaller, x = found.pruned(kept, METHODS["redundancy"]), images(5, (3, 32, 32))
    assert (net(x) - smaller(x)).abs().max() < 1e-4 * net(x).abs().max()
    every = found.kept(0.5, "magnitude", [s.name for s in found.groups])
    half = found.pruned(every, METHODS["magnitude_folded"])
    assert half(x).shape == (5, 10)
    assert half.layer1[0].bn1.num_features == 32
    assert half.conv1.out_channels == 32
    reestimate_batch_norm(half, images(20, (3, 32, 32)).split(20))
    assert not half.bn1.training
    own = half.conv1(images(20, (3, 32, 32))).mean((0, 2, 3))
    torch.testing.assert_close(half.bn1.running_mean, own.detach(), rtol=1e-4, atol=1e-5)


def test_net_without_prunable_units_is_refused():
    with pytest.raises(UserError, match=r"no layer has units that can be pruned .*logits"):
        prunable(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval())


def test_moments_never_use_scored_images():
    def context(split, of_group):
        return SimpleNamespace(
            train=np.zeros(50), config=SimpleNamespace(seed=0), groups=SimpleNamespace(group_of_image=of_group),
            experiment=SimpleNamespace(statistics=SimpleNamespace(split=split)),
        )  # fmt: skip

    config = CompressConfig(images=20)
    scored = np.where(np.arange(50) % 2, 0, -1)
    assert not (learning_images(context("train", scored), config) % 2).any()
    assert len(learning_images(context("test", scored[:10]), config)) == 20
    with pytest.raises(UserError, match=r'all 50 training images are scored.*Set statistics\.split = "test"'):
        learning_images(context("train", np.zeros(50, int)), config)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with compression, and its config."""
    root = tmp_path_factory.mktemp("compress")
    config = root / "tiny.toml"
    config.write_text(CONFIG, encoding="utf-8")
    for verb in ("train", "statistics", "compress"):
        assert main([verb, str(config), "--runs", str(root / "runs")]) == 0
    return config, root / "runs" / "tiny"


def test_redundancy_is_better_than_random_choice(run):
    results = read_results(run[1] / "functional" / "compress.h5")
    tables = results.tables
    (whole,), (skipped,) = tables.nets, tables.skipped
    assert whole.units == 26
    assert (skipped.group, skipped.reason) == ("classifier", "its units are the logits")
    assert whole.accuracy.value > 0.8
    half = {row.method: row for row in tables.pruned if (row.layer, row.share) == ("", 0.5)}
    minus = {row.against: row.accuracy_minus for row in tables.differences if row.method == "redundancy"}
    assert set(half) >= set(METHODS)
    assert {half[m].units for m in METHODS} == {13}
    assert minus["random"].low > 0
    assert minus["whole"].value <= 0.02
    assert half["redundancy"].accuracy.null == pytest.approx(half["random_folded"].accuracy.value)
    draws = [row for row in tables.draws if (row.layer, row.share, row.method) == ("", 0.5, "random")]
    assert [row.draw for row in draws] == [0, 1]
    assert {row.layer for row in tables.pruned} == {"", "conv1", "conv2", "fc1"}


def test_saved_net_is_loaded_with_same_bits(run, tmp_path):
    folder = run[1] / "functional" / "compress" / "net1-50"
    net = load_smaller(folder)
    assert (net.conv1.out_channels, net.conv2.out_channels, net.fc1.out_features) == (3, 4, 6)
    about = json.loads((folder / "smaller.json").read_text(encoding="utf-8"))
    assert about["multiply_adds"] == costs(net, SHAPE, 0).multiply_adds
    assert about["widths"] == {"conv1": 3, "conv2": 4, "fc1": 6}
    spec = Small(name="small", channels=(6, 8), hidden=(12,))
    save_smaller(net, tmp_path / "again", spec, SHAPE, 10, about["kept"], {})
    x = images(20)
    torch.testing.assert_close(load_smaller(tmp_path / "again")(x), net(x), rtol=0, atol=0)

    with pytest.raises(FileError, match="no such file"):
        load_smaller(tmp_path)
    (tmp_path / "again" / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(FileError, match="cannot be read"):
        load_smaller(tmp_path / "again")


def test_saved_net_has_the_scores_of_the_file(run):
    from convergence.config.load import read_config
    from convergence.functional.context import ExperimentContext
    from convergence.runs.run_folder import RunFolder

    results = read_results(run[1] / "functional" / "compress.h5")
    with ExperimentContext(RunFolder(run[1], read_config(run[0])), run[1] / "functional" / "compress") as context:
        scores = context.score({"net": load_smaller(context.out / "net1-50").to(context.device)})["net"]
    (row,) = (r for r in results.tables.pruned if (r.layer, r.share, r.method) == ("", 0.5, "redundancy"))
    np.testing.assert_array_equal(scores.sums, row.scores.sums)


KILLED = """
import os, signal, sys
from convergence.cli import main
from convergence.functional.compression.experiment import _Compression
_Compression.one_layer = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_stage_resumes_with_same_bits(run, tmp_path):
    config, done = run
    shutil.copytree(done, tmp_path / "tiny")
    place = tmp_path / "tiny" / "functional"
    shutil.rmtree(place)
    command = ["compress", str(config), "--runs", str(tmp_path)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], check=False, capture_output=True, timeout=120)
    assert killed.returncode == -9
    assert len(list((place / "compress.partial").glob("*.h5"))) == 3
    assert main(command) == 0
    assert datasets(place / "compress.h5") == datasets(done / "functional" / "compress.h5")
    for name in ("weights.safetensors", "smaller.json"):
        saved = Path("compress", "net1-50", name)
        assert (place / saved).read_bytes() == (done / "functional" / saved).read_bytes()


def test_chapter_is_complete(run):
    from convergence.report.chapters.compress import chapter

    found = chapter(read_results(run[1] / "functional" / "compress.h5"))
    text = " ".join(found.sentences)
    assert found.title.endswith("?")
    assert "Pruning 50 % of the units of every layer" in text
    assert "random units" in text
    assert "smallest weights" in text
    assert [drawing.name for drawing in found.drawings] == ["compress-curves", "compress-layers"]
    assert len(found.drawings[0].rows) >= 2 * len(METHODS)
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert "nan" not in text + str([table.rows for table in found.tables])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("saved_share=0.3", "none of functional.compress.shares"),
        ('nets=["net9"]', 'there is no net "net9"; did you mean'),
        ('nets=["net1", "net1"]', "names a net twice"),
        ("shares=[0.5, 1.0]", "less than 1"),
        ("layer_shares=[0.5, 0.5]", "listed twice"),
    ],
)
def test_invalid_settings_are_refused(run, setting, message, tmp_path, capsys):
    config, done = run
    shutil.copytree(done, tmp_path / "tiny")
    assert main(["compress", str(config), "--runs", str(tmp_path), "--set", f"functional.compress.{setting}"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
