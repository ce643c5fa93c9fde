"""Functional experiments on transformers: images by class, and texts by the next token."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError
from convergence.functional.context import ExperimentContext
from convergence.functional.file import read_results
from convergence.functional.stitching.maps import AffineMap, LayerFit
from convergence.functional.stitching.penultimate import NAMES, PenultimateFit
from convergence.functional.stitching.stitched_network import StitchedNetwork, cross_fitted
from convergence.functional.surgery.alignment import movable, random_orders
from convergence.functional.surgery.permutations import permutation_groups, permuted
from convergence.networks.weights import save_weights
from convergence.runs.run_folder import RunFolder
from tests.pipeline.test_transformers import TEXT, VIT, sources

__all__ = ["sources"]
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow
FUNCTIONAL = """
[functional]
threads = 1
batch_size = 64
[functional.stitch]
mappings = ["one_to_one", "least_squares", "orthogonal", "penultimate"]
comparisons = ["{layer}"]
pairs = [["net1", "net2"]]
penultimate_steps = 10
draws = 2
transplant_units = 3
cumulative_steps = 2
[functional.merge]
nets = ["net1", "net2"]
steps = 3
permutations = 2
fit_images = 64
restarts = 6
depths = 1
"""


def trained(config: str, layer: str, root: Path) -> Path:
    """Train nets; net2 becomes net1 with all its units in another order. Then the statistics."""
    (root / "c.toml").write_text(config + FUNCTIONAL.format(layer=layer), encoding="utf-8")
    assert main(["train", str(root / "c.toml"), "--runs", str(root)]) == 0
    experiment = read_config(root / "c.toml")
    folder = RunFolder(root / experiment.name, experiment)
    (net2,) = (net for net in experiment.all_nets() if net.name == "net2")
    with ExperimentContext(folder, root / "out") as context:
        net = context.net("net1")
        groups = movable(permutation_groups(net, context.images.image_shape))
        save_weights(permuted(net, groups, random_orders(groups, np.random.default_rng(1))), folder.net_folder(net2))
    assert main(["statistics", str(root / "c.toml"), "--runs", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def texts(sources, tmp_path_factory) -> Path:
    text = TEXT.format(root=sources).replace("seeds = [1, 2, 3]", "seeds = [1, 2]").replace(", dropout = 0.1", "")
    text = text.replace("epochs = 2", "epochs = 10")
    return trained(text, "blocks.1", tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    (line,) = re.findall(r"network = .*\n", VIT)
    group = f'[[nets]]\nlabel = "untrained"\nseeds = [7]\n{line}trained = false\n[training]'
    return trained(VIT.replace("[training]", group), "blocks.1", tmp_path_factory.mktemp("images"))


@pytest.fixture(params=["texts", "images"])
def root(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def context(root, tmp_path):
    experiment = read_config(root / "c.toml")
    with ExperimentContext(RunFolder(root / experiment.name, experiment), tmp_path) as found:
        yield found


def test_permuted_copy_is_stitched_and_merged_back(root):
    """Residual stream by matched units, any linear map and rotations; weights and activations find the permutation."""
    name = read_config(root / "c.toml").name
    for verb in ("stitch", "merge"):
        assert main([verb, str(root / "c.toml"), "--runs", str(root)]) == 0
    maps = {row.map: row for row in read_results(root / name / "functional" / "stitch.h5").tables.maps}
    for kind in ("one_to_one", "least_squares", "orthogonal", *NAMES):
        assert maps[kind].loss.value == pytest.approx(maps["own"].loss.value, rel=2e-3), kind
        assert maps[kind].explained > 0.99
    assert maps["mean"].loss.value > maps["own"].loss.value + 0.05
    merged = read_results(root / name / "functional" / "merge.h5").tables
    apart = {row.method: row.distance for row in merged.alignments}
    assert apart["none"] > 0.5
    assert apart["weights"] < 1e-6
    assert apart["activation"] < 1e-6
    found = {(row.method, row.kind): row.accuracy.value for row in merged.averages}
    assert found["weights", "plain"] == pytest.approx(maps["own"].accuracy.value, abs=0.2)
    assert "stay in their heads" in merged.not_zipped[0].reason


def test_scores_of_texts_are_of_all_next_tokens(texts, tmp_path):
    experiment = read_config(texts / "c.toml")
    with ExperimentContext(RunFolder(texts / "text", experiment), tmp_path) as context:
        net = context.net("net1")
        scores = context.score({"net": net})["net"]
        rows = np.concatenate([np.concatenate(list(context.groups.batches(k, 64))) for k in range(len(context.groups))])
        ids = torch.from_numpy(context.images.read(rows))
        logits = net(ids)[:, :-1].detach()
        there = (ids[:, 1:] >= 0) & (ids[:, :-1] >= 0)
        right = (logits.argmax(-1) == ids[:, 1:])[there]
        assert scores.count.sum() == there.sum()
        assert scores.accuracy().value == pytest.approx(float(right.float().mean()))
        losses = torch.nn.functional.cross_entropy(logits[there].double(), ids[:, 1:][there])
        assert scores.mean_loss().value == pytest.approx(float(losses))
        comparison = context.chosen_comparisons(("blocks.1",))[0]
        network = StitchedNetwork(context, comparison, "net1", "net1")
        same = AffineMap(np.eye(16), np.zeros(16))
        found = cross_fitted(context, ["same"], lambda half: network.through_many([same]), network.own)
        np.testing.assert_allclose(found["same"].loss, scores.loss, rtol=1e-5)
        np.testing.assert_array_equal(found[None].count, scores.count)


def test_fits_at_the_penultimate_layer_lower_its_error_and_stay_orthogonal(context):
    """From an untrained net, whose layer no map fits."""
    comparison = context.chosen_comparisons(("blocks.1",))[0]
    network = StitchedNetwork(context, comparison, "net1", "untrained1")
    fit = LayerFit.of(context, "blocks.1", "net1", "untrained1", 0)
    random = fit.affine_map(fit.rotated(np.random.default_rng(0)))
    fitted = PenultimateFit(context, network, fit, 0, 60)
    maps = fitted.maps()
    starts = dict(zip(NAMES, map(fit.affine_map, (fit.least_squares(), fit.orthogonal())), strict=True))
    for name in NAMES:
        assert fitted.error(maps[name]) < 0.98 * fitted.error(starts[name])
        assert fitted.error(maps[name]) < fitted.error(random)
    weights = maps["orthogonal_penultimate"].weights
    scale = np.trace(weights @ weights.T) / len(weights)
    np.testing.assert_allclose(weights @ weights.T / scale, np.eye(len(weights)), atol=1e-5)
    again = PenultimateFit(context, network, fit, 0, 60).maps()
    np.testing.assert_array_equal(again["affine_penultimate"].weights, maps["affine_penultimate"].weights)


def test_nets_of_two_tasks_are_refused(images, tmp_path):
    text = (images / "c.toml").read_text("utf-8").partition("[functional]")[0]
    network = '{ name = "tests.pipeline.test_stitching:Tokens", task = "next_token" }'
    text = text.replace("[training]", f'[[nets]]\nlabel = "b"\nseeds = [3]\nnetwork = {network}\n[training]')
    layers = 'comparisons = [{ name = "blocks.1", layers = { net = "blocks.1", untrained = "blocks.1" } }]\nmax'
    text = re.sub(r"comparisons = .*\nmax", layers, text)
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    folder = RunFolder(tmp_path / "vit", read_config(tmp_path / "c.toml"))
    with pytest.raises(ConfigError, match="need nets of one task"):
        ExperimentContext(folder, tmp_path)
