"""Stages that do not depend on each other run side by side, with the results of one after the other."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.runs.run_folder import RunFolder
from convergence.runs.side_by_side import predecessors, run_side_by_side
from convergence.runs.stages import STAGE_TABLE, STAGES
from hpc.dask_executor import Workers, executors
from tests.helpers.fingerprints import differences, fingerprint

AFTER = {"first": set(), "second": set(), "both": {"first", "second"}}


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def meet(name: str, folder: Path) -> None:
    """A stage that ends only if the stage beside it runs at the same time."""
    if name == "both":
        assert {"first", "second"} <= set(os.listdir(folder))
    (folder / name).touch()
    for other in {"first": ["second"], "second": ["first"]}.get(name, []):
        wait_for(folder / other)


def fail_or_wait(name: str, folder: Path) -> None:
    """The first stage fails once the second works, which stops at the signal."""
    from convergence.runs import signals

    (folder / name).touch()
    if name == "first":
        wait_for(folder / "second")
        raise UserError("layer conv9 is unknown.")
    while True:
        try:
            signals.check()
        except signals.Stopped:
            (folder / "stopped").touch()
            raise
        time.sleep(0.05)


def work_forever(name: str, folder: Path) -> None:
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(600)


def test_independent_stages_run_at_the_same_time_and_others_after_them(tmp_path):
    run_side_by_side(tuple(AFTER), AFTER, 2, meet, tmp_path)
    assert set(os.listdir(tmp_path)) == set(AFTER)


def test_error_of_a_stage_stops_the_others_and_is_raised(tmp_path):
    with pytest.raises(UserError, match="conv9 is unknown"):
        run_side_by_side(tuple(AFTER), AFTER, 2, fail_or_wait, tmp_path)
    assert set(os.listdir(tmp_path)) == {"first", "second", "stopped"}


def test_stages_end_with_a_command_that_is_killed(tmp_path):
    script = (
        "from pathlib import Path\nfrom convergence.runs.side_by_side import run_side_by_side\n"
        "from tests.pipeline.test_side_by_side import work_forever\n"
        "if __name__ == '__main__':\n"
        f"    run_side_by_side(['a'], {{'a': set()}}, 1, work_forever, Path({str(tmp_path)!r}))\n"
    )
    (tmp_path / "command.py").write_text(script, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    command = subprocess.Popen([sys.executable, str(tmp_path / "command.py")], env=os.environ | {"PYTHONPATH": root})
    while not (found := list(tmp_path.glob("*.pid"))):
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGKILL)
    command.wait()
    for _ in range(200):
        if not os.path.exists(f"/proc/{found[0].stem}"):
            return
        time.sleep(0.05)
    raise AssertionError("the stage outlived the command")


def test_a_stage_waits_for_those_that_make_its_input(tmp_path):
    folder = RunFolder(tmp_path, read_config("configs/digits.toml", ()))
    before = predecessors(STAGES, folder, STAGE_TABLE)
    assert before["train"] == set()
    assert before["average"] == {"statistics"}, "its nets are its own, but the report does not wait for it"
    assert before["analyze"] == {"statistics"}
    assert before["stitch"] == before["pictures"] == {"train", "statistics"}
    assert before["report"] == set(STAGES) - {"report"}


@pytest.mark.slow
def test_run_with_jobs_has_the_bits_of_a_run_without(tiny_config, tiny_copy, tiny_run):
    for name in ("analysis.h5", "analysis.json", "pictures.h5", "pictures.json"):
        (tiny_copy / name).unlink()
    assert main(["run", str(tiny_config), "--runs", str(tiny_copy.parent), "--jobs", "2"]) == 0
    assert differences(fingerprint(tiny_copy), fingerprint(tiny_run)) == []


def test_settings_of_the_workers_can_be_passed_to_a_process():
    assert pickle.loads(pickle.dumps(executors(Workers(number=2)))).args == (Workers(number=2),)
