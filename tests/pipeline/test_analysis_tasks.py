"""The analysis in tasks: the same bits however they are cut, spread, lost or killed."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future

import numpy as np
import psutil
import pytest

from convergence.analysis import cost
from convergence.analysis.pair import pair_steps
from convergence.analysis.plan import Plan, Subject, Task
from convergence.analysis.run import analyze, planned, run_tasks
from convergence.analysis.steps import PairShape, Step, levels, ranges
from convergence.analysis.task_progress import TaskProgress
from convergence.analysis.worker import Done, peak_memory
from convergence.cli import main
from convergence.clustering.number import n_rotations
from convergence.config.stages import AnalysisConfig
from convergence.errors import TaskLost, UserError
from convergence.progress import readable_seconds
from hpc.dask_executor import SETTINGS, InProcess, Workers, executors, in_process, number_of_workers, on_this_machine
from tests.helpers.content_hash import content_hash

pytestmark = pytest.mark.slow

SMALL = """
name = "small"
[activations]
nets.a = { layer = "a.npy" }
nets.b = { layer = "b.npy" }
nets.c = { layer = "c.npy" }
[statistics]
comparisons = ["layer"]
groups = 6
subset = 40
[analysis]
rotations = 3
[analysis.sparse]
alphas = 5
max_units = 3
"""
CUT = "from convergence.analysis import cost; cost.TOGETHER = 0.0; from convergence.cli import main; import sys; "
CUT += "sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run folder whose sums are there, of three nets that share half of their units."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((600, 6))
    for name in "abc":
        own = rng.standard_normal((600, 6))
        values = np.concatenate([shared[:, rng.permutation(6)], own], axis=1) + 0.3 * rng.standard_normal((600, 12))
        np.save(folder / f"{name}.npy", np.maximum(values, 0).astype(np.float32))
    (folder / "small.toml").write_text(SMALL.replace("nets.a", f'root = "{folder}"\nnets.a'), encoding="utf-8")
    assert main(["statistics", str(folder / "small.toml"), "--runs", str(folder)]) == 0
    return folder / "small"


CONFIG = AnalysisConfig.model_validate({"rotations": 3, "sparse": {"alphas": 5, "max_units": 3}})


@pytest.fixture
def analysed(small, tmp_path):
    """A function that analyses the small run and returns the hash of what came out."""

    def run(start=lambda plan: in_process(), name="analysis.h5"):
        target = tmp_path / name
        analyze(small / "statistics.h5", target, CONFIG, "digest", tmp_path / "partial", start)
        return content_hash(target)

    return run


@pytest.fixture(scope="module")
def expected(small, tmp_path_factory):
    """The hash of an undisturbed analysis, every pair one task."""
    folder = tmp_path_factory.mktemp("expected")
    start = lambda plan: in_process()  # noqa: E731
    analyze(small / "statistics.h5", folder / "analysis.h5", CONFIG, "digest", folder / "partial", start)
    return content_hash(folder / "analysis.h5")


SHAPES = [
    PairShape(1, 1, 2, True, True),
    PairShape(384, 256, 32, True, True),
    PairShape(4096, 1000, 4, True, False),
    PairShape(500, 500, 8, False, False),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_cover_everything_once_and_come_in_an_order(shape):
    steps = pair_steps(shape, AnalysisConfig())
    assert len({step.key for step in steps}) == len(steps)
    assert [step for level in levels(steps) for step in level] != []
    groups = {}
    for step in steps:
        groups.setdefault((step.method, step.name, step.which), []).append((step.first, step.last))
    for (method, name, _), cut in groups.items():
        if cut == [(0, 0)]:
            continue
        wanted = {"numbers": shape.n_groups + 1, "partial": 10, "blocks": shape.n_y if "xy" in method else shape.n_x}
        wanted |= {"fit": wanted["blocks"], "held_out": wanted["blocks"]}
        wanted["halves"] = n_rotations(shape.n_x + shape.n_y) + 1
        wanted["numbers"] -= method == "shared_dimensions"  # the spectrum of all groups is another step
        n = wanted.get(name, AnalysisConfig().rotations)
        assert [k for first, last in cut for k in range(first, last)] == list(range(n)), (method, name)


def test_steps_that_wait_for_each_other_are_refused():
    with pytest.raises(ValueError, match="wait for each other"):
        levels([Step("m", "a", after=("m/b",)), Step("m", "b", after=("m/a",))])


def test_ranges_take_about_the_goal():
    assert ranges(100, 1.0, 8.0) == [(0, 8), (8, 16), (16, 25), (25, 33), (33, 41), (41, 50), (50, 58), (58, 66),
                                     (66, 75), (75, 83), (83, 91), (91, 100)]  # fmt: skip
    assert ranges(3, 1e-9, 8.0) == [(0, 3)]
    assert ranges(3, 1e9, 8.0) == [(0, 1), (1, 2), (2, 3)]
    assert ranges(0, 1.0, 8.0) == [(0, 0)]


def test_large_pairs_are_cut_and_small_ones_are_not(small, monkeypatch):
    whole = planned(small / "statistics.h5", CONFIG)
    assert [str(task) for task in whole.tasks] == ["layer a|b", "layer a|c", "layer b|c", "layer all nets"]
    assert whole.tasks[-1].after == (0, 1, 2)
    monkeypatch.setattr(cost, "TOGETHER", 0.0)
    cut = planned(small / "statistics.h5", CONFIG)
    assert len(cut.tasks) > 60
    assert all(all(before < k for before in task.after) for k, task in enumerate(cut.tasks))
    seconds = [sum(t.seconds for t in p.tasks if t.subject.x == "a") for p in (whole, cut)]
    assert seconds[0] == pytest.approx(seconds[1])


def test_analysis_in_steps_gives_the_same_bits(analysed, expected, monkeypatch):
    monkeypatch.setattr(cost, "TOGETHER", 0.0)
    assert analysed() == expected


def test_analysis_on_workers_gives_the_same_bits(analysed, expected, monkeypatch):
    monkeypatch.setattr(cost, "TOGETHER", 0.0)
    assert analysed(executors(Workers(number=2, threads=2))) == expected


def test_workers_are_replaced_at_the_end_of_their_lifetime():
    with on_this_machine(Workers(lifetime_min=0.03), 1, 1e8) as executor:
        first, end = executor.submit(os.getpid).result(60), time.monotonic() + 60
        while executor.submit(os.getpid).result(60) == first:
            assert time.monotonic() < end, "the worker outlived its lifetime"
            time.sleep(0.2)


def test_products_are_on_one_thread_and_threads_come_back(small, tmp_path):
    from threadpoolctl import threadpool_info

    def blas():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before, seen = blas(), []

    class Looking(InProcess):
        def submit(self, function, *arguments):
            future = super().submit(function, *arguments)
            seen.extend(blas())
            return future

    @contextlib.contextmanager
    def looking(plan):
        yield Looking()

    analyze(small / "statistics.h5", tmp_path / "a.h5", CONFIG, "digest", tmp_path / "partial", looking)
    assert set(seen) == {1}
    assert blas() == before


def run_cut(folder, runs, *arguments, **keywords):
    """The command with every step a task of its own, in a process of its own."""
    command = [sys.executable, "-c", CUT, "analyze", str(folder / "small.toml"), "--runs", str(runs), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **keywords)


@pytest.fixture
def copied(small, tmp_path):
    """A runs folder with a copy of the small run."""
    import shutil

    shutil.copytree(small, tmp_path / "runs" / "small")
    return tmp_path / "runs"


def wait_for_parts(runs, n, process):
    partial, end = runs / "small" / "analysis.partial", time.monotonic() + 120
    while len(list(partial.glob("part-*.h5"))) < n:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_killed_workers_are_replaced_and_killed_client_resumes(small, copied, expected):
    """Both workers are killed, one after the other; then the client, of which no process is left."""
    process = run_cut(small.parent, copied, "--workers", "2")
    killed = []
    for n in (3, 6):
        wait_for_parts(copied, n, process)
        killed.append(next(worker for worker in workers_of(process) if worker not in killed))
        killed[-1].kill()
    wait_for_parts(copied, 20, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, left = psutil.wait_procs(family, 60)
    assert not left
    kept = list((copied / "small/analysis.partial").glob("part-*.h5"))
    again = run_cut(small.parent, copied, "--workers", "1")
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said
    assert "tasks found on disk" in said
    assert len(kept) >= 20
    assert content_hash(copied / "small" / "analysis.h5") == expected
    assert not (copied / "small/analysis.partial").exists()


def test_signal_stops_analysis_and_same_command_resumes(small, copied, expected):
    process = run_cut(small.parent, copied, "--workers", "2")
    wait_for_parts(copied, 10, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    again = run_cut(small.parent, copied)
    again.communicate(timeout=300)
    assert again.returncode == 0
    assert content_hash(copied / "small" / "analysis.h5") == expected


def test_damaged_partial_result_is_computed_again(analysed, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "TOGETHER", 0.0)

    class Torn(InProcess):
        def submit(self, function, *arguments):
            task = arguments[1]
            if task.subject.y == "c":
                raise KeyboardInterrupt
            return super().submit(function, *arguments)

    @contextlib.contextmanager
    def torn(plan):
        yield Torn()

    with pytest.raises(KeyboardInterrupt):
        analysed(torn)
    (part,) = (tmp_path / "partial").glob("part-*.h5")  # the steps of a finished pair are folded in
    with part.open("r+b") as file:
        file.seek(part.stat().st_size // 2)
        file.write(b"\xff" * 64)
    assert analysed() == expected


def test_task_that_ends_its_workers_is_named_and_others_are_kept(analysed, expected, monkeypatch, caplog):
    monkeypatch.setattr(cost, "TOGETHER", 0.0)

    class Deadly:
        def __init__(self, inner):
            self.inner = inner

        @property
        def slots(self):
            return self.inner.slots

        def submit(self, function, job, task):
            if "a|b: clusters spectral" in str(task):
                return self.inner.submit(os._exit, 1)
            return self.inner.submit(function, job, task)

    @contextlib.contextmanager
    def deadly(plan):
        with on_this_machine(Workers(), 2, plan.memory) as inner:
            yield Deadly(inner)

    with pytest.raises(UserError, match=r"1 task failed(.|\n)*layer a\|b: clusters spectral(.|\n)*--memory"):
        analysed(deadly)
    caplog.set_level(logging.INFO)
    assert analysed() == expected
    found = next(record for record in caplog.messages if "found on disk" in record)
    done, _, total = found.split()[1:4]
    assert int(total) - int(done) <= 10  # what comes after the clusters of one pair


def fake(index, after):
    return Task(Subject("c", "x", "y"), (Step("m", f"s{index}", seconds=1.0),), False, after)


class Slow:
    """Two slots whose tasks end when told to."""

    slots = 2

    def __init__(self):
        self.running, self.order, self.most = {}, [], 0

    def submit(self, index):
        self.order.append(index)
        self.running[index] = Future()
        self.most = max(self.most, len(self.running))
        if len(self.running) == self.slots or index in (5, 6):
            for k in list(self.running):
                future = self.running.pop(k)
                if k == 2:
                    future.set_exception(TaskLost("gone"))
                else:
                    future.set_result(k)
        return self.running.get(index) or future


def test_tasks_respect_order_and_skip_dependents_of_lost_tasks():
    tasks = [fake(0, ()), fake(1, ()), fake(2, ()), fake(3, (0, 1)), fake(4, (2,)), fake(5, (3,)), fake(6, ())]
    executor, finished = Slow(), []
    lost = run_tasks(tasks, {1}, executor, executor.submit, lambda k, *_: finished.append(k))
    assert lost == [2]
    assert sorted(finished) == [0, 3, 5, 6]
    assert executor.order.index(3) > executor.order.index(0)
    assert executor.order.index(5) > executor.order.index(3)
    assert executor.most <= 2


def test_an_error_of_a_task_is_raised_and_ends_the_run():
    with in_process() as executor, pytest.raises(TypeError):
        run_tasks([fake(0, ())], set(), executor, lambda k: executor.submit(abs, "no number"), print)


def test_remaining_time_is_estimated_by_method():
    tasks = [Task(Subject("c", "x", "y"), (Step("m", f"s{k}", seconds=1.0),), False) for k in range(4)]
    watch = TaskProgress(tasks, {0})
    watch.finished(1, Done(100.0, 5e8, 0), 2)  # the first task of a process compiles kernels, and says nothing
    assert watch.left(2) == "about 1 s left (m 2/4 1 s)"
    watch.finished(2, Done(10.0, 5e8, 0), 2)  # ten times what was expected: 10 s of work are left, on two workers
    assert watch.left(2) == "about 5 s left (m 3/4 5 s)"
    assert watch.peak_bytes == 5e8
    assert [readable_seconds(s) for s in (89, 100, 7200)] == ["89 s", "2 min", "2.0 h"]


def test_worker_memory_excludes_parent_memory():
    """It is copied from the process that starts it, whose memory has nothing to do with it."""
    large = np.ones(120_000_000)
    assert peak_memory() > large.nbytes
    with on_this_machine(Workers(), 1, 1e8) as executor:
        before = executor.submit(peak_memory).result()
        assert 0 < before < large.nbytes / 2
        assert executor.submit(_fill, 300_000_000).result() > before + 2e8


def _fill(n_bytes: int) -> float:
    np.ones(n_bytes // 8)
    return peak_memory()


def test_number_of_workers_fits_work_and_memory(monkeypatch):
    import hpc.dask_executor as tasks

    monkeypatch.setattr(tasks, "usable_cores", lambda: 8)
    monkeypatch.setattr(tasks, "free_memory", lambda: 10e9)
    little, much = (Plan((fake_of(seconds),), 2e9) for seconds in (10.0, 1000.0))
    assert number_of_workers(Workers(), little) == 1
    assert number_of_workers(Workers(number=3), little) == 3
    assert number_of_workers(Workers(), much) == 5  # as many as fit the memory
    assert number_of_workers(Workers(threads=4), much) == 2
    assert number_of_workers(Workers(memory_gb=1.0), much) == 8
    assert number_of_workers(Workers(memory_gb=64.0), much) == 1


def fake_of(seconds):
    return Task(Subject("c", "x", "y"), (Step("m", "s", seconds=seconds),), False)


def test_worker_beyond_its_memory_is_ended(monkeypatch):
    """Dask gives up a worker that is not back in time, as on a busy machine; another one replaces it."""
    monkeypatch.setitem(SETTINGS, "distributed.deploy.lost-worker-timeout", "0.1 s")
    with on_this_machine(Workers(memory_gb=0.6), 1, 1e8) as executor:
        with pytest.raises(TaskLost):
            executor.submit(bytearray, 2_000_000_000).result(120)
        assert executor.submit(abs, -3).result(180) == 3


def test_show_lists_tasks_and_memory(small, capsys):
    assert main(["show", str(small.parent / "small.toml"), "--runs", str(small.parent)]) == 0
    said = capsys.readouterr().out
    assert "analyze: 4 tasks" in said
    assert "memory of a worker" in said


def test_numbers_of_workers_are_checked(small, capsys):
    for option, value in (("--workers", "0"), ("--memory", "-1"), ("--lifetime", "soon"), ("--threads", "x")):
        assert main(["analyze", str(small.parent / "small.toml"), option, value]) == 2
        assert value in capsys.readouterr().err


def test_settings_of_the_pass_are_in_the_file(analysed, small):
    """What is in the record of the sums is what the analysis says it is of."""
    import h5py

    analysed()
    with h5py.File(small / "statistics.h5") as file:
        assert json.loads(file.attrs["config"])["name"] == "small"
