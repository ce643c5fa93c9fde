"""Averaging: planted permutations are undone, and averages are those of their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convergence.cli import main
from convergence.config.load import read_config
from convergence.config.stages import TrainingConfig
from convergence.data.images import ArrayImages
from convergence.errors import SharedError
from convergence.functional.averaging.averaging_round import broadcast_bytes, reduced_bytes
from convergence.functional.averaging.local_sgd import LocalSGD, Start, moments, put_moments
from convergence.functional.file import read_results
from convergence.functional.surgery.alignment import ActivationMatcher, mean_state, moved, random_orders, weight_orders
from convergence.functional.surgery.permutations import permutation_groups, permuted_state
from convergence.functional.surgery.repair import reestimate_batch_norm
from convergence.networks.small import Small
from convergence.report.chapters.average import chapter
from convergence.report.tables import MISSING
from convergence.training.loop import train_jointly
from convergence.training.process_group import ProcessGroup
from convergence.training.trainer import Candidate, Trainer

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NETWORK = Small(name="small", channels=(8, 16), hidden=(32,))
TOML = """
name = "averaged"
[data]
name = "digits"
[[nets]]
seeds = [1, 2]
network = { name = "small", channels = [8, 16], hidden = [32] }
[training]
epochs = 12
batch_size = 100            # twelve of them and 58
optimizer = "adamw"
learning_rate = 0.01
threads = 1
[statistics]
comparisons = ["conv1", "conv2", "fc1"]
groups = 5
[functional.average]
workers = 3
epochs = 4
local_steps = [8, "whole"]
repeats = 2
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    from convergence.data.digits import Digits

    return Digits(name="digits").load()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory) -> Path:
    """A run with nothing but averaging done."""
    root = tmp_path_factory.mktemp("averaged")
    (root / "c.toml").write_text(TOML, encoding="utf-8")
    assert main(["average", str(root / "c.toml"), "--runs", str(root / "runs")]) == 0
    return root


def local_sgd_of(images, seeds, common, config, tmp_path, ranks=None, network=NETWORK) -> LocalSGD:
    start, place = Start(network, tuple(seeds), common), tmp_path / "training"
    return LocalSGD(start, images, config, ranks or ProcessGroup(), CPU, place, "key")


def average(states, weights):
    """The mean in float64, by images seen."""
    return mean_state(states, [weight / sum(weights) for weight in weights], torch.float64)


def net_with(state) -> nn.Module:
    net = NETWORK.build((1, 8, 8), 10)
    net.load_state_dict(state)
    return net.eval()


# ---- averages ----


def test_mean_weights_workers_by_images_seen():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([4.0, 8.0]), "n": torch.tensor(5)},
    ]
    mean = average(states, [2, 1])
    torch.testing.assert_close(mean["w"], torch.tensor([2.0, 4.0]))
    assert mean["w"].dtype == torch.float32
    assert int(mean["n"]) == 3


def test_bytes_equal_those_of_a_ring_all_reduce():
    """A ring all-reduce of K pieces, step by step, counting what each worker sends."""
    workers, piece = 5, 7
    values = [[float(k + j) for j in range(workers)] for k in range(workers)]
    total = [sum(values[k][j] for k in range(workers)) for j in range(workers)]
    sent = [0] * workers
    for adding, turns in ((True, workers - 1), (False, workers - 1)):
        for turn in range(turns):
            out = [(k, (k - turn + (not adding)) % workers) for k in range(workers)]
            for (k, j), value in [((k, j), values[k][j]) for k, j in out]:
                there = (k + 1) % workers
                values[there][j] = values[there][j] + value if adding else value
                sent[k] += piece
    assert values == [total] * workers
    assert sent == [reduced_bytes(workers * piece, workers)] * workers
    assert broadcast_bytes(workers * piece, workers) == (workers - 1) * piece


