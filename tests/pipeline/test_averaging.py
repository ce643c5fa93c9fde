"""Workers that average their weights: planted permutations, the same bits for any processes and after kills."""

from __future__ import annotations

import signal
import time
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
from convergence.functional.aligning import weight_orders
from convergence.functional.averaged import references, trainings
from convergence.functional.file import read_results
from convergence.functional.local_sgd import Crew, Start
from convergence.functional.spaces import permuted_state, unit_spaces
from convergence.functional.worker_alignment import ActivationMatcher, moved, random_orders
from convergence.functional.workers import (
    average,
    broadcast_bytes,
    moments,
    put_moments,
    reduced_bytes,
    reestimate,
)
from convergence.networks.small import Small
from convergence.report.chapters.average import chapter
from convergence.report.tables import MISSING
from convergence.training.loop import train_jointly
from convergence.training.process_group import ProcessGroup
from convergence.training.trainer import Candidate, Trainer
from tests.helpers.runs import datasets
from tests.helpers.torch_processes import finish, start

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
NOISY = TOML.replace(
    '{ name = "small", channels = [8, 16], hidden = [32] }', '{ name = "tests.pipeline.test_resume:noisy" }'
)
PLANTED = """
import time
import convergence.functional.local_sgd as local_sgd
local_sgd.SAVE_SECONDS = 0.0
step = local_sgd.Crew._step
def slow(self, *arguments):
    time.sleep(%s)
    step(self, *arguments)
local_sgd.Crew._step = slow
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


def crew_of(images, seeds, common, config, tmp_path, ranks=None, network=NETWORK) -> Crew:
    return Crew(
        Start(network, tuple(seeds), common), images, config, ranks or ProcessGroup(), CPU, tmp_path / "crew", "key"
    )


def net_with(state) -> nn.Module:
    net = NETWORK.build((1, 8, 8), 10)
    net.load_state_dict(state)
    return net.eval()


# ---- averages ----


def test_the_mean_weighs_workers_by_their_images():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([4.0, 8.0]), "n": torch.tensor(5)},
    ]
    mean = average(states, [2, 1])
    torch.testing.assert_close(mean["w"], torch.tensor([2.0, 4.0]))
    assert mean["w"].dtype == torch.float32
    assert int(mean["n"]) == 3


def test_bytes_are_those_of_a_ring():
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


def test_an_average_each_step_is_synchronous_training(digits, tmp_path):
    """SGD without momentum; parts of a batch differ by an image, and in the last one a worker has none."""
    config = TrainingConfig(epochs=2, batch_size=157, momentum=0.0, learning_rate=0.05, threads=1)
    together = crew_of(digits.train, [1], None, config, tmp_path / "one")
    together.run(None, lambda *_: None)
    apart = crew_of(digits.train, [1, 2, 3], 1, config, tmp_path / "three")
    apart.run(1, lambda found, _: apart.take(average([state for state, _ in found.values()], apart.seen)))
    for name, value in together.gathered()[0][0].items():
        torch.testing.assert_close(apart.gathered()[0][0][name], value, rtol=1e-4, atol=1e-5)
    rarely = crew_of(digits.train, [1, 2, 3], 1, config, tmp_path / "rarely")
    rarely.run(9, lambda found, _: rarely.take(average([state for state, _ in found.values()], rarely.seen)))
    assert rarely.seen == [0, 0, 0]
    difference = max((rarely.gathered()[0][0][n] - v).abs().max() for n, v in together.gathered()[0][0].items())
    assert difference > 1e-3


def test_one_worker_has_the_bits_of_the_training_stage(digits, tmp_path):
    config = TrainingConfig(epochs=1, batch_size=64, optimizer="adamw", learning_rate=0.003, threads=1)
    train_jointly([(tmp_path / "net", NETWORK, 5)], digits, config)
    from convergence.networks.weights import load_net

    crew = crew_of(digits.train, [5], None, config, tmp_path)
    crew.run(None, lambda *_: None)
    for name, value in load_net(tmp_path / "net", NETWORK, (1, 8, 8), 10).state_dict().items():
        assert torch.equal(crew.gathered()[0][0][name], value)


def test_a_worker_without_a_finite_loss_ends_the_training(digits, tmp_path):
    config = TrainingConfig(epochs=3, batch_size=64, learning_rate=1e18, threads=1)
    crew = crew_of(digits.train, [1, 2], 1, config, tmp_path)
    with pytest.raises(SharedError, match=r"worker\d: the loss became (nan|inf).*Lower training.learning_rate"):
        crew.run(None, lambda *_: None)


# ---- alignment ----


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """State of a net that is far above chance, and its spaces."""
    config = TrainingConfig(epochs=6, batch_size=64, optimizer="adamw", learning_rate=0.01, threads=1)
    crew = crew_of(digits.train, [3], None, config, tmp_path_factory.mktemp("trained"))
    crew.run(None, lambda *_: None)
    state = crew.gathered()[0][0]
    return state, [space for space in unit_spaces(net_with(state), (1, 8, 8)) if not space.fixed]


def test_permuted_copies_average_to_the_same_net_when_aligned(digits, trained):
    state, spaces = trained
    generator = np.random.default_rng(0)
    images = torch.from_numpy(digits.test.images)
    labels = torch.from_numpy(digits.test.labels)
    copies = [permuted_state(state, spaces, random_orders(spaces, generator)) for _ in range(3)]
    matcher = ActivationMatcher(net_with(state), spaces, [images[:200]])

    def by_activations(copy):
        return matcher.match(matcher.answers(state), matcher.answers(copy))

    def by_weights(copy):
        return weight_orders(state, copy, spaces, 1, 0)

    def accuracy(net):
        return (net(images).argmax(1) == labels).float().mean()

    with torch.no_grad():
        whole = net_with(state)
        plain = net_with(average([state, *copies], [1, 1, 1, 1]))
        assert accuracy(whole) > 0.9
        assert accuracy(plain) < accuracy(whole) - 0.2
        for match in (by_weights, by_activations):
            aligned = [permuted_state(copy, spaces, match(copy)) for copy in copies]
            mean = net_with(average([state, *aligned], [1, 1, 1, 1]))
            torch.testing.assert_close(mean(images), whole(images), rtol=1e-4, atol=1e-4)


def test_a_copy_that_is_aligned_already_stays(trained):
    state, spaces = trained
    noisy = {name: value + 0.01 * torch.randn(value.shape) for name, value in state.items()}
    assert moved(weight_orders(state, noisy, spaces, 1, 0)) == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_moments_follow_their_weights(digits, trained, optimizer):
    """A permuted worker goes on as the worker would have gone on, permuted."""
    _, spaces = trained
    config = TrainingConfig(epochs=1, batch_size=32, optimizer=optimizer, learning_rate=0.01, threads=1)
    one, other, forgetful = (Trainer(Candidate(Path("net"), NETWORK, 4), digits, config, CPU) for _ in range(3))
    batch, labels = torch.from_numpy(digits.train.images[:64]), torch.from_numpy(digits.train.labels[:64])
    orders = random_orders(spaces, np.random.default_rng(1))
    for trainer in (one, other, forgetful):
        trainer.start_epoch()
        for _ in range(5):
            trainer.step(batch, labels, 0.01)
    assert set(moments(one)) == ({"momentum_buffer"} if optimizer == "sgd" else {"exp_avg", "exp_avg_sq"})
    for trainer in (other, forgetful):
        trainer.module.load_state_dict(permuted_state(trainer.module.state_dict(), spaces, orders))
    state = other.module.state_dict()
    put_moments(
        other,
        {
            kind: {name: permuted_state({**state, **arrays}, spaces, orders)[name] for name in arrays}
            for kind, arrays in moments(other).items()
        },
    )
    for trainer in (one, other, forgetful):
        for _ in range(3):
            trainer.step(batch, labels, 0.01)
    wanted = permuted_state(one.module.state_dict(), spaces, orders)
    for name, value in other.module.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-5)
    found = forgetful.module.state_dict()
    assert max((found[name] - value).abs().max() for name, value in wanted.items()) > 1e-3


def test_batch_statistics_taken_anew():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)).eval()
    batches = [torch.randn(50, 1, 6, 6, generator=generator) for _ in range(4)]
    with torch.no_grad():
        maps = torch.stack([net[0](batch) for batch in batches])
        reestimate(net, batches)
    torch.testing.assert_close(net[1].running_mean, maps.mean((0, 1, 3, 4)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[1].running_var, maps.var((1, 3, 4)).mean(0), rtol=1e-4, atol=1e-5)
    assert net[1].momentum == 0.1
    assert not any(part.training for part in net.modules())


# ---- the experiment ----


def test_what_is_found_on_digits(averaged):
    """What holds for any seeds: one init averages well, different inits do not, and bytes follow the formula."""
    results = read_results(averaged / "runs/averaged/functional/average.h5")
    found = {(t.init, t.align, "whole" if t.whole else t.every): t for t in trainings(results.tree)}
    other = references(results.tree)
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


def test_the_chapter(averaged):
    made = chapter(read_results(averaged / "runs/averaged/functional/average.h5"))
    text = " ".join(made.sentences)
    assert "alignment moves no unit before any average, so it changes nothing and does not help" in text
    assert "in random order" in text
    assert "nan" not in text + made.about
    assert len(made.tables[0].rows) == 12 + 3
    assert not any("nan" in cell for table in made.tables for row in table.rows for cell in row)
    (drawing,) = made.drawings
    assert len({len(row) for row in drawing.rows} | {len(drawing.columns)}) == 1
    assert MISSING not in text


def test_finished_averaging_is_skipped(averaged):
    arguments = ["average", str(averaged / "c.toml"), "--runs", str(averaged / "runs")]
    before = (averaged / "runs/averaged/functional/average.h5").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (averaged / "runs/averaged/functional/average.h5").stat().st_mtime_ns == before
    assert not (averaged / "runs/averaged/functional/average.partial").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("functional.average.workers=101", "101 workers cannot share the 100 images of a batch"),
        ('functional.average.net="net9"', 'there is no trained net "net9".*Known: net1, net2'),
        ("functional.average.local_steps=[8, 8]", "repeat"),
        ("functional.average.local_steps=[0]", "greater than or equal to 1"),
        ('functional.average.inits=["other"]', "'same' or 'different'"),
        ("training.learning_rate=1e18", r"worker\d: the loss became"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, capsys, change, message):
    import re

    (tmp_path / "c.toml").write_text(TOML, encoding="utf-8")
    assert main(["average", str(tmp_path / "c.toml"), "--runs", str(tmp_path), "--set", change]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "averaged/functional/average.h5").exists()


class Fixed(nn.Module):
    """Units that are added to units in another order: they cannot change places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.first(images.flatten(1)).relu()
        return self.last(found.cumsum(1))


