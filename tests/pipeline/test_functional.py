"""What functional experiments share: scores with error bars, fits that never see what they are scored on, pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convergence.config.load import parse_config, read_config
from convergence.errors import FileError, UserError
from convergence.functional.bench import Bench
from convergence.functional.file import read_results, write_results
from convergence.functional.run import Piece
from convergence.functional.scoring import Scores, mean_scores
from convergence.report.matters import read_chapters
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped
from convergence.runs.stages import Options, run_stages
from convergence.training.loop import evaluate
from convergence.uncertainty import jackknife
from hpc.comm import world
from tests.helpers.runs import TINY, datasets


@pytest.fixture
def folder(tiny_copy, tiny_config):
    return RunFolder(tiny_copy, read_config(tiny_config))


@pytest.fixture
def bench(folder, tmp_path):
    with Bench(folder, tmp_path / "out") as bench:
        yield bench


def test_scores_are_those_of_training(bench):
    """Over the images of the statistics, which are some of the held-out ones here."""
    net = bench.net("net1")
    scores = bench.score({"net": net})["net"]
    used = np.flatnonzero(bench.groups.group_of_image >= 0)
    with torch.no_grad():
        logits = net(torch.from_numpy(bench.images.read(used)))
    right = logits.argmax(1).numpy() == bench.images.labels[used]
    assert scores.count.sum() == len(used) == 200
    assert scores.accuracy().value == pytest.approx(right.mean(), abs=1e-12)
    groups = bench.groups.group_of_image[used]
    without = [right[groups != g].mean() for g in range(5)]
    assert scores.accuracy().standard_error == pytest.approx(jackknife(right.mean(), without).standard_error)
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(bench.images.labels[used])).item()
    assert scores.mean_loss().value == pytest.approx(loss, rel=1e-6)
    assert scores.mean_loss().value == pytest.approx(evaluate(net, _part(bench, used), bench.device)[0], rel=1e-5)


def _part(bench, used):
    from convergence.data.images import ArrayImages

    images = bench.images
    return ArrayImages(images.read(used), images.labels[used], images.class_names)


def test_differences_are_of_the_same_images():
    """An answer that is right on one image more in every group is better with no error at all."""
    rng = np.random.default_rng(0)
    count = np.full(8, 50.0)
    correct = rng.integers(10, 40, 8).astype(float)
    worse, better = Scores(count, correct, 0 * count), Scores(count, correct + 1, 0 * count)
    assert worse.accuracy().standard_error > 0.02
    difference = better.accuracy_minus(worse)
    assert difference.value == pytest.approx(0.02)
    assert difference.standard_error == pytest.approx(0, abs=1e-15)
    assert mean_scores([worse, better]).accuracy().value == pytest.approx(worse.accuracy().value + 0.01)


def test_what_is_fitted_on_one_half_is_scored_on_the_other(bench):
    """A "fit" that answers right exactly on the images of its own half is wrong everywhere it is scored."""
    seen = []

    def fit(half):
        own = np.concatenate([bench.images.read(bench.groups.images(g)) for g in bench.half(half)])
        labels = np.concatenate([bench.images.labels[bench.groups.images(g)] for g in bench.half(half)])
        known = {image.tobytes(): int(label) for image, label in zip(own, labels, strict=True)}

        def answer(batch):
            seen.append(half)
            out = torch.zeros(len(batch), 10)
            for row, image in enumerate(batch.numpy()):
                label = known.get(image.tobytes())
                out[row, (7 if label is None else label)] = 9.0
            return out

        return {"memory": answer}

    scores = bench.cross_fitted(fit)["memory"]
    sevens = np.mean(bench.images.labels[bench.groups.group_of_image >= 0] == 7)
    assert scores.count.sum() == 200
    assert scores.accuracy().value == pytest.approx(sevens, abs=0.02)  # images that are there twice are few
    assert set(seen) == {0, 1}


def test_a_loss_that_is_not_finite_is_said(bench):
    with pytest.raises(UserError, match="broken: the loss on the images of group 0 is nan"):
        bench.score({"broken": lambda batch: torch.full((len(batch), 10), torch.nan)})


def test_sums_are_those_of_the_halves(bench):
    pair = bench.pair("fc1", "net1", "net2")
    whole, (even, odd) = pair.pooled, pair.halves
    assert bench.half_moments(pair, 0) is even
    assert even.n + odd.n == whole.n
    assert {c.name for c in bench.comparisons()} == {"conv1", "conv2", "fc1"}
    assert bench.layer_of(bench.comparisons()[0], "untrained1") == "conv1"


MADE: list[str] = []
STOP_AT: list[str] = []


def pieces(bench):
    """An experiment of three pieces, the last of which rests on a file that the first leaves."""

    def make(name):
        if name in STOP_AT:
            raise Stopped("killed")
        MADE.append(name)
        if name == "a/one":
            (bench.out / "left.txt").write_text("7")
        value = 1.0 if name != "b" else float((bench.out / "left.txt").read_text())
        return {"value": value, "scores": bench.score({"x": bench.net("net1")})["x"].as_dict()}

    return [Piece(name, lambda name=name: make(name)) for name in ("a/one", "a/two", "b")]


@pytest.fixture
def registered(monkeypatch):
    from convergence.functional import EXPERIMENTS

    monkeypatch.setitem(EXPERIMENTS.entries, "merge", "tests.pipeline.test_functional:pieces")
    MADE.clear(), STOP_AT.clear()


def test_pieces_survive_a_kill_and_damage(folder, registered):
    path = folder.functional_folder / "merge.h5"
    STOP_AT.append("b")
    with pytest.raises(Stopped):
        run_stages(("merge",), folder, Options(), world())
    assert MADE == ["a/one", "a/two"]
    assert folder.state(folder.functional_task("merge")) == "unfinished"
    damaged = sorted((folder.functional_folder / "merge.partial").glob("*.h5"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-50])
    STOP_AT.clear()
    run_stages(("merge",), folder, Options(), world())
    assert len(MADE) == 4  # the damaged one again, and what was missing
    assert MADE[-1] == "b"
    first = datasets(path)
    results = read_results(path)
    assert results.tree["b"]["value"] == 7.0
    assert Scores(**results.tree["a"]["one"]["scores"]).count.sum() == 200
    assert not (folder.functional_folder / "merge.partial").exists()
    run_stages(("merge",), folder, Options(), world())
    assert len(MADE) == 4
    path.unlink()
    run_stages(("merge",), folder, Options(), world())
    assert datasets(path) == first


def test_run_does_what_is_enabled(folder, registered, caplog):
    caplog.set_level("INFO")
    run_stages(("statistics", "merge"), folder, Options(), world())
    assert not MADE
    enabled = RunFolder(folder.path, parse_config(TINY, ["functional.merge.enabled=true"]))
    assert [work.name for work in enabled.works()].count("merge") == 1
    run_stages(("statistics", "merge"), enabled, Options(), world())
    assert len(MADE) == 3
    assert folder.state(folder.functional_task("merge")) == "done", "enabled or not, it is the same work"
    other = RunFolder(folder.path, parse_config(TINY, ["functional.seed=3"]))
    assert other.state(other.functional_task("merge")) == "stale"
    assert other.state(other.analyze_task()) == "done", "settings of experiments touch nothing else"


def test_nets_and_statistics_are_needed(folder, registered):
    (folder.path / "statistics.json").unlink()
    with pytest.raises(UserError, match='"statistics" has not run'):
        run_stages(("merge",), folder, Options(), world())


def test_given_activations_have_no_nets(planted_runs):
    folder = RunFolder(planted_runs / "runs" / "planted", read_config(planted_runs / "planted.toml"))
    with pytest.raises(UserError, match="experiments on nets need nets and images"):
        run_stages(("merge",), folder, Options(), world())


def test_weights_of_half_precision_are_refused(folder, bench):
    from safetensors.torch import load_file, save_file

    path = folder.net_folder(folder.experiment.all_nets()[0]) / "weights.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"net1.*weights are stored as torch\.float16"):
        bench.net("net1")


def test_files_of_other_settings_are_left_out_of_the_report(tmp_path):
    write_results(tmp_path / "merge.h5", "merge", "d", "{}", {"a": {"b": 1.0}}, {"n_images": 1, "n_groups": 1})
    chapters, left_out = read_chapters(tmp_path, {"merge": "another"})
    assert not chapters
    assert "merge.h5: it is of other settings. Run `convergence merge CONFIG` again" in left_out[0]
    (tmp_path / "merge.h5").write_bytes(b"no file")
    assert "The experiment merge is left out" in read_chapters(tmp_path, None)[1][0]
    with pytest.raises(FileError):
        read_results(tmp_path / "merge.h5")


def test_several_processes_are_refused_where_nothing_is_shared(folder):
    class Two:
        size, rank = 2, 0

        def wrap(self, module):
            return module

    with pytest.raises(UserError, match="2 ranks were launched"):
        run_stages(("pictures",), folder, Options(), Two())
