"""Stitching: nets with a layer of another, on a net whose twin has the same units in another order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError, UserError
from convergence.functional import stitching
from convergence.functional.bench import Bench
from convergence.functional.cutting import Cut
from convergence.functional.effects import Effects, spearman
from convergence.functional.file import read_results
from convergence.functional.mappings import Fit
from convergence.functional.run import functional
from convergence.functional.stitcher import Stitcher, cross_fitted
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


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Trained nets and their statistics; net2 is net1 with its units in another order."""
    root = tmp_path_factory.mktemp("stitch")
    (root / "c.toml").write_text(CONFIG, encoding="utf-8")
    assert main(["train", str(root / "c.toml"), "--runs", str(root)]) == 0
    folder = RunFolder(root / "stitched", read_config(root / "c.toml"))
    net1 = next(net for net in folder.experiment.all_nets() if net.name == "net1")
    with Bench(folder, root / "out") as bench:
        save_weights(permuted(bench.net("net1")), folder.net_folder(net1._replace(name="net2")))
    assert main(["statistics", str(root / "c.toml"), "--runs", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def results(place):
    assert main(["stitch", str(place / "c.toml"), "--runs", str(place)]) == 0
    return read_results(place / "stitched" / "functional" / "stitch.h5")


@pytest.fixture
def bench(place, tmp_path):
    folder = RunFolder(place / "stitched", read_config(place / "c.toml"))
    with Bench(folder, tmp_path) as found:
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


def test_a_permuted_twin_takes_the_place_of_every_layer(results, bench):
    plain = bench.score({"net1": bench.net("net1")})["net1"]
    for pairs in results.tree.values():
        maps = pairs["net1|net2"]["stitched"]["maps"]
        np.testing.assert_array_equal(maps["own"]["scores"]["correct"], plain.correct)
        np.testing.assert_allclose(maps["own"]["scores"]["loss"], plain.loss, rtol=1e-6)
        for name in ("one_to_one", "soft", "sparse_1", "least_squares"):
            np.testing.assert_allclose(maps[name]["scores"]["loss"], plain.loss, rtol=5e-3, atol=2e-3)
            assert maps[name]["accuracy_minus_own"]["value"] == 0
        assert maps["permuted"]["accuracy"]["value"] < maps["own"]["accuracy"]["value"] - 0.2
        assert maps["mean"]["accuracy"]["value"] < 0.3
        assert maps["rotated"]["explained"] < 0.9 < maps["one_to_one"]["explained"]


def test_a_unit_whose_partner_is_its_equal_has_no_effect(results):
    for pairs in results.tree.values():
        found = pairs["net1|net2"]["transplants"]
        np.testing.assert_allclose(found["strength"], 1, atol=1e-5)
        np.testing.assert_allclose(found["kinds"]["transplanted"]["gain"], 0, atol=1e-5)
        np.testing.assert_allclose(found["kinds"]["shuffled"]["gain"], 0, atol=1e-4)
        assert found["kinds"]["ablated"]["gain"].max() > 1e-3
        other = pairs["net1|untrained1"]["transplants"]
        assert (other["strength"] < 0.999).all()
        assert other["kinds"]["transplanted"]["mean"]["value"] > 1e-4
        np.testing.assert_array_equal(other["own_loss"], found["own_loss"])


def test_all_units_replaced_together_are_the_one_to_one_stitch(results):
    for pairs in results.tree.values():
        for key in ("net1|net2", "net1|untrained1"):
            tree = pairs[key]
            maps, together = tree["stitched"]["maps"], tree["cumulative"]
            for order in ("best", "worst", "random"):
                assert together[order]["value"][0] == maps["own"]["accuracy"]["value"]
                assert together[order]["value"][-1] == together["best"]["value"][-1]
                if key == "net1|net2":  # of the other pair some units may have no partner, and keep their own values
                    assert together[order]["value"][-1] == maps["one_to_one"]["accuracy"]["value"]


def test_a_wider_net_gives_by_soft_matching(results):
    for pairs in results.tree.values():
        tree = pairs["net1|wide1"]["stitched"]
        assert np.isfinite(tree["maps"]["soft"]["loss"]["value"])
    assert (results.tree["conv2"]["net1|wide1"]["stitched"]["n_a"], tree["n_b"]) == (8, 14)


def test_many_maps_at_once_are_the_definition(bench):
    comparison = bench.comparisons()[0]
    stitcher = Stitcher(bench, comparison, "net1", "untrained1")
    mappings, masks = {}, [None, np.arange(8) % 2 == 0, np.zeros(8, dtype=bool)]
    for half in (0, 1):
        fit = Fit.of(bench, comparison.name, "net1", "untrained1", half)
        mappings[half] = [fit.mapping(w) for w in (fit.least_squares(), fit.one_to_one(fit.matched()), fit.soft())]
    plain = bench.cross_fitted(
        lambda half: {k: lambda images, k=k: stitcher.through(images, mappings[half][k], masks[k]) for k in range(3)}
    )
    quick = cross_fitted(bench, [0, 1, 2], lambda half: stitcher.through_many(mappings[half], masks), stitcher.own)
    for k in range(3):
        np.testing.assert_array_equal(plain[k].correct, quick[k].correct)
        np.testing.assert_allclose(plain[k].loss, quick[k].loss, rtol=1e-5)
    np.testing.assert_array_equal(quick[2].correct, quick[None].correct)


def test_maps_find_what_was_planted():
    rng = np.random.default_rng(0)
    b = rng.standard_normal((4000, 8))
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    rotated = fit_of(b, 3 + 2 * b @ rotation)
    assert rotated.explained(rotated.least_squares()) == pytest.approx(1)
    assert rotated.explained(rotated.one_to_one(rotated.matched())) < 0.6
    three = np.zeros((8, 5))
    for target in range(5):
        three[rng.permutation(8)[:3], target] = [1.0, -0.8, 0.6]
    few = fit_of(b, b @ three + 1)
    weights = few.sparse([1, 3])
    assert few.explained(weights[3]) == pytest.approx(1)
    assert few.explained(weights[1]) < 0.7
    np.testing.assert_array_equal(np.abs(few.mapping(weights[3]).weights) > 1e-6, three.T != 0)
    np.testing.assert_allclose(few.mapping(weights[3]).bias, 1)
    assert few.explained(few.lasso([1e-4])[1e-4]) > 0.99
    assert few.explained(few.sgd([1e-4], 3000, 0)[1e-4]) > 0.98


def test_units_that_carry_nothing():
    rng = np.random.default_rng(1)
    b, a = rng.standard_normal((500, 3)), rng.standard_normal((500, 4))
    fit = fit_of(b, a, n_b=5, n_a=6)  # the last two of each carry nothing
    for weights in (fit.one_to_one(fit.matched()), fit.soft(), fit.least_squares(), fit.rotated(rng)):
        mapping = fit.mapping(weights)
        assert mapping.weights.shape == (6, 5)
        assert not mapping.weights[4:].any()
        assert not mapping.weights[:, 3:].any()
        np.testing.assert_array_equal(mapping.bias[4:], fit.mean_a[4:])
    left_over = np.flatnonzero(fit.matched().unit < 0)
    assert len(left_over) == 1
    assert fit.mapping(fit.one_to_one(fit.matched())).bias[left_over] == fit.mean_a[left_over]


def fit_of(b: np.ndarray, a: np.ndarray, n_b: int | None = None, n_a: int | None = None) -> Fit:
    """A fit from samples (n, units) of both layers; units beyond them are dead, with a mean of 7."""
    both = np.cov(np.hstack([b, a]).T, bias=True)
    k = b.shape[1]
    means = [np.append(x.mean(axis=0), np.full((n or x.shape[1]) - x.shape[1], 7.0)) for x, n in ((b, n_b), (a, n_a))]
    moments = PairMoments(float(len(b)), both[:k, :k], both[:k, k:], both[k:, k:])
    return Fit(moments, np.arange(k), np.arange(a.shape[1]), *means)


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
def test_a_net_is_its_halves(network, layer, bypassed):
    name = network["name"]
    kind = "torchvision" if name.startswith("torchvision") else "factory" if ":" in name else name
    spec = NETWORKS.load(kind).model_validate(network)
    net = initialise(spec, 0, (3, 32, 32), 5).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    cut = Cut(net, layer)
    assert bool(cut.bypassing) == bypassed
    value, *passing = cut.front(images)
    with torch.no_grad():
        logits = net(images)
    torch.testing.assert_close(cut.back(value, *passing), logits)
    other = torch.stack([value, value * 0.5])
    many = cut.back_of_many(other, *passing)
    torch.testing.assert_close(many[0], logits)
    torch.testing.assert_close(many[1], cut.back(other[1], *passing), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(many[1], logits, atol=0)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_rank_correlation_of_what_was_planted():
    rng = np.random.default_rng(0)
    strength = rng.uniform(0, 1, 20)
    own = np.ones(6)
    harm = {"transplanted": 1 - strength, "random": rng.uniform(0, 1, 20), "shuffled": 1 - strength,
            "ablated": np.full(20, 2.0)}  # fmt: skip
    loss = {kind: own + 100 * (gain[:, None] + 0.01 * rng.standard_normal((20, 6))) for kind, gain in harm.items()}
    tree = Effects(np.arange(20), strength, np.full(6, 100.0), own, loss).tree(seed=0)
    rank = tree["ranks"]["transplanted"]
    assert rank["value"] < -0.95
    assert rank["p"] < 0.005
    assert abs(rank["null"]) < 0.05
    assert tree["ranks"]["share"]["value"] > 0.95
    assert tree["kinds"]["transplanted"]["of_ablation"]["value"] == pytest.approx((1 - strength).mean() / 2, abs=0.01)
    assert spearman(np.arange(5.0), np.ones(5)) == 0
    harmless = Effects(np.arange(20), strength, np.full(6, 100.0), own, loss | {"ablated": loss["random"] * 0 + 1})
    assert harmless.tree(seed=0)["kinds"]["transplanted"]["of_ablation"] == {}  # no share of nothing


def test_names_that_are_not_there(place):
    with pytest.raises(ConfigError, match='no layer "conv9"'):
        Cut(initialise(NETWORKS.load("small").model_validate({"name": "small"}), 0, (1, 8, 8), 3), "conv9")
    folder = RunFolder(place / "stitched", read_config(place / "c.toml"))
    with Bench(folder, place / "out") as bench:
        for change, message in (
            ({"pairs": (("net1", "nett2"),)}, 'no net "nett2"; did you mean "net2"'),
            ({"comparisons": ("conv3",)}, 'no comparison "conv3"; did you mean'),
        ):
            config = bench.config.model_copy(update={"stitch": bench.config.stitch.model_copy(update=change)})
            bench.config = config
            with pytest.raises(ConfigError, match=message):
                stitching.pieces(bench)
            bench.config = folder.experiment.functional


def test_sums_of_other_images_are_refused(place, results, capsys):
    before = datasets(place / "stitched" / "functional" / "stitch.h5")
    assert main(["stitch", str(place / "c.toml"), "--runs", str(place), "--set", "statistics.max_images=200"]) == 2
    assert '"statistics" was made with other settings' in capsys.readouterr().err
    assert datasets(place / "stitched" / "functional" / "stitch.h5") == before


def test_maps_of_other_sizes_are_left_out_with_the_reason(bench):
    comparison = bench.comparisons()[0].model_copy(
        update={"name": "unequal", "layers": {"net": "conv1", "untrained": "conv2"}}
    )
    with pytest.raises(ConfigError, match="needs the same"):
        Stitcher(bench, comparison, "net1", "untrained1")
    assert "needs the same" in stitching.stitched(bench, comparison, "net1", "untrained1")["left_out"]


def test_a_net_with_units_that_are_not_finite_is_refused(bench, monkeypatch):
    sums = bench.sums("conv2")
    broken = sums.group_sums.copy()
    broken[0, 0] = np.inf
    object.__setattr__(sums, "group_sums", broken)
    monkeypatch.setattr(bench, "sums", lambda name: sums)
    with pytest.raises(UserError, match="unit 0 of net1 is not finite"):
        Fit.of(bench, "conv2", "net1", "net2", 0)


def test_a_killed_stage_goes_on_with_the_same_bits(place, results, tmp_path, monkeypatch):
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
        functional(folder, "stitch")
    partial = copy / "functional" / "stitch.partial"
    times = {path: path.stat().st_mtime_ns for path in partial.glob("*.h5")}
    assert len(times) == 7
    monkeypatch.setattr(stitching, "transplants", transplants)
    functional(folder, "stitch")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    whole = place / "stitched" / "functional" / "stitch.h5"
    assert datasets(copy / "functional" / "stitch.h5") == datasets(whole)


def test_the_chapter(results, tmp_path):
    found = chapter(results)
    text = " ".join(found.sentences)
    assert found.title.endswith("?")
    assert "conv2: of an accuracy of" in text
    assert "nan" not in text
    assert {table.caption.split(",")[0] for table in found.tables} >= {"Accuracy of stitched nets"}
    for drawing in found.drawings:
        written = drawing.save(tmp_path, tmp_path, ("svg",))
        assert written["svg"].stat().st_size > 1000
        assert drawing.rows
    assert len(found.drawings) == 4