def fixed(image_shape, n_classes):
    return Fixed()


def test_nets_that_cannot_be_permuted_are_averaged_plainly(tmp_path, capsys):
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


# ---- processes and kills ----


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Config of nets with dropout and batch norms, moments averaged; and what one process finds."""
    root = tmp_path_factory.mktemp("noisy")
    text = NOISY.replace("epochs = 4", "epochs = 2")
    text = text.replace('["conv1", "conv2", "fc1"]', '["0"]').replace("repeats = 2", "repeats = 1")
    (root / "c.toml").write_text(
        text + 'optimizer_state = "average"\ninits = ["different"]\nalignments = ["weight"]\n', encoding="utf-8"
    )
    assert main(["average", str(root / "c.toml"), "--runs", str(root / "one")]) == 0
    return root / "c.toml", datasets(root / "one/averaged/functional/average.h5")


def test_processes_give_the_bits_of_one(noisy, tmp_path):
    """Three workers on two processes."""
    config, wanted = noisy
    codes, errors = finish(start(2, ["average", str(config), "--runs", str(tmp_path)], PLANTED % 0))
    assert codes == [0, 0], errors
    assert "average: done" in errors[0]
    assert datasets(tmp_path / "averaged/functional/average.h5") == wanted


@pytest.mark.parametrize(("size", "how"), [(1, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_kill_changes_no_bit(noisy, tmp_path, size, how):
    config, wanted = noisy
    arguments = ["average", str(config), "--runs", str(tmp_path)]
    processes = start(size, arguments, PLANTED % 0.05)
    partial = tmp_path / "averaged/functional/average.partial"
    deadline = time.monotonic() + 120
    while not list(partial.glob("training/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[-1].send_signal(how)
    codes, errors = finish(processes)
    assert codes == ([-9] if how == signal.SIGKILL else [75, 75]), errors
    assert list(partial.glob("training/*/checkpoint.pt"))
    codes, errors = finish(start(1, arguments, PLANTED % 0))  # on another number of processes
    assert codes == [0], errors
    assert "a training goes on after step" in errors[0]
    assert datasets(tmp_path / "averaged/functional/average.h5") == wanted


def test_settings_have_their_place_in_the_digest(tmp_path):
    from convergence.runs.run_folder import RunFolder

    (tmp_path / "c.toml").write_text(TOML, encoding="utf-8")
    digests = set()
    for change in ([], ["functional.average.workers=2"], ["statistics.groups=7"], ["training.learning_rate=0.5"]):
        experiment = read_config(tmp_path / "c.toml", change)
        digests.add(RunFolder(tmp_path, experiment).functional_task("average").digest)
    assert len(digests) == 4


def test_images_of_a_step_are_dealt_once(tmp_path):
    """All workers together see each image of an epoch once, whichever process they are on."""
    images = ArrayImages(np.zeros((23, 1, 2, 2), np.float32), np.arange(23) % 2, ["a", "b"])
    config = TrainingConfig(epochs=1, batch_size=5, threads=1)
    images.labels = np.arange(23)  # marks each image
    seen = []
    for rank in range(2):
        network = Small(name="small", channels=(1,), hidden=())
        crew = Crew(Start(network, (0, 1, 2), 0), images, config, ProcessGroup(rank, 2), CPU, tmp_path, "key")
        for _, parts in crew._batches(0, 0):
            assert sum(part if isinstance(part, int) else len(part[1]) for part in parts) in (5, 3)
            seen += [int(label) for part in parts if not isinstance(part, int) for label in part[1]]
    assert sorted(seen) == list(range(23))
