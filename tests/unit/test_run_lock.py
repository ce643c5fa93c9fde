"""One owner of an output: claims that conflict are refused, leases of ended processes are taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convergence.errors import FileError, UserError
from convergence.runs import lease, run_lock, signals
from convergence.runs.run_lock import Claim, holding
from convergence.runs.tasks import StageTask

HOLDER = """
import sys, time
from pathlib import Path
from tests.unit.test_run_lock import claim
from convergence.runs.run_lock import holding
with holding(claim(Path(sys.argv[1]), sys.argv[2])):
    print("held", flush=True)
    time.sleep(100)
"""


def claim(folder: Path, writes: str, reads: str = "", **choices) -> Claim:
    """Claim nets of a folder by their names."""

    def tasks(names: str) -> list[StageTask]:
        return [StageTask(f"train {name}", (), folder / "nets" / name / "record.json", {}) for name in names.split()]

    return Claim(folder, tasks(writes), tasks(reads), **choices)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds net1."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "net1"]
    environ = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def leases(folder: Path) -> list[Path]:
    return sorted((folder / ".locks").glob("*.json"))


def edit(folder: Path, age: float = 0.0, **values) -> None:
    """Replace the lease of a folder by a copy with other values that no process locks."""
    (path,) = leases(folder)
    found = json.loads(path.read_text(encoding="utf-8")) | values
    path.unlink()
    path.write_text(json.dumps(found), encoding="utf-8")
    os.utime(path, (time.time() - age, time.time() - age))


def test_claims_conflict_if_one_writes_what_the_other_uses(tmp_path):
    with holding(claim(tmp_path, "net1", "net3")):
        for other in (("net1", ""), ("net2", "net1"), ("net3", ""), ("net2 net1", "")):
            with pytest.raises(UserError, match="in use by another command"), holding(claim(tmp_path, *other)):
                pass
        with holding(claim(tmp_path, "net2", "net3")), holding(claim(tmp_path, "", "net1")):
            assert len(leases(tmp_path)) == 2
    assert not (tmp_path / ".locks").exists()


def test_refusal_names_command_host_process_and_remedies(tmp_path, holder):
    with pytest.raises(UserError) as caught, holding(claim(tmp_path, "net1 net2")):
        pass
    message = str(caught.value)
    assert "\n" not in message
    for part in ("(train net1)", f"process {holder.pid}", os.uname().nodename, "since 2", f"`kill {holder.pid}`",
                 "--wait", "--take-over", str(leases(tmp_path)[0])):  # fmt: skip
        assert part in message


def test_lease_of_killed_process_is_taken_over_and_reported_once(tmp_path, holder, caplog):
    holder.kill()
    holder.wait()
    (tmp_path / ".locks" / "guard").write_text(f"{lease._boot()} {lease._pid_namespace()} {holder.pid}")
    for _ in range(2):
        with holding(claim(tmp_path, "net1")):
            pass
    assert caplog.text.count("taking over") == 1
    assert "its process has ended" in caplog.text


def test_process_id_decides_without_locks_of_the_file_system(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lease, "is_locked", lambda path: None)
    with pytest.raises(UserError, match="in use"), holding(claim(tmp_path, "net1")):
        pass
    edit(tmp_path, started=time.time() - 3600)  # the process id was given to another process
    with holding(claim(tmp_path, "net1")):
        pass


def test_taking_over_stops_the_former_holder(tmp_path):
    with holding(claim(tmp_path, "net1")):
        with holding(claim(tmp_path, "net1", take_over=True)):
            with pytest.raises(signals.Stopped, match="another command took over"):
                signals.check_lease()
            assert len(leases(tmp_path)) == 1
        assert signals.is_stopping()
    signals.check()


@pytest.mark.parametrize(
    ("values", "age", "answer", "ended"),
    [
        ({}, 60, None, ""),
        ({}, 1e4, None, "it gave no sign of life for 2.8 h"),
        ({"job": "12"}, 1e4, False, ""),
        ({"job": "12"}, 0, True, "Slurm job 12 has ended"),
        ({"job": "12"}, 1e4, None, "it gave no sign of life for 2.8 h"),
        ({"job_lease": "a1:jobs/attempts/x/claim"}, 0, None, "a later attempt at its task has started"),
        ({"job_lease": "a2:jobs/attempts/x/claim"}, 0, None, ""),
        ({"job": "7", "restart": "0"}, 0, False, "its job was restarted"),
    ],
)
def test_process_on_another_machine(tmp_path, monkeypatch, caplog, values, age, answer, ended):
    asked = []
    monkeypatch.setattr(run_lock, "ask_scheduler", lambda job: asked.append(job) or answer)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("CONVERGENCE_LEASE", "a2:jobs/attempts/x/claim")
    monkeypatch.setattr(lease, "is_locked", lambda path: 1 / 0)
    with holding(claim(tmp_path, "net1")):
        pass
    (tmp_path / ".locks").mkdir()
    values = {"job": "", "restart": "", "job_lease": "", "boot": "other", "host": "gpu07"} | values
    mine = lease.asdict(lease.this_process()) | {"writes": ["nets/net1/record.json"], "reads": []}
    path = tmp_path / ".locks" / "gpu07.json"
    path.write_text(json.dumps(mine | values), encoding="utf-8")
    os.utime(path, (time.time() - age, time.time() - age))
    if ended:
        with holding(claim(tmp_path, "net1")):
            assert ended in caplog.text
    else:
        with pytest.raises(UserError, match="host gpu07"), holding(claim(tmp_path, "net1")):
            pass
    assert asked == ([values["job"]] if values["job"] else [])


def test_waiting_command_starts_when_the_other_ends(tmp_path, holder, monkeypatch, caplog):
    monkeypatch.setattr(run_lock, "POLL_S", 0.05)
    caplog.set_level("INFO")
    monkeypatch.setattr(signals, "is_stopping", lambda: bool(holder.send_signal(signal.SIGKILL)) or holder.wait() == 0)
    with holding(claim(tmp_path, "net1", wait=True)):
        assert caplog.text.count("waiting: ") == 1


@pytest.mark.parametrize("content", [b"", bytes(200), b"\xff{"])
def test_damaged_lease_that_no_process_holds_is_taken_over(tmp_path, content):
    """A machine that stops leaves a file without its bytes, or with zeros."""
    (tmp_path / ".locks").mkdir()
    path = tmp_path / ".locks" / "x.json"
    path.write_bytes(content)
    with holding(claim(tmp_path, "net1")):
        assert not path.exists()


def test_damaged_lease_that_is_held_claims_everything_and_fades(tmp_path, monkeypatch):
    (tmp_path / ".locks").mkdir()
    path = tmp_path / ".locks" / "x.json"
    path.write_bytes(b"\xff{")
    monkeypatch.setattr("convergence.runs.lease.is_locked", lambda path: True)
    with pytest.raises(UserError, match="an unknown command"), holding(claim(tmp_path, "net1")):
        pass
    os.utime(path, (0, 0))
    with holding(claim(tmp_path, "net1")):
        assert not path.exists()


@pytest.mark.parametrize("number", [30, 13, 1])
def test_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(FileError, match=f"cannot be written \\({os.strerror(number)}\\).*--runs"),
        holding(claim(tmp_path, "net1")),
    ):
        pass
    with holding(claim(tmp_path, "", "net1")):
        pass  # readers write nothing


def test_ranks_share_the_lease_of_the_first(tmp_path):
    class Rank:
        """A rank that hears what rank 0 decided."""

        def __init__(self, rank, refused):
            self.rank, self._said = rank, iter([False, refused])

        def share(self, value):
            return value if self.rank == 0 else next(self._said)

    with holding(claim(tmp_path, "net1"), Rank(0, False)), holding(claim(tmp_path, "net1"), Rank(1, False)):
        assert len(leases(tmp_path)) == 1
        for rank in range(2):
            with pytest.raises(UserError) as caught, holding(claim(tmp_path, "net1"), Rank(rank, True)):
                pass
            assert caught.value.on_all_ranks