def test_averaging_each_step_equals_synchronous_training(digits, tmp_path):
    """SGD without momentum; parts of a batch differ by an image, and in the last one a worker has none."""
    config = TrainingConfig(epochs=2, batch_size=157, momentum=0.0, learning_rate=0.05, threads=1)
    together = local_sgd_of(digits.train, [1], None, config, tmp_path / "one")
    together.run(None, lambda *_: None)
    apart = local_sgd_of(digits.train, [1, 2, 3], 1, config, tmp_path / "three")
    apart.run(1, lambda found, _: apart.load_state(average([state for state, _ in found.values()], apart.seen)))
    for name, value in together.gathered()[0][0].items():
        torch.testing.assert_close(apart.gathered()[0][0][name], value, rtol=1e-4, atol=1e-5)
    rarely = local_sgd_of(digits.train, [1, 2, 3], 1, config, tmp_path / "rarely")
    rarely.run(9, lambda found, _: rarely.load_state(average([state for state, _ in found.values()], rarely.seen)))
    assert rarely.seen == [0, 0, 0]
    difference = max((rarely.gathered()[0][0][n] - v).abs().max() for n, v in together.gathered()[0][0].items())
    assert difference > 1e-3


def test_one_worker_has_the_bits_of_the_training_stage(digits, tmp_path):
    config = TrainingConfig(epochs=1, batch_size=64, optimizer="adamw", learning_rate=0.003, threads=1)
    train_jointly([(tmp_path / "net", NETWORK, 5)], digits, config)
    from convergence.networks.weights import load_net

    training = local_sgd_of(digits.train, [5], None, config, tmp_path)
    training.run(None, lambda *_: None)
    for name, value in load_net(tmp_path / "net", NETWORK, (1, 8, 8), 10).state_dict().items():
        assert torch.equal(training.gathered()[0][0][name], value)


def test_non_finite_loss_of_a_worker_ends_the_training(digits, tmp_path):
    config = TrainingConfig(epochs=3, batch_size=64, learning_rate=1e18, threads=1)
    training = local_sgd_of(digits.train, [1, 2], 1, config, tmp_path)
    with pytest.raises(SharedError, match=r"worker\d: the loss became (nan|inf).*Lower training.learning_rate"):
        training.run(None, lambda *_: None)


# ---- alignment ----


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """State of a net that is far above chance, and its groups."""
    config = TrainingConfig(epochs=6, batch_size=64, optimizer="adamw", learning_rate=0.01, threads=1)
    training = local_sgd_of(digits.train, [3], None, config, tmp_path_factory.mktemp("trained"))
    training.run(None, lambda *_: None)
    state = training.gathered()[0][0]
    return state, [group for group in permutation_groups(net_with(state), (1, 8, 8)) if not group.fixed]


def test_average_of_aligned_permuted_copies_is_the_net(digits, trained):
    state, groups = trained
    generator = np.random.default_rng(0)
    images = torch.from_numpy(digits.test.images)
    labels = torch.from_numpy(digits.test.labels)
    copies = [permuted_state(state, groups, random_orders(groups, generator)) for _ in range(3)]
    matcher = ActivationMatcher(net_with(state), groups, [images[:200]])

    def by_activations(copy):
        return matcher.match(matcher.activations(state), matcher.activations(copy))

    def by_weights(copy):
        return weight_orders(state, copy, groups, 1, 0)

    def accuracy(net):
        return (net(images).argmax(1) == labels).float().mean()

    with torch.no_grad():
        whole = net_with(state)
        plain = net_with(average([state, *copies], [1, 1, 1, 1]))
        assert accuracy(whole) > 0.9
        assert accuracy(plain) < accuracy(whole) - 0.2
        for match in (by_weights, by_activations):
            aligned = [permuted_state(copy, groups, match(copy)) for copy in copies]
            mean = net_with(average([state, *aligned], [1, 1, 1, 1]))
            torch.testing.assert_close(mean(images), whole(images), rtol=1e-4, atol=1e-4)


