"""Hostile runs: nothing outside the destination is read, written, replaced or removed, from a folder or over ssh."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from convergence.analysis.standalone import read_settings
from convergence.cli import main
from convergence.config.load import read_config
from convergence.errors import ConfigError, FileError, UserError
from convergence.io import hdf5
from convergence.report.single import single_file
from convergence.runs.run_folder import RunFolder
from convergence.runs.tasks import StageTask, TaskFolder, read_record
from convergence.transfer.fetch import _net_folder, fetch
from convergence.transfer.remote import parse
from slurm.records import Records, Submission, SubmittedJob
from slurm.status import log_path, tail
from tests.helpers.hdf5_edits import resealed
from tests.helpers.sshd import wrapper

needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync: apt-get install rsync")
PAGE = "<p>page</p>"
SECRET = "the user's own file"
CONNECT = 'while [ "$1" = -l ]; do shift 2; done; shift'
"""Beginning of a stand-in for ssh: it drops the user and the host, so that the command follows."""


class Hostile:
    """A run folder that its owner changed, a destination, and a file of the user beside the destination."""

    def __init__(self, root: Path, planted: Path, ssh: str) -> None:
        self.folder = root / "there" / "evil"
        self.folder.mkdir(parents=True)
        for name in ("statistics.h5", "statistics.json"):
            shutil.copy(planted / name, self.folder)
        (self.folder / "report").mkdir()
        (self.folder / "report" / "index.html").write_text(PAGE, encoding="utf-8")
        self.home, self.ssh = root / "home", ssh
        self.dest, self.secret = self.home / "here", self.home / "secret"
        self.home.mkdir()
        self.secret.write_text(SECRET, encoding="utf-8")
        self.report({"report/index.html": len(PAGE)})

    def report(self, outputs: object, **changes: object) -> None:
        """Write the record of the report."""
        record = {"task": "report", "digest": "d" * 64, "finished": "2026-01-01T00:00:00+00:00", "seconds": 1.0,
                  "outputs": outputs, "values": {}, "inputs": {}} | changes  # fmt: skip
        (self.folder / "report.json").write_text(json.dumps(record), encoding="utf-8")

    def fetch(self, **choices: object) -> Path:
        source = str(self.folder) if not self.ssh else f"me@host:{self.folder}"
        return fetch(source, self.dest, ssh=self.ssh or "ssh", **choices)

    def outside(self) -> dict[str, str]:
        """What is beside the destination."""
        return {
            path.relative_to(self.home).as_posix(): path.read_text(encoding="utf-8") if path.is_file() else ""
            for path in self.home.rglob("*")
            if not path.is_relative_to(self.dest)
        }


@pytest.fixture(params=["folder", pytest.param("ssh", marks=needs_rsync)])
def hostile(request, tmp_path, planted_runs):
    """Over ssh with a stand-in for it, which runs the command in a shell of this machine."""
    ssh = wrapper(tmp_path / "ssh", f'{CONNECT}; exec sh -c "$*"') if request.param == "ssh" else ""
    made = Hostile(tmp_path, planted_runs / "runs" / "planted", ssh)
    yield made
    assert made.outside() == {"secret": SECRET}


@pytest.mark.parametrize(
    "name", ["{secret}", "../secret", "report/../../secret", "report/../../../secret", "report\\..\\secret", "C:secret"]
)
def test_record_does_not_delete_or_replace_files_outside(hostile, name):
    (hostile.folder / "secret").write_text("other", encoding="utf-8")
    (hostile.folder.parent / "secret").write_text("other", encoding="utf-8")
    for size in (5, 6):  # of another size: forgotten; of the same: put in place
        hostile.report({"report/index.html": len(PAGE), name.format(secret=hostile.secret): size})
        with pytest.raises(FileError, match="not a path below its folder"):
            hostile.fetch()


@pytest.mark.parametrize(
    "name", ["statistics.json", "nets/net1/weights.safetensors", "reports/x", "records/report.json"]
)
def test_record_names_only_files_of_its_stage(hostile, name):
    hostile.report({"report/index.html": len(PAGE), name: 1})
    with pytest.raises(FileError, match="not a file of its stage"):
        hostile.fetch()


@pytest.mark.parametrize("record", ["[" * 100_000, "[]", "5", '{"digest": "d"}', b"\xff\xfe", "null"])
def test_damaged_record_is_an_error(hostile, record):
    path = hostile.folder / "report.json"
    path.write_bytes(record if isinstance(record, bytes) else record.encode())
    with pytest.raises(FileError, match="record of a stage is damaged"):
        hostile.fetch()


@pytest.mark.parametrize(
    "changes", [{"digest": 5}, {"digest": "\x1b[2J"}, {"finished": 5}, {"outputs": []}, {"outputs": {"report/x": "1"}}]
)
def test_record_of_other_types_is_an_error(hostile, changes):
    hostile.report(**({"outputs": {}} | changes))
    with pytest.raises(FileError, match="record of a stage is damaged") as error:
        hostile.fetch()
    assert "\x1b" not in str(error.value)


def test_links_out_of_the_source_are_not_followed(hostile):
    (hostile.folder / "report" / "secret").symlink_to(hostile.secret)
    (hostile.folder / "report" / "home").symlink_to(hostile.home)
    for name in ("report/secret", "report/home/secret"):
        hostile.report({"report/index.html": len(PAGE), name: len(SECRET)})
        with pytest.raises(UserError, match=r"leads out of|links are not followed"):
            hostile.fetch()
        assert not any(
            path.is_file() and SECRET in path.read_text("utf-8", "replace") for path in hostile.dest.rglob("*")
        )


def test_special_files_are_not_read(hostile):
    os.mkfifo(hostile.folder / "report" / "pipe")
    hostile.report({"report/index.html": len(PAGE), "report/pipe": 0})
    with pytest.raises(UserError, match=r"not a regular file|differs in size"):
        hostile.fetch()


@pytest.mark.parametrize("name", ["report", "superseded", ".fetching", "statistics.json"])
def test_links_out_of_the_destination_are_not_followed(hostile, name):
    hostile.dest.mkdir()
    (hostile.dest / "report").mkdir()
    shutil.rmtree(hostile.dest / "report")
    if name == "superseded":
        hostile.fetch()
        hostile.report({"report/index.html": len(PAGE)}, digest="e" * 64)
    (hostile.dest / name).symlink_to(hostile.home)
    if name == "statistics.json":
        with pytest.raises(FileError):
            hostile.fetch()
        return
    with pytest.raises(FileError, match="leads out of"):
        hostile.fetch()


NETS = ["../../../.ssh", "/tmp/x", "..", "a/b", "a\nb", "\x1b[2J"]


@pytest.mark.parametrize("net", NETS[::2])
def test_net_of_a_statistics_file_names_no_folder_outside(hostile, net):
    with resealed(hostile.folder / "statistics.h5") as file:
        names = file["nets/name"].asstr()[()]
        names[0] = net
        for name, values in (("name", names), ("weights_sha256", np.array(["0" * 64] * len(names), object))):
            del file[f"nets/{name}"]
            hdf5.write_array(file["nets"], name, values, axes=("net",))
    size = (hostile.folder / "statistics.h5").stat().st_size
    record = json.loads((hostile.folder / "statistics.json").read_text(encoding="utf-8"))
    (hostile.folder / "statistics.json").write_text(json.dumps(record | {"outputs": {"statistics.h5": size}}), "utf-8")
    (hostile.folder / "nets").mkdir()
    with pytest.raises(FileError, match="Names consist of"):
        hostile.fetch(nets=True)


@pytest.mark.parametrize("net", NETS)
def test_folder_of_a_net_is_below_the_destination(net, tmp_path):
    source = parse(str(tmp_path), "ssh", "convergence")
    assert _net_folder(source, tmp_path, "net1") == tmp_path / "nets" / "net1"
    with pytest.raises(FileError, match="cannot name a folder") as error:
        _net_folder(source, tmp_path, net)
    assert str(error.value).isprintable()


def test_run_folders_and_fetched_files_are_for_their_owner(hostile, planted_runs):
    before = os.umask(0)
    try:
        hostile.fetch()
        RunFolder(hostile.home / "runs" / "new", read_config(planted_runs / "planted.toml")).create()
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (hostile.dest, *hostile.dest.rglob("*"))}
    assert modes[hostile.dest] == 0o700
    assert modes[hostile.dest / "statistics.h5"] == modes[hostile.dest / "report" / "index.html"] == 0o600
    assert not any(mode & 0o022 for mode in modes.values())
    assert [stat.S_IMODE((hostile.home / name).stat().st_mode) for name in ("runs", "runs/new")] == [0o755, 0o700]
    shutil.rmtree(hostile.home / "runs")


def test_digest_of_a_record_names_no_folder_outside(tmp_path):
    folder = TaskFolder(tmp_path / "run")
    work = StageTask("analyze", (folder.path / "analysis.h5",), folder.path / "analysis.json", {})
    folder.begin(work)
    work.outputs[0].write_text("results", encoding="utf-8")
    record = json.loads(work.record.read_text(encoding="utf-8"))
    work.record.write_text(json.dumps(record | {"digest": "/../../../x/"}), encoding="utf-8")
    folder.begin(work)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (folder.path / "superseded" / "analyze-__________x_" / "analysis.h5").exists()


@pytest.mark.parametrize("place", ["analysis.h5", "analysis.partial", "superseded"])
def test_stage_does_not_work_through_links_out_of_a_run_folder(tmp_path, place):
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.mkdir()
    (outside / "analysis.h5").write_text(SECRET, encoding="utf-8")
    folder = TaskFolder(run)
    partial = (run / "analysis.partial",)
    old = StageTask("analyze", (run / "analysis.h5",), run / "analysis.json", {"a": 1}, scratch=partial)
    if place == "superseded":
        folder.begin(old)
    (run / place).symlink_to(outside / "analysis.h5" if place == "analysis.h5" else outside)
    with pytest.raises(FileError, match="leads out of"):
        folder.begin(StageTask("analyze", (run / "analysis.h5",), run / "analysis.json", {"a": 2}, scratch=partial))
    assert [path.name for path in outside.iterdir()] == ["analysis.h5"]


def test_what_was_not_asked_for_is_removed(tmp_path, planted_runs):
    """As a receiver with a defect would leave it: the stand-in for ssh puts a link beside the files."""
    made = Hostile(tmp_path, planted_runs / "runs" / "planted", "")
    made.ssh = wrapper(
        tmp_path / "ssh", f'{CONNECT}; ln -sf {made.home} {made.dest}/.fetching/records/x; exec sh -c "$*"'
    )
    (made.dest / ".fetching" / "records").mkdir(parents=True)
    with pytest.raises(FileError, match="not asked for"):
        made.fetch()
    assert made.outside() == {"secret": SECRET}
    assert not (made.dest / "statistics.h5").exists()


def test_page_of_a_fetched_report_brings_no_other_file_into_the_single_file(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (tmp_path / "key.svg").write_text(SECRET, encoding="utf-8")
    for image in ("figures/../../key.svg", "figures/link.svg", "pictures/../../key.svg"):
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / "link.svg").unlink(missing_ok=True)
        (folder / "figures" / "link.svg").symlink_to(tmp_path / "key.svg")
        page = f'<a data-page="index"></a><!-- content --><img src="{image}"><!-- /content -->'
        (folder / "index.html").write_text(page, encoding="utf-8")
        with pytest.raises(FileError, match=r"not a path below|leads out of"):
            single_file(folder)
    assert not (folder / "single-file.html").exists()


@pytest.mark.parametrize("change", ["page", "data", "type", "text"])
def test_report_of_another_program_does_not_become_a_single_file(tmp_path, change):
    (tmp_path / "data").mkdir()
    (tmp_path / "tables").mkdir()
    page, body = ("../key", "") if change == "page" else ("index", '<a href="tables/key.txt" download>')
    index = f'<a data-page="{page}"></a><!-- content -->{body}<!-- /content -->'
    (tmp_path / "index.html").write_text("no content" if change == "text" else index, encoding="utf-8")
    (tmp_path / "data" / "a.js").write_text(SECRET, encoding="utf-8")
    if change == "data":
        (tmp_path / "index.html").write_text(index.replace(body, ""), encoding="utf-8")
    if change == "text":
        (tmp_path / "index.html").write_text('<a data-page="index"></a>', encoding="utf-8")
    with pytest.raises(FileError, match=r"not written by this toolkit|not a path below"):
        single_file(tmp_path)


def test_login_that_prints_is_explained(tmp_path, planted_runs):
    made = Hostile(tmp_path, planted_runs / "runs" / "planted", "")
    made.ssh = wrapper(tmp_path / "noisy", f'{CONNECT}; echo "Welcome! Quota: 81%"; exec sh -c "$*"')
    with pytest.raises(UserError, match=r"It printed: Welcome! Quota: 81%.*~/\.bashrc"):
        made.fetch()


def test_login_that_runs_no_command_is_explained(tmp_path, planted_runs):
    made = Hostile(tmp_path, planted_runs / "runs" / "planted", "")
    made.ssh = wrapper(tmp_path / "closed", 'printf "This account is \\033[31mclosed\\n"')
    with pytest.raises(UserError, match=r"no command ran there. Output: This account is \\x1b\[31mclosed"):
        made.fetch()


@pytest.mark.parametrize(
    "run",
    ["a b:run", "höst:run", "-oProxyCommand=touch x:run", "me@-x:run", "a\nb:run", "host:-rf", "host:a\nb", "\ud800:x"],
)
def test_odd_hosts_are_refused_in_one_paragraph(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "--", run]) == 2
    said = capsys.readouterr().err
    assert "HOST:RUN" in said
    assert said.strip().isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["ssh 'open", "", "no-such-ssh", "{text}"])
def test_odd_ssh_commands_are_refused(command, tmp_path):
    (tmp_path / "text").write_text("no program", encoding="utf-8")
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(UserError, match=r"not a command|is not installed|cannot be started|no command ran|no such run"):
        fetch("host:run", tmp_path / "here", ssh=command.format(text=tmp_path / "text"))


def test_record_that_is_no_file_is_an_error(tmp_path):
    (tmp_path / "record.json").mkdir()
    with pytest.raises(FileError, match="not a regular file"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("named", ["/home/other/run", "../other", "~/run", "$HOME/run", "link/run"])
def test_file_names_no_folder_outside_to_compare_with(named, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path.parent)
    config = json.dumps({"report": {"compare": named}})
    assert read_settings(config, "statistics.h5").report.compare is None
    assert "--set report.compare=FOLDER" in caplog.text
    chosen = read_settings(config, "statistics.h5", [f"report.compare={named}"]).report.compare
    assert str(chosen) == named
    assert str(read_settings(json.dumps({"report": {"compare": "runs/b"}}), "x.h5").report.compare) == "runs/b"


@pytest.mark.parametrize("config", ["[" * 100_000, "[]", "5", "null", '{"analysis": []}'])
def test_config_of_another_program_in_a_file_is_ignored(config):
    assert read_settings(config, "name.h5").name == "name"


def test_config_of_other_types_in_a_file_is_an_error():
    with pytest.raises(ConfigError, match=r"name\.h5"):
        read_settings('{"report": 5}', "name.h5")


def test_records_of_jobs_name_no_files_outside(tmp_path):

    (tmp_path / "secret.log").write_text(SECRET, encoding="utf-8")
    records = Records(tmp_path / "run" / "jobs")
    own = tmp_path / "run" / "jobs" / "0001" / "logs"
    for task in ("train ../../../x", "/etc"):
        with pytest.raises(FileError, match="not a path below"):
            records.attempts(task)
        assert not records.is_finished(f"train {task}")
    for log in (tmp_path / "secret.log", own / ".." / ".." / ".." / ".." / "secret.log", own / "secret.log"):
        job = SubmittedJob("train", "train", ("train net1",), False, (), "1", str(log), "x.sh")
        submission = Submission(1, "", "", "", (), {}, (job,))
        assert log_path(records, submission, "train net1").resolve() == (own / "secret.log").resolve()
    own.mkdir(parents=True)
    os.mkfifo(own / "pipe")
    assert tail(own / "pipe", 5) == ()
