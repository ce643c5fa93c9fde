"""Shared parts of the functional experiments: scores with errors, held-out fits, tables, tasks that survive a kill."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from convergence.config.load import parse_config, read_config
from convergence.errors import FileError, UserError
from convergence.functional import EXPERIMENTS, RESULTS
from convergence.functional.context import ExperimentContext
from convergence.functional.file import VERSION, read_results, write_results
from convergence.functional.merging.results import MergingResults
from convergence.functional.scores import Scores, estimates, mean_scores, scored
from convergence.functional.stage import ExperimentTask
from convergence.functional.tables import joined, read_tables, records, write_tables
from convergence.inference import Estimate, jackknife
from convergence.report.functional_page import read_chapters
from convergence.runs.run_folder import RunFolder
from convergence.runs.run_stages import run_stages
from convergence.runs.signals import Stopped
from convergence.runs.stages import Options
from convergence.training.loop import evaluate
from hpc.comm import world
from tests.helpers.hdf5_edits import resealed
from tests.helpers.runs import TINY, datasets


@pytest.fixture
def folder(tiny_copy, tiny_config):
    return RunFolder(tiny_copy, read_config(tiny_config))


@pytest.fixture
def context(folder, tmp_path):
    with ExperimentContext(folder, tmp_path / "out") as context:
        yield context


def test_scores_equal_those_of_training(context):
    """Over the images of the statistics, which are some of the held-out ones here."""
    net = context.net("net1")
    scores = context.score({"net": net})["net"]
    used = np.flatnonzero(context.groups.group_of_image >= 0)
    with torch.no_grad():
        logits = net(torch.from_numpy(context.images.read(used)))
    right = logits.argmax(1).numpy() == context.images.labels[used]
    assert scores.count.sum() == len(used) == 200
    assert scores.accuracy().value == pytest.approx(right.mean(), abs=1e-12)
    groups = context.groups.group_of_image[used]
    without = [right[groups != g].mean() for g in range(5)]
    assert scores.accuracy().standard_error == pytest.approx(jackknife(right.mean(), without).standard_error)
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(context.images.labels[used])).item()
    assert scores.mean_loss().value == pytest.approx(loss, rel=1e-6)
    assert scores.mean_loss().value == pytest.approx(evaluate(net, _part(context, used), context.device)[0], rel=1e-5)


def _part(context, used):
    from convergence.data.images import ArrayImages

    images = context.images
    return ArrayImages(images.read(used), images.labels[used], images.class_names)


def test_paired_difference_has_no_error_when_constant():
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


def test_cross_fitting_never_scores_fitted_images(context):
    """A "fit" that answers right exactly on the images of its own half is wrong everywhere it is scored."""
    seen = []

    def fit(half):
        own = np.concatenate([context.images.read(context.groups.images(g)) for g in context.half(half)])
        labels = np.concatenate([context.images.labels[context.groups.images(g)] for g in context.half(half)])
        known = {image.tobytes(): int(label) for image, label in zip(own, labels, strict=True)}

        def answer(batch):
            seen.append(half)
            out = torch.zeros(len(batch), 10)
            for row, image in enumerate(batch.numpy()):
                label = known.get(image.tobytes())
                out[row, (7 if label is None else label)] = 9.0
            return out

        return {"memory": answer}

    scores = context.cross_fitted(fit)["memory"]
    sevens = np.mean(context.images.labels[context.groups.group_of_image >= 0] == 7)
    assert scores.count.sum() == 200
    assert scores.accuracy().value == pytest.approx(sevens, abs=0.02)  # images that are there twice are few
    assert set(seen) == {0, 1}


def test_non_finite_loss_is_refused(context):
    with pytest.raises(UserError, match="broken: the loss on the images of group 0 is nan"):
        context.score({"broken": lambda batch: torch.full((len(batch), 10), torch.nan)})


def test_halves_of_the_sums_add_up(context):
    pair = context.pair("fc1", "net1", "net2")
    whole, (even, odd) = pair.pooled, pair.halves
    assert context.half_moments(pair, 0) is even
    assert even.n + odd.n == whole.n
    assert {c.name for c in context.comparisons()} == {"conv1", "conv2", "fc1"}
    assert context.layer_of(context.comparisons()[0], "untrained1") == "conv1"


def test_tables_keep_every_bit(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for k, name in enumerate(["conv1", "α–β", ""]):
        count = np.full(5, 40.0)
        scores = Scores(count, rng.integers(0, 40, 5).astype(float), rng.random(5))
        found = scores.accuracy().against((0.1, 0.01)), scores.mean_loss()
        missing = scores.mean_loss() if k else None
        rows.append(Row(name, rng.random(), k, bool(k), *found, missing, scores, scores if k == 1 else None))
    parts = [Tables(tuple(rows[:1])), Tables(tuple(rows[1:]))]
    with h5py.File(tmp_path / "t.h5", "w") as file:
        write_tables(file, joined(Tables, parts))
        found = read_tables(file, Tables)
        assert len(file) == 2 * 4, "a table, its replicates, and its scores"
        assert file["rows"].dtype.itemsize == sum(file["rows"].dtype[n].itemsize for n in file["rows"].dtype.names)
        np.testing.assert_array_equal(file["rows"]["accuracy_low"], [row.accuracy.low for row in rows])
    assert not found.empty
    for row, again in zip(rows, found.rows, strict=True):
        assert (row.name, row.value, row.n, row.good) == (again.name, again.value, again.n, again.good)
        for name in ("accuracy", "loss", "missing"):
            old, new = getattr(row, name), getattr(again, name)
            assert (old is None) == (new is None)
            if old is not None:
                np.testing.assert_equal(old.as_dict(), new.as_dict())
        np.testing.assert_array_equal(row.scores.sums, again.scores.sums)
    assert [row.no_scores is None for row in found.rows] == [True, False, True]
    assert records(found.rows)["accuracy_null"] == [0.1, 0.1, 0.1]


def test_damaged_table_is_refused(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        scores = Scores(np.ones(2), np.ones(2), np.ones(2))
        accuracy, loss, _ = scored(scores)
        write_tables(file, Tables((Row("a", 1.0, 1, True, accuracy, loss, None, scores),)))
        table = file["rows"][()]
        table["value"] = 2.0
        file["rows"][...] = table
        with pytest.raises(FileError, match="does not match its checksum"):
            read_tables(file, Tables)


def test_file_of_an_older_version_is_refused(tmp_path):
    path = tmp_path / "merge.h5"
    write_results(path, "merge", "d", "{}", MergingResults(), {"n_images": 1, "n_groups": 1})
    with resealed(path) as file:
        file.attrs["schema_version"] = VERSION - 1
    with pytest.raises(FileError, match=rf"version {VERSION - 1} of its schema.*convergence merge CONFIG"):
        read_results(path)


ROOT = Path(__file__).parents[2]
MADE: list[str] = []
STOP_AT: list[str] = []


@dataclass(frozen=True)
class Row:
    """A row with a column of each kind."""

    name: str
    value: float
    n: int
    good: bool
    accuracy: Estimate
    loss: Estimate
    missing: Estimate | None
    scores: Scores
    no_scores: Scores | None = None


@dataclass(frozen=True)
class Tables:
    """One table with rows and one without."""

    rows: tuple[Row, ...] = ()
    empty: tuple[Row, ...] = ()


def tasks(context):
    """An experiment of three tasks, the last of which reads a file that the first writes."""

    def make(name):
        if name in STOP_AT:
            raise Stopped("killed")
        MADE.append(name)
        if name == "a/one":
            (context.out / "left.txt").write_text("7")
        value = 1.0 if name != "b" else float((context.out / "left.txt").read_text())
        scores = context.score({"x": context.net("net1")})["x"]
        return Tables((Row(name, value, 3, True, *estimates(scores), None, scores),))

    return [ExperimentTask(name, lambda name=name: make(name)) for name in ("a/one", "a/two", "b")]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS.entries, "merge", "tests.pipeline.test_functional:tasks")
    monkeypatch.setitem(RESULTS.entries, "merge", "tests.pipeline.test_functional:Tables")
    MADE.clear(), STOP_AT.clear()


def test_finished_tasks_survive_kill_and_damage(folder, registered):
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
    assert [(row.name, row.value) for row in results.tables.rows] == [("a/one", 1.0), ("a/two", 1.0), ("b", 7.0)]
    assert results.tables.rows[0].scores.count.sum() == 200
    assert not (folder.functional_folder / "merge.partial").exists()
    run_stages(("merge",), folder, Options(), world())
    assert len(MADE) == 4
    path.unlink()
    run_stages(("merge",), folder, Options(), world())
    assert datasets(path) == first


def test_run_includes_enabled_experiments(folder, registered, caplog):
    caplog.set_level("INFO")
    run_stages(("statistics", "merge"), folder, Options(), world())
    assert not MADE
    enabled = RunFolder(folder.path, parse_config(TINY, ["functional.merge.enabled=true"]))
    assert [work.name for work in enabled.tasks()].count("merge") == 1
    run_stages(("statistics", "merge"), enabled, Options(), world())
    assert len(MADE) == 3
    assert folder.state(folder.functional_task("merge")) == "done", "enabled or not, it is the same work"
    other = RunFolder(folder.path, parse_config(TINY, ["functional.seed=3"]))
    assert other.state(other.functional_task("merge")) == "stale"
    assert other.state(other.analyze_task()) == "done", "settings of experiments touch nothing else"


def test_missing_statistics_are_refused(folder, registered):
    (folder.path / "statistics.json").unlink()
    with pytest.raises(UserError, match='"statistics" has not run'):
        run_stages(("merge",), folder, Options(), world())


def test_given_activations_are_refused(planted_runs):
    folder = RunFolder(planted_runs / "runs" / "planted", read_config(planted_runs / "planted.toml"))
    with pytest.raises(UserError, match="this experiment needs nets and images"):
        run_stages(("merge",), folder, Options(), world())


def test_half_precision_weights_are_refused(folder, context):
    from safetensors.torch import load_file, save_file

    path = folder.net_folder(folder.experiment.all_nets()[0]) / "weights.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"net1.*weights are stored as torch\.float16"):
        context.net("net1")


def test_report_skips_files_of_other_settings(tmp_path):
    write_results(tmp_path / "merge.h5", "merge", "d", "{}", MergingResults(), {"n_images": 1, "n_groups": 1})
    chapters, left_out = read_chapters(tmp_path, {"merge": "another"})
    assert not chapters
    assert "merge.h5 was made with other settings. Run `convergence merge CONFIG` again" in left_out[0]
    (tmp_path / "merge.h5").write_bytes(b"no file")
    assert "The experiment merge is skipped" in read_chapters(tmp_path, None)[1][0]
    with pytest.raises(FileError):
        read_results(tmp_path / "merge.h5")


def test_stage_without_processes_refuses_several(folder):
    class Two:
        size, rank = 2, 0

        def wrap(self, module):
            return module

    with pytest.raises(UserError, match="2 ranks were launched"):
        run_stages(("pictures",), folder, Options(), Two())


def test_documentation_lists_all_tables():
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    for experiment in RESULTS:
        (line,) = (line for line in text.split("\n") if line.startswith(f"| `{experiment}` | `"))
        assert re.findall(r"`(\w+)`", line)[1:] == [field.name for field in fields(RESULTS.load(experiment))]