def test_aligned_copy_is_not_permuted(trained):
    state, groups = trained
    noisy = {name: value + 0.01 * torch.randn(value.shape) for name, value in state.items()}
    assert moved(weight_orders(state, noisy, groups, 1, 0)) == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_moments_are_permuted_with_weights(digits, trained, optimizer):
    """A permuted worker goes on as the worker would have gone on, permuted."""
    _, groups = trained
    config = TrainingConfig(epochs=1, batch_size=32, optimizer=optimizer, learning_rate=0.01, threads=1)
    one, other, forgetful = (Trainer(Candidate(Path("net"), NETWORK, 4), digits, config, CPU) for _ in range(3))
    batch, labels = torch.from_numpy(digits.train.images[:64]), torch.from_numpy(digits.train.labels[:64])
    orders = random_orders(groups, np.random.default_rng(1))
    for trainer in (one, other, forgetful):
        trainer.start_epoch()
        for _ in range(5):
            trainer.step(batch, labels, 0.01)
    assert set(moments(one)) == ({"momentum_buffer"} if optimizer == "sgd" else {"exp_avg", "exp_avg_sq"})
    for trainer in (other, forgetful):
        trainer.module.load_state_dict(permuted_state(trainer.module.state_dict(), groups, orders))
    state = other.module.state_dict()
    put_moments(
        other,
        {
            kind: {name: permuted_state({**state, **arrays}, groups, orders)[name] for name in arrays}
            for kind, arrays in moments(other).items()
        },
    )
    for trainer in (one, other, forgetful):
        for _ in range(3):
            trainer.step(batch, labels, 0.01)
    wanted = permuted_state(one.module.state_dict(), groups, orders)
    for name, value in other.module.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-5)
    found = forgetful.module.state_dict()
    assert max((found[name] - value).abs().max() for name, value in wanted.items()) > 1e-3


