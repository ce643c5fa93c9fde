"""Stitching, on a net whose twin has the same units in another order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError, UserError
from convergence.functional.context import ExperimentContext
from convergence.functional.file import read_results
from convergence.functional.scores import Scores
from convergence.functional.stage import run_experiment
from convergence.functional.stitching import experiment as stitching
from convergence.functional.stitching.maps import LayerFit
from convergence.functional.stitching.stitched_network import StitchedNetwork, cross_fitted
from convergence.functional.stitching.unit_effects import UnitEffects, spearman
from convergence.functional.surgery.splitting import SplitNetwork
from convergence.networks import NETWORKS
from convergence.networks.weights import initialise, save_weights
from convergence.report.chapters.stitch import chapter
from convergence.runs.run_folder import RunFolder
from convergence.similarity.pair import PairMoments
from tests.helpers.runs import datasets

CONFIG = """
name = "stitched"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "small", channels = [6, 8], hidden = [12] }
[[nets]]
label = "wide"
seeds = [3]
network = { name = "small", channels = [7, 8], hidden = [14] }
[[nets]]
label = "untrained"
seeds = [11]
network = { name = "small", channels = [6, 8], hidden = [12] }
trained = false
[training]
epochs = 5
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
[functional.stitch]
pairs = [["net1", "net2"], ["net1", "wide1"], ["net1", "untrained1"]]
units_per_target = [1, 3]
penalties = [1e-3]
sgd_steps = [50]
draws = 2
cumulative_steps = 2
"""


class Tokens(torch.nn.Module):
    """Tokens of patches, mixed by attention with one head."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 6, 8, stride=8)
        self.queries, self.keys = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.mix, self.classifier = torch.nn.Linear(6, 5), torch.nn.Linear(5, n_classes)
        self.scale = torch.nn.Parameter(torch.full((5,), 2.0))

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        weights = torch.softmax(self.queries(tokens) @ self.keys(tokens).transpose(1, 2), dim=-1)
        return self.classifier((self.mix(weights @ tokens) * self.scale).mean(1))


