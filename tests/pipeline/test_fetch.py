"""Fetching over a real ssh and rsync on the loopback interface: whole runs, subsets, interrupted and damaged ones."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import FileError, UserError
from convergence.functional.file import write_results
from convergence.functional.merging.results import MergingResults
from convergence.runs.run_folder import RunFolder
from convergence.runs.run_lock import Claim, holding
from convergence.runs.tasks import StageTask, read_record
from convergence.statistics.file import open_statistics
from convergence.statistics.subset import Selection, subset_statistics
from convergence.transfer.fetch import fetch, subset_name
from convergence.transfer.remote import LocalRun, RemoteRun, parse
from tests.helpers.runs import datasets
from tests.helpers.sshd import PYTHON, SSHD, server, wrapper

pytestmark = pytest.mark.slow

NEEDED = SSHD and shutil.which("rsync") and shutil.which("ssh")
remote = pytest.mark.skipif(not NEEDED, reason="no sshd or rsync: apt-get install openssh-server rsync")
ODD = "a run & more ‘ünïcode’ $HOME; it's"


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    with server(tmp_path_factory.mktemp("sshd")) as command:
        yield command


@pytest.fixture(autouse=True)
def _say(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def run(planted_runs, tmp_path):
    """A copy of the planted run under an odd name, with a report's files."""
    folder = Path(shutil.copytree(planted_runs / "runs" / "planted", tmp_path / "there" / ODD))
    (folder / "report" / "figures").mkdir(parents=True)
    (folder / "report" / "index.html").write_text("<p>page</p>", encoding="utf-8")
    (folder / "report" / "figures" / "a.svg").write_text("<svg/>", encoding="utf-8")
    record = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    record |= {"task": "report", "digest": "d" * 64, "outputs": {"report/index.html": 11, "report/figures/a.svg": 6}}
    (folder / "report.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@remote
def test_fetched_run_is_complete_and_not_fetched_twice(run, ssh, tmp_path, caplog):
    dest = tmp_path / "here & now"
    assert fetch(f"127.0.0.1:{run}", dest, ssh=ssh) == dest
    for name in ("statistics.h5", "analysis.h5", "report/index.html", "report/figures/a.svg", "analysis.json"):
        assert (dest / name).read_bytes() == (run / name).read_bytes()
    assert not (dest / ".fetching").exists()
    caplog.clear()
    assert main(["analyze", str(dest)]) == 0
    assert "already done" in caplog.text
    caplog.clear()
    fetch(f"127.0.0.1:{run}", dest, ssh=ssh)
    assert caplog.text.count("already here") == 3
    assert not (dest / "superseded").exists()


@remote
def test_comparisons_are_cut_on_the_host(run, ssh, tmp_path):
    found = fetch(f"127.0.0.1:{run}", tmp_path / "here", ["fc"], ssh=ssh, remote_command=PYTHON)
    assert found == tmp_path / "here" / "statistics-fc.h5"
    subset_statistics(run / "statistics.h5", tmp_path / "direct.h5", Selection(("fc",)))
    assert datasets(found) == datasets(tmp_path / "direct.h5")
    assert not (run / ".subsets").exists()
    with pytest.raises(UserError, match='did you mean "fc"'):
        fetch(f"127.0.0.1:{run}", tmp_path / "here", ["fcc"], ssh=ssh, remote_command=PYTHON)
    with pytest.raises(UserError, match="--remote-command"):
        fetch(f"127.0.0.1:{run}", tmp_path / "here", ["fc"], ssh=ssh, remote_command="no-such-convergence")


LINE = """
import os, shlex, subprocess, sys
os.set_blocking(1, True)  # rsync leaves it otherwise, as ssh can do with that
counted, ssh = sys.argv[1:3]
connection = subprocess.Popen([*shlex.split(ssh), *sys.argv[3:]], stdout=subprocess.PIPE)
with open(counted, "ab", buffering=0) as count:
    while some := connection.stdout.read1(65536):
        count.write(some)
        sys.stdout.buffer.write(some)
        sys.stdout.buffer.flush()
sys.exit(connection.wait())
"""
"""A stand-in for ssh that counts the received bytes."""


@remote
def test_interrupted_transfer_is_resumed(run, ssh, tmp_path):
    whole = (run / "analysis.h5").read_bytes()
    assert len(whole) > 300_000
    dest = tmp_path / "here"
    dead = wrapper(tmp_path / "dead", "exit 255")
    with pytest.raises(UserError):
        fetch(f"127.0.0.1:{run}", dest, ssh=dead)
    assert not (dest / "analysis.h5").exists()
    (dest / ".fetching").mkdir(parents=True, exist_ok=True)
    (dest / ".fetching" / "analysis.h5").write_bytes(whole[: len(whole) // 2])  # as rsync leaves it in place
    (tmp_path / "line.py").write_text(LINE, encoding="utf-8")
    arguments = [sys.executable, str(tmp_path / "line.py"), str(tmp_path / "counted"), ssh]
    fetch(f"127.0.0.1:{run}", dest, ssh=wrapper(tmp_path / "line", f'exec {shlex.join(arguments)} "$@"'))
    assert (dest / "analysis.h5").read_bytes() == whole
    others = sum(path.stat().st_size for path in dest.rglob("*") if path.is_file() and path.name != "analysis.h5")
    assert (tmp_path / "counted").stat().st_size < 0.7 * len(whole) + 1.2 * others


@remote
def test_unreachable_runs_are_explained(run, ssh, tmp_path, monkeypatch):
    dest = tmp_path / "here"
    with pytest.raises(UserError, match="no such run folder"):
        fetch(f"127.0.0.1:{run}-not", dest, ssh=ssh)
    with pytest.raises(UserError, match="cannot connect"):
        fetch("127.0.0.1:run", dest, ssh="ssh -F none -o BatchMode=yes -p 1")
    with pytest.raises(UserError, match="is not a run folder"):
        fetch(f"127.0.0.1:{run}/report", dest, ssh=ssh)
    with pytest.raises(UserError, match="no-ssh is not installed"):
        fetch("127.0.0.1:run", dest, ssh="no-ssh -p 1")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").symlink_to(str(shutil.which("ssh")))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="rsync is not installed on this machine"):
        fetch(f"127.0.0.1:{run}", dest, ssh=ssh)


@remote
def test_missing_rsync_on_the_host_is_explained(run, ssh, tmp_path):
    without = wrapper(
        tmp_path / "without",
        f'case "$*" in *--server*) echo "sh: rsync: command not found" >&2; exit 127;; esac; exec {ssh} "$@"',
    )
    with pytest.raises(UserError, match=r"rsync is not installed on 127\.0\.0\.1"):
        fetch(f"127.0.0.1:{run}", tmp_path / "here", ssh=without)


def test_ssh_gets_host_and_quoted_command(run, tmp_path):
    """Without a server: the command that ssh gets runs in a shell."""
    fake = wrapper(tmp_path / "fake", f'printf "%s\\n" "$@" >> {tmp_path}/asked; shift; exec sh -c "$*"')
    place = parse(f"me@cluster:{run}", fake, "convergence")
    assert {"statistics.h5", "analysis.h5", "report"} <= set(place.entries())
    assert (tmp_path / "asked").read_text(encoding="utf-8").splitlines()[0] == "me@cluster"


def test_local_folder_needs_neither_ssh_nor_rsync(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", str(run)]) == 0
    dest = tmp_path / ODD
    assert capsys.readouterr().out.strip() == str(dest)
    assert (dest / "report" / "figures" / "a.svg").exists()
    assert fetch(str(run), tmp_path / "some", ["conv1", "fc"]).name == "statistics-conv1+fc.h5"
    with pytest.raises(UserError, match="are the same folder"):
        fetch(str(run), run)
    with pytest.raises(UserError, match="no such run folder"):
        fetch(str(tmp_path / "nothing"))


def test_unfinished_stage_is_skipped_and_unfinished_statistics_refused(run, tmp_path, caplog):
    def unfinish(name):
        record = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps(record | {"finished": None, "outputs": {}}), encoding="utf-8")

    unfinish("analysis.json")
    fetch(str(run), tmp_path / "here")
    assert "analysis.h5 is not finished there" in caplog.text
    assert not (tmp_path / "here" / "analysis.h5").exists()
    unfinish("statistics.json")
    with pytest.raises(UserError, match=r"statistics\.h5 is not finished there"):
        fetch(str(run), tmp_path / "other")


def test_damaged_and_changed_files_are_refused(run, tmp_path):
    with h5py.File(run / "statistics.h5", "r+") as file:
        file["comparisons/fc/group_products"][0, 0, 0] += 1
    with pytest.raises(UserError, match="is damaged and was removed"):
        fetch(str(run), tmp_path / "here")
    assert not (tmp_path / "here" / "statistics.h5").exists()
    with (run / "statistics.h5").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="differs in size from its record"):
        fetch(str(run), tmp_path / "here")


def test_destinations_and_records_that_do_not_fit_are_explained(run, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / ".fetching").write_text("")
    with pytest.raises(FileError, match="Fetch to an empty DEST"):
        fetch(str(run), here)
    record = json.loads((run / "analysis.json").read_text(encoding="utf-8"))
    (run / "analysis.json").write_text(json.dumps(record | {"outputs": {}}), encoding="utf-8")
    with pytest.raises(FileError, match="names no file"):
        fetch(str(run), tmp_path / "other")


def test_two_fetches_to_one_folder_do_not_run_at_a_time(run, tmp_path):
    here = tmp_path / "here"
    task = StageTask("fetch statistics.h5", (here / "statistics.h5",), here / "statistics.json", {})
    here.mkdir()
    with holding(Claim(here, (task,))), pytest.raises(UserError, match=r"fetch statistics\.h5"):
        fetch(str(run), here)
    fetch(str(run), here)


def test_results_of_other_settings_are_superseded(run, planted_runs, tmp_path):
    dest = tmp_path / "here"
    fetch(str(run), dest)
    assert main(["analyze", str(dest), "--set", "analysis.rotations=2", "--comparison", "fc"]) == 0
    mine = (dest / "analysis.h5").read_bytes()
    fetch(str(run), dest)
    assert (dest / "analysis.h5").read_bytes() == (run / "analysis.h5").read_bytes()
    kept = list((dest / "superseded").glob("analyze-*/analysis.h5"))
    assert mine in [path.read_bytes() for path in kept]


def test_file_without_record_is_fetched(run, tmp_path):
    for name in ("statistics.json", "analysis.json", "report.json"):
        (run / name).unlink()
    dest = fetch(str(run), tmp_path / "here")
    with open_statistics(dest / "statistics.h5") as file:
        file.verify()
    assert read_record(dest / "statistics.json") is None


@remote
def test_weights_must_match_the_statistics(tiny_copy, ssh, tmp_path):
    dest = fetch(f"127.0.0.1:{tiny_copy}", tmp_path / "here", nets=True, ssh=ssh)
    assert sorted(path.name for path in (dest / "nets" / "net1").iterdir()) == [
        "metrics.csv", "record.json", "weights.safetensors",
    ]  # fmt: skip
    (tiny_copy / "nets" / "net2" / "weights.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="weights of net2"):
        fetch(f"127.0.0.1:{tiny_copy}", tmp_path / "other", nets=True, ssh=ssh)


@remote
def test_pictures_and_experiments_are_fetched_on_request(tiny_copy, tiny_config, ssh, tmp_path, caplog):
    """Including the nets that an experiment wrote."""
    caplog.set_level("INFO")
    plain = fetch(str(tiny_copy), tmp_path / "plain", functional=True)
    assert "has no functional experiments" in caplog.text
    assert not (plain / "pictures.h5").exists()
    folder = RunFolder(tiny_copy, read_config(tiny_config))
    work = folder.functional_task("merge")
    left = work.outputs[1] / "net1 & net2" / "weights.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"a net")
    folder.begin(work)
    write_results(work.outputs[0], "merge", work.digest, "{}", MergingResults(), {"n_images": 1, "n_groups": 1})
    folder.finish(work, 1.0)
    dest = fetch(f"127.0.0.1:{tiny_copy}", tmp_path / "here", pictures=True, functional=True, ssh=ssh)
    assert (dest / left.relative_to(tiny_copy)).read_bytes() == b"a net"
    for name in ("pictures.h5", "pictures.json", "functional/merge.h5", "functional/merge.json"):
        assert (dest / name).read_bytes() == (tiny_copy / name).read_bytes()
    caplog.clear()
    fetch(f"127.0.0.1:{tiny_copy}", dest, pictures=True, functional=True, ssh=ssh)
    assert caplog.text.count("already here") == 5
    left.write_bytes(b"shorter")
    (dest / "functional" / "merge.json").unlink()
    with pytest.raises(FileError, match="differs in size"):
        fetch(f"127.0.0.1:{tiny_copy}", dest, functional=True, ssh=ssh)


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("cluster:runs/digits/", "cluster", "runs/digits"),
        ("me@login.site.org:~/a b", "me@login.site.org", "~/a b"),
        ("me@[fe80::1]:run", "me@fe80::1", "run"),
        ("host:C:/run", "host", "C:/run"),
    ],
)
def test_host_and_path_are_parsed(text, host, path):
    place = parse(text, "ssh", "convergence")
    assert isinstance(place, RemoteRun)
    assert (place.host, place.path) == (host, path)


@pytest.mark.parametrize("text", [r"C:\run", "C:/run", "c:run", "./a:b", "/x:y/z", "runs/digits", r"..\a:b"])
def test_folder_is_not_taken_for_a_host(text):
    assert parse(text, "ssh", "convergence") == LocalRun(Path(text))


@pytest.mark.parametrize("text", ["", ":run", "host:", "-oProxyCommand=x:run", "me@[::1]:"])
def test_invalid_source_is_refused(text):
    with pytest.raises(UserError, match="HOST:RUN"):
        parse(text, "ssh", "convergence")


def test_subset_names_have_limited_length():
    assert subset_name(["conv1"]) == "statistics-conv1.h5"
    long = subset_name([f"layer{k}" for k in range(60)])
    assert len(long) < 80
    assert long != subset_name([f"layer{k}" for k in range(61)])


def test_home_folder_is_expanded_by_the_host(tmp_path):
    fake = wrapper(tmp_path / "fake", 'shift; HOME=/usr exec sh -c "$*"')
    assert "bin" in parse("host:~", fake, "convergence").entries()
    assert parse("host:~/lib", fake, "convergence").entries()
    with pytest.raises(UserError, match="no such run folder"):
        parse("host:'~'/lib", fake, "convergence").entries()


def test_fetch_error_is_one_paragraph(tmp_path):
    command = [*PYTHON_COMMAND, "fetch", "host:", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert done.stderr.startswith("convergence: host:: the host or the path is not valid. Give HOST:RUN")


PYTHON_COMMAND = [sys.executable, "-m", "convergence"]