def test_batch_norm_statistics_are_estimated_again():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)).eval()
    batches = [torch.randn(50, 1, 6, 6, generator=generator) for _ in range(4)]
    with torch.no_grad():
        maps = torch.stack([net[0](batch) for batch in batches])
        reestimate_batch_norm(net, batches)
    torch.testing.assert_close(net[1].running_mean, maps.mean((0, 1, 3, 4)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[1].running_var, maps.var((1, 3, 4)).mean(0), rtol=1e-4, atol=1e-5)
    assert net[1].momentum == 0.1
    assert not any(part.training for part in net.modules())


# ---- the experiment ----


def test_results_on_digits_hold_for_any_seed(averaged):
    """What holds for any seeds: one init averages well, different inits do not, and bytes follow the formula."""
    results = read_results(averaged / "runs/averaged/functional/average.h5")
    found = {(t.init, t.align, "whole" if t.whole else t.every): t for t in results.tables.mean_trainings()}
    other = results.tables.mean_references()
    assert len(found) == 2 * 3 * 2
    size = 4 * sum(p.numel() for p in NETWORK.build((1, 8, 8), 10).parameters())
    steps = 4 * 13
    for (init, align, every), t in found.items():
        assert t.rounds == (1 if every == "whole" else -(-steps // 8))
        plain = t.rounds * reduced_bytes(size, 3)
        if align == "activation":
            assert t.sent > plain
        else:
            assert t.sent == pytest.approx(plain + (t.rounds * broadcast_bytes(size, 3) if align == "weight" else 0))
        assert t.final.lowest <= t.final.accuracy.value <= t.final.highest
        if init == "same" and align == "weight":
            assert t.moved == (0.0, 0.0)
            assert np.array_equal(t.final.scores.loss, found[init, "none", every].final.scores.loss)
        if init == "different" and align != "none":
            assert t.moved[0] > 0.5
    plain, unlike = found["same", "none", 8], found["different", "none", "whole"]
    assert plain.final.accuracy.value > 0.8
    assert plain.final.accuracy.low > unlike.final.accuracy.high
    assert unlike.gain.high < 0
    assert found["same", "none", "whole"].first.accuracy.null < 0.4
    assert found["different", "activation", "whole"].gain.value > unlike.gain.value
    assert other["synchronous"].accuracy.value > plain.final.accuracy.low
    assert other["ensemble"].accuracy.value > other["one_worker"].accuracy.low
    whole = found["same", "none", "whole"]
    assert whole.gain.value == pytest.approx(whole.final.accuracy.value - whole.before.accuracy.value)


def test_chapter_is_complete(averaged):
    made = chapter(read_results(averaged / "runs/averaged/functional/average.h5"))
    text = " ".join(made.sentences)
    assert "alignment moves no unit and changes nothing" in text
    assert "randomly permuted" in text
    assert "nan" not in text + made.about
    assert len(made.tables[0].rows) == 12 + 3
    assert not any("nan" in cell for table in made.tables for row in table.rows for cell in row)
    (drawing,) = made.drawings
    assert len({len(row) for row in drawing.rows} | {len(drawing.columns)}) == 1
    assert MISSING not in text


def test_finished_experiment_is_skipped(averaged, capsys, caplog):
    arguments = ["average", str(averaged / "c.toml"), "--runs", str(averaged / "runs")]
    before = (averaged / "runs/averaged/functional/average.h5").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (averaged / "runs/averaged/functional/average.h5").stat().st_mtime_ns == before
    assert not (averaged / "runs/averaged/functional/average.partial").exists()
    assert main([*arguments, "--net", "net1"]) == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("functional.average.workers=101", "101 workers cannot share a batch of training.batch_size = 100 images"),
        ('functional.average.net="net9"', 'there is no net that is trained here "net9".*Known: net1, net2'),
        ("functional.average.local_steps=[8, 8]", "lists a value twice"),
        ("functional.average.local_steps=[0]", "greater than or equal to 1"),
        ('functional.average.inits=["other"]', "'same' or 'different'"),
        ("training.learning_rate=1e18", r"worker\d: the loss became"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, capsys, change, message):
    import re

    (tmp_path / "c.toml").write_text(TOML, encoding="utf-8")
    assert main(["average", str(tmp_path / "c.toml"), "--runs", str(tmp_path), "--set", change]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "averaged/functional/average.h5").exists()


class Fixed(nn.Module):
    """A net whose units cannot be permuted: a cumulative sum runs over them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.first(images.flatten(1)).relu()
        return self.last(found.cumsum(1))


def fixed(image_shape, n_classes):
    return Fixed()


def test_net_that_cannot_be_permuted_is_averaged_without_alignment(tmp_path, capsys):
    config = tmp_path / "c.toml"
    text = TOML.replace(
        '{ name = "small", channels = [8, 16], hidden = [32] }', '{ name = "tests.pipeline.test_averaging:fixed" }'
    )
    config.write_text(text.replace('["conv1", "conv2", "fc1"]', '["first"]'), encoding="utf-8")
    arguments = ["average", str(config), "--runs", str(tmp_path)]
    assert main(arguments) == 2
    assert "the units of this net cannot be permuted" in capsys.readouterr().err
    more = ["functional.average.alignments=['none']", "functional.average.repeats=1", "functional.average.epochs=1"]
    assert main([*arguments, *(word for one in more for word in ("--set", one))]) == 0
    made = chapter(read_results(tmp_path / "averaged/functional/average.h5"))
    assert "cannot be permuted" in made.about
    assert not any("nan" in cell for table in made.tables for row in table.rows for cell in row)


def test_digest_depends_on_all_settings(tmp_path):
    from convergence.runs.run_folder import RunFolder

    (tmp_path / "c.toml").write_text(TOML, encoding="utf-8")
    digests = set()
    for change in ([], ["functional.average.workers=2"], ["statistics.groups=7"], ["training.learning_rate=0.5"]):
        experiment = read_config(tmp_path / "c.toml", change)
        digests.add(RunFolder(tmp_path, experiment).functional_task("average").digest)
    assert len(digests) == 4


def test_each_image_of_an_epoch_goes_to_one_worker(tmp_path):
    """All workers together see each image of an epoch once, whichever process they are on."""
    images = ArrayImages(np.zeros((23, 1, 2, 2), np.float32), np.arange(23) % 2, ["a", "b"])
    config = TrainingConfig(epochs=1, batch_size=5, threads=1)
    images.labels = np.arange(23)  # marks each image
    seen = []
    for rank in range(2):
        network = Small(name="small", channels=(1,), hidden=())
        training = LocalSGD(Start(network, (0, 1, 2), 0), images, config, ProcessGroup(rank, 2), CPU, tmp_path, "key")
        for _, parts in training._batches(0, 0):
            assert sum(part if isinstance(part, int) else len(part[1]) for part in parts) in (5, 3)
            seen += [int(label) for part in parts if not isinstance(part, int) for label in part[1]]
    assert sorted(seen) == list(range(23))