KINDS = ("transplanted", "random", "shuffled", "ablated")
ORDERS = ("best", "worst", "random")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Trained nets and their statistics; net2 is net1 with its units in another order."""
    root = tmp_path_factory.mktemp("stitch")
    (root / "c.toml").write_text(CONFIG, encoding="utf-8")
    assert main(["train", str(root / "c.toml"), "--runs", str(root)]) == 0
    folder = RunFolder(root / "stitched", read_config(root / "c.toml"))
    net1 = next(net for net in folder.experiment.all_nets() if net.name == "net1")
    with ExperimentContext(folder, root / "out") as context:
        save_weights(permuted(context.net("net1")), folder.net_folder(net1._replace(name="net2")))
    assert main(["statistics", str(root / "c.toml"), "--runs", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def results(place):
    assert main(["stitch", str(place / "c.toml"), "--runs", str(place)]) == 0
    return read_results(place / "stitched" / "functional" / "stitch.h5")


@pytest.fixture
def context(place, tmp_path):
    folder = RunFolder(place / "stitched", read_config(place / "c.toml"))
    with ExperimentContext(folder, tmp_path) as found:
        yield found


def permuted(net: torch.nn.Module) -> torch.nn.Module:
    """The same function with the units of every hidden layer in another order, permuted by hand."""
    generator = torch.Generator().manual_seed(3)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for layer, following, positions in (("conv1", "conv2", 1), ("conv2", "fc1", 4), ("fc1", "classifier", 1)):
        order = torch.randperm(len(state[f"{layer}.weight"]), generator=generator)
        state[f"{layer}.weight"] = state[f"{layer}.weight"][order]
        state[f"{layer}.bias"] = state[f"{layer}.bias"][order]
        weight = state[f"{following}.weight"]
        inputs = weight.unflatten(1, (len(order), positions)) if weight.ndim == 2 else weight
        state[f"{following}.weight"] = inputs[:, order].reshape(weight.shape)
    net.load_state_dict(state)
    return net


def test_permuted_twin_replaces_every_layer(results, context):
    plain = context.score({"net1": context.net("net1")})["net1"]
    for comparison in ("conv2", "fc1"):
        maps = maps_of(results, comparison, "net2")
        np.testing.assert_array_equal(maps["own"].scores.correct, plain.correct)
        np.testing.assert_allclose(maps["own"].scores.loss, plain.loss, rtol=1e-6)
        for name in ("one_to_one", "soft", "sparse_1", "least_squares"):
            np.testing.assert_allclose(maps[name].scores.loss, plain.loss, rtol=5e-3, atol=2e-3)
            assert maps[name].accuracy_minus_own.value == 0
        assert maps["permuted"].accuracy.value < maps["own"].accuracy.value - 0.2
        assert maps["mean"].accuracy.value < 0.3
        assert maps["rotated"].explained < 0.9 < maps["one_to_one"].explained


def maps_of(results, comparison, b):
    """Scores of net1 stitched from net ``b``, by map."""
    return {row.map: row for row in results.tables.maps if (row.comparison, row.b) == (comparison, b)}


def replaced(results, comparison, b, kind):
    """Effects of replacing units of net1 by those of net ``b``."""
    key = comparison, b, kind
    return [row for row in results.tables.unit_replacements if (row.comparison, row.b, row.kind) == key]


def test_transplanting_an_equal_unit_has_no_effect(results):
    for comparison in ("conv2", "fc1"):
        gains = {kind: [u.gain for u in replaced(results, comparison, "net2", kind)] for kind in KINDS}
        strength = [u.strength for u in replaced(results, comparison, "net2", "transplanted")]
        np.testing.assert_allclose(strength, 1, atol=1e-5)
        np.testing.assert_allclose(gains["transplanted"], 0, atol=1e-5)
        np.testing.assert_allclose(gains["shuffled"], 0, atol=1e-4)
        assert max(gains["ablated"]) > 1e-3
        other = replaced(results, comparison, "untrained1", "transplanted")
        assert max(u.strength for u in other) < 0.999
        assert np.mean([u.gain for u in other]) > 1e-4
        own = {row.b: row.own.loss for row in results.tables.transplanted_layers if row.comparison == comparison}
        np.testing.assert_array_equal(own["untrained1"], own["net2"])


def test_replacing_all_units_equals_one_to_one_stitch(results):
    for comparison in ("conv2", "fc1"):
        for b in ("net2", "untrained1"):
            maps = maps_of(results, comparison, b)
            steps = [row for row in results.tables.cumulative if (row.comparison, row.b) == (comparison, b)]
            found = {order: [s.accuracy.value for s in steps if s.order == order] for order in ORDERS}
            for values in found.values():
                assert values[0] == maps["own"].accuracy.value
                assert values[-1] == found["best"][-1]
                if b == "net2":  # units of the untrained net may have no partner
                    assert values[-1] == maps["one_to_one"].accuracy.value


def test_soft_matching_maps_from_a_wider_net(results):
    assert all(np.isfinite(maps_of(results, name, "wide1")["soft"].loss.value) for name in ("conv2", "fc1"))
    widths = {row.comparison: (row.n_a, row.n_b) for row in results.tables.pairs if row.b == "wide1"}
    assert widths == {"conv2": (8, 8), "fc1": (12, 14)}


def test_many_maps_in_one_pass_equal_single_passes(context):
    comparison = context.comparisons()[0]
    network = StitchedNetwork(context, comparison, "net1", "untrained1")
    mappings, masks = {}, [None, np.arange(8) % 2 == 0, np.zeros(8, dtype=bool)]
    for half in (0, 1):
        fit = LayerFit.of(context, comparison.name, "net1", "untrained1", half)
        mappings[half] = [fit.affine_map(w) for w in (fit.least_squares(), fit.one_to_one(fit.matched()), fit.soft())]
    plain = context.cross_fitted(
        lambda half: {k: lambda images, k=k: network.through(images, mappings[half][k], masks[k]) for k in range(3)}
    )
    quick = cross_fitted(context, [0, 1, 2], lambda half: network.through_many(mappings[half], masks), network.own)
    for k in range(3):
        np.testing.assert_array_equal(plain[k].correct, quick[k].correct)
        np.testing.assert_allclose(plain[k].loss, quick[k].loss, rtol=1e-5)
    np.testing.assert_array_equal(quick[2].correct, quick[None].correct)


def test_maps_recover_planted_weights():
    rng = np.random.default_rng(0)
    b = rng.standard_normal((4000, 8))
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    rotated = fit_of(b, 3 + 2 * b @ rotation)
    assert rotated.explained(rotated.least_squares()) == pytest.approx(1)
    assert rotated.explained(rotated.one_to_one(rotated.matched())) < 0.6
    assert rotated.explained(rotated.orthogonal()) == pytest.approx(1)
    np.testing.assert_allclose(rotated.affine_map(rotated.orthogonal()).weights, 2 * rotation.T, atol=1e-12)
    stretched = fit_of(b, b * np.linspace(1, 3, 8) @ rotation)
    weights = stretched.affine_map(stretched.orthogonal()).weights
    np.testing.assert_allclose(weights @ weights.T / np.trace(weights @ weights.T) * 8, np.eye(8), atol=1e-10)
    assert stretched.explained(stretched.orthogonal()) < 0.95
    three = np.zeros((8, 5))
    for target in range(5):
        three[rng.permutation(8)[:3], target] = [1.0, -0.8, 0.6]
    few = fit_of(b, b @ three + 1)
    weights = few.sparse([1, 3])
    assert few.explained(weights[3]) == pytest.approx(1)
    assert few.explained(weights[1]) < 0.7
    np.testing.assert_array_equal(np.abs(few.affine_map(weights[3]).weights) > 1e-6, three.T != 0)
    np.testing.assert_allclose(few.affine_map(weights[3]).bias, 1)
    assert few.explained(few.lasso([1e-4])[1e-4]) > 0.99
    assert few.explained(few.sgd([1e-4], 3000, 0)[1e-4]) > 0.98


def test_dead_units_and_units_without_partner_get_their_mean():
    rng = np.random.default_rng(1)
    b, a = rng.standard_normal((500, 3)), rng.standard_normal((500, 4))
    fit = fit_of(b, a, n_b=5, n_a=6)  # the last two of each carry nothing
    for weights in (fit.one_to_one(fit.matched()), fit.soft(), fit.least_squares(), fit.rotated(rng)):
        mapping = fit.affine_map(weights)
        assert mapping.weights.shape == (6, 5)
        assert not mapping.weights[4:].any()
        assert not mapping.weights[:, 3:].any()
        np.testing.assert_array_equal(mapping.bias[4:], fit.mean_a[4:])
    left_over = np.flatnonzero(fit.matched().unit < 0)
    assert len(left_over) == 1
    assert fit.affine_map(fit.one_to_one(fit.matched())).bias[left_over] == fit.mean_a[left_over]


def fit_of(b: np.ndarray, a: np.ndarray, n_b: int | None = None, n_a: int | None = None) -> LayerFit:
    """A fit from samples (n, units) of both layers; units beyond them are dead, with a mean of 7."""
    both = np.cov(np.hstack([b, a]).T, bias=True)
    k = b.shape[1]
    means = [np.append(x.mean(axis=0), np.full((n or x.shape[1]) - x.shape[1], 7.0)) for x, n in ((b, n_b), (a, n_a))]
    moments = PairMoments.of(float(len(b)), both[:k, :k], both[:k, k:], both[k:, k:])
    return LayerFit(moments, np.arange(k), np.arange(a.shape[1]), *means)


@pytest.mark.parametrize(
    ("network", "layer", "bypassed"),
    [
        ({"name": "small", "channels": [4, 4]}, "conv1", False),
        ({"name": "torchvision:resnet18"}, "layer1.0.conv1", True),
        ({"name": "torchvision:resnet18"}, "layer1.0.conv2", False),
        ({"name": "torchvision:mobilenet_v2"}, "features.3.conv.0.0", True),
        ({"name": "tests.pipeline.test_stitching:Tokens"}, "mix", False),
        ({"name": "tests.pipeline.test_stitching:Tokens"}, "queries", True),
    ],
)  # fmt: skip
def test_split_network_computes_the_net(network, layer, bypassed):
    name = network["name"]
    kind = "torchvision" if name.startswith("torchvision") else "factory" if ":" in name else name
    spec = NETWORKS.load(kind).model_validate(network)
    net = initialise(spec, 0, (3, 32, 32), 5).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    split = SplitNetwork(net, layer, images)
    assert bool(split.bypassing) == bypassed
    value, *passing = split.front(images)
    with torch.no_grad():
        logits = net(images)
    torch.testing.assert_close(split.back(value, *passing), logits)
    other = torch.stack([value, value * 0.5])
    many = split.back_of_many(other, *passing)
    torch.testing.assert_close(many[0], logits)
    torch.testing.assert_close(many[1], split.back(other[1], *passing), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(many[1], logits, atol=0)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_planted_rank_correlation_is_found():
    rng = np.random.default_rng(0)
    strength = rng.uniform(0, 1, 20)
    own = np.ones(6)
    harm = {"transplanted": 1 - strength, "random": rng.uniform(0, 1, 20), "shuffled": 1 - strength,
            "ablated": np.full(20, 2.0)}  # fmt: skip
    loss = {kind: own + 100 * (gain[:, None] + 0.01 * rng.standard_normal((20, 6))) for kind, gain in harm.items()}
    scores = Scores(np.full(6, 100.0), np.zeros(6), own)
    correct = {kind: np.zeros((20, 6)) for kind in KINDS}
    effects = UnitEffects(np.arange(20), strength, scores, correct, loss)
    ranks = {row.kind: row for row in effects.ranks("conv1", "a", "b", seed=0)}
    found = ranks["transplanted"]
    assert found.rank.value < -0.95
    assert found.p < 0.005
    assert abs(found.rank.null) < 0.05
    assert ranks["share"].rank.value > 0.95
    share = {row.kind: row.of_ablation for row in effects.means("conv1", "a", "b")}["transplanted"]
    assert share.value == pytest.approx((1 - strength).mean() / 2, abs=0.01)
    assert spearman(np.arange(5.0), np.ones(5)) == 0
    harmless = UnitEffects(np.arange(20), strength, scores, correct, loss | {"ablated": loss["random"] * 0 + 1})
    assert all(row.of_ablation is None for row in harmless.means("conv1", "a", "b")), "no share of a zero effect"


def test_unknown_names_are_refused(place):
    with pytest.raises(ConfigError, match='no layer "conv9"'):
        SplitNetwork(
            initialise(NETWORKS.load("small").model_validate({"name": "small"}), 0, (1, 8, 8), 3),
            "conv9",
            torch.rand(2, 1, 8, 8),
        )
    folder = RunFolder(place / "stitched", read_config(place / "c.toml"))
    with ExperimentContext(folder, place / "out") as context:
        for change, message in (
            ({"pairs": (("net1", "nett2"),)}, 'no net "nett2"; did you mean "net2"'),
            ({"comparisons": ("conv3",)}, 'no comparison "conv3"; did you mean'),
        ):
            config = context.config.model_copy(update={"stitch": context.config.stitch.model_copy(update=change)})
            context.config = config
            with pytest.raises(ConfigError, match=message):
                stitching.tasks(context)
            context.config = folder.experiment.functional


def test_statistics_of_other_images_are_refused(place, results, capsys):
    before = datasets(place / "stitched" / "functional" / "stitch.h5")
    assert main(["stitch", str(place / "c.toml"), "--runs", str(place), "--set", "statistics.max_images=200"]) == 2
    assert '"statistics" was made with other settings' in capsys.readouterr().err
    assert datasets(place / "stitched" / "functional" / "stitch.h5") == before


def test_layers_of_other_positions_are_skipped_with_reason(context):
    comparison = context.comparisons()[0].model_copy(
        update={"name": "unequal", "layers": {"net": "conv1", "untrained": "conv2"}}
    )
    with pytest.raises(ConfigError, match="needs the same positions"):
        StitchedNetwork(context, comparison, "net1", "untrained1")
    (skipped,) = stitching.stitched(context, comparison, "net1", "untrained1").skipped
    assert "needs the same positions" in skipped.reason


def test_non_finite_unit_is_refused(context, monkeypatch):
    sums = context.sums("conv2")
    broken = sums.group_sums.copy()
    broken[0, 0] = np.inf
    object.__setattr__(sums, "group_sums", broken)
    monkeypatch.setattr(context, "sums", lambda name: sums)
    with pytest.raises(UserError, match="unit 0 of net1 is not finite"):
        LayerFit.of(context, "conv2", "net1", "net2", 0)


@pytest.mark.slow
def test_killed_stage_resumes_with_same_bits(place, results, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(place / "stitched", tmp_path / "stitched"))
    shutil.rmtree(copy / "functional")
    folder = RunFolder(copy, read_config(place / "c.toml"))
    made = []

    def killed(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args)
        return transplants(*args)

    transplants = stitching.transplants
    monkeypatch.setattr(stitching, "transplants", killed)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(folder, "stitch")
    partial = copy / "functional" / "stitch.partial"
    times = {path: path.stat().st_mtime_ns for path in partial.glob("*.h5")}
    assert len(times) == 7
    monkeypatch.setattr(stitching, "transplants", transplants)
    run_experiment(folder, "stitch")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    whole = place / "stitched" / "functional" / "stitch.h5"
    assert datasets(copy / "functional" / "stitch.h5") == datasets(whole)


@pytest.mark.drawn
def test_chapter_is_complete(results, tmp_path):
    found = chapter(results)
    text = " ".join(found.sentences)
    assert found.title.endswith("?")
    assert "Stitching conv2 from another trained net by least squares keeps" in text
    assert "nan" not in text
    assert {table.caption.split(",")[0] for table in found.tables} >= {"Accuracy of stitched nets"}
    for drawing in found.drawings:
        written = drawing.save(tmp_path, tmp_path, ("svg",))
        assert written["svg"].stat().st_size > 1000
        assert drawing.rows
    assert len(found.drawings) == 4
