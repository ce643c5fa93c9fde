"""A machine that stops at any operation on files: no file is torn, and a stage resumes to the same bits.

The operations of this process are recorded, and the folders that a crash can leave are made from them; see
``tests/helpers/crash_states.py``. ``python -m benchmarks.replay`` does the same for all states of all stages.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from convergence.cli import main
from convergence.io.files import atomic_write, create_for_owner, move, put_folder_in_place
from tests.helpers.fingerprints import differences, fingerprint
from tests.helpers.recording import drawn, states_of
from tests.helpers.runs import forget_statistics


def replace_unsynced(path: Path) -> None:
    temporary = path.with_name("temporary")
    temporary.write_text("new")
    temporary.replace(path)


def replace_durably(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("new")


@pytest.mark.parametrize(("write", "torn"), [(replace_unsynced, {b"", b"\0\0\0"}), (replace_durably, set())])
def test_replaced_file_is_old_or_new_after_crash(tmp_path, write, torn):
    """A rename without fsync, the planted defect, leaves an empty file and one of zeros."""
    (tmp_path / "file").write_text("old")
    states, disk = states_of(tmp_path, lambda: write(tmp_path / "file"))
    assert {state.tree["file"] for state in states} - {b"old", b"new"} == torn
    assert bool(disk.at_risk()) == bool(torn)


def test_new_folders_and_moves_are_durable(tmp_path):
    """A file in folders that are not flushed is lost; the functions of ``io.files`` leave nothing at risk."""
    _, disk = states_of(tmp_path, lambda: (tmp_path / "a" / "b").mkdir(parents=True))
    assert disk.at_risk() == ["a", "a/b"]

    def durable() -> None:
        create_for_owner(tmp_path / "x" / "y")
        replace_durably(tmp_path / "new" / "folder" / "file")
        move(tmp_path / "new" / "folder" / "file", tmp_path / "other" / "file")

    _, disk = states_of(tmp_path, durable)
    assert disk.at_risk() == []
    assert disk.tree("lost")["other/file"] == b"new"


def test_replaced_folder_is_complete_after_crash(tmp_path):
    """The files of a folder are on the disk before the folder gets its name."""
    for name in ("report", "building/sub"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "page").write_text(name)

    def replace() -> None:
        (tmp_path / "building" / "index").write_text("index")
        put_folder_in_place(tmp_path / "building", tmp_path / "report")

    states, disk = states_of(tmp_path, replace)
    assert disk.at_risk() == []
    for state in states:
        if "report/index" in state.tree:
            assert (state.tree["report/index"], state.tree["report/sub/page"]) == (b"index", b"building/sub")


def test_recorder_sees_writes_of_c_libraries(tmp_path):
    """A write to a file descriptor is recorded before the fsync that follows."""
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)

    def write() -> None:
        os.write(handle, b"abc")
        os.fsync(handle)
        os.ftruncate(handle, 1)

    try:
        states, _ = states_of(tmp_path, write)
    finally:
        os.close(handle)
    assert [(str(state.last), state.kind) for state in states] == [
        ("write file 3 bytes at 0", "kept"), ("write file 3 bytes at 0", "zeros"),
        ("truncate file", "kept"), ("truncate file", "zeros"),
    ]  # fmt: skip


@pytest.mark.slow
def test_statistics_resume_from_crash_states(planted_runs, tmp_path):
    """Three crash states of each kind and the last ones: the same command ends with the same bits and no leftover."""
    runs, trial = tmp_path / "runs", tmp_path / "trial"
    shutil.copytree(planted_runs / "runs", runs)
    forget_statistics(runs / "planted")
    command = ["statistics", str(planted_runs / "planted.toml"), "--runs"]
    states, disk = states_of(runs, lambda: main([*command, str(runs)]))
    assert disk.at_risk() == []
    expected = fingerprint(runs)
    assert differences(fingerprint(planted_runs / "runs"), expected) == []
    logging.disable(logging.INFO)
    try:
        for state in [*drawn(states, 3), *states[-2:]]:
            state.write(trial)
            assert main([*command, str(trial)]) == 0, state
            assert differences(fingerprint(trial), expected) == [], state
    finally:
        logging.disable(logging.NOTSET)
