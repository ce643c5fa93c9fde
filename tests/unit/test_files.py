"""Names confined to a folder, folders for their owner, and scratch folders."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from convergence.errors import FileError
from convergence.io.files import (
    atomic_write,
    confined,
    create_for_owner,
    private_folder,
    relative_name,
    remove_leftovers_of,
    scratch_folder,
)

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes of POSIX")
NOBODY = 65534


@pytest.fixture
def mode_mask():
    before = os.umask(0)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "/etc/passwd", "../x", "a/../../x", "a/..", "a//b", "a/", "./a", "C:/x", "c:x", "a\\..\\b",
        "a\0b", "a\nb", "a\x1b[2Jb", "a/" + "x" * 256, "\ud800", None, 3, ["a"],
    ],
)  # fmt: skip
def test_name_that_is_no_path_below_its_folder_is_refused(name, tmp_path):
    with pytest.raises(FileError, match="not a path below its folder") as error:
        confined(tmp_path, name)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["a", "a/b.h5", "..a/b..", "net1 & net2/w", "ünï/ç", "\udcff", "-rf", "~/x", "$HOME"])
def test_name_below_its_folder_is_kept(name, tmp_path):
    assert relative_name(name) == name
    assert confined(tmp_path, name) == tmp_path / name


def test_link_out_of_the_folder_is_refused_and_link_within_it_kept(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "real").mkdir(parents=True)
    other.mkdir()
    (root / "out").symlink_to(other)
    (root / "within").symlink_to(root / "real")
    (root / "loop").symlink_to(root / "loop")
    for name in ("out", "out/file", "loop/file"):
        with pytest.raises(FileError, match="leads out of"):
            confined(root, name)
    assert confined(root, "within/file") == root / "within" / "file"
    (tmp_path / "link to root").symlink_to(root)
    assert confined(tmp_path / "link to root", "real/file")  # the folder itself may be a link of the user


@posix
def test_created_folders_and_files_do_not_depend_on_the_umask(tmp_path, mode_mask):
    for k, mask in enumerate((0o000, 0o022, 0o077)):
        mode_mask(mask)
        folder = tmp_path / f"runs{k}" / "run" / "nets"
        create_for_owner(folder.parent)
        with atomic_write(folder / "net1" / "weights.safetensors") as temporary:
            temporary.write_bytes(b"weights")
        assert mode(folder.parent) == mode(folder / "net1") == 0o700
        assert mode(folder / "net1" / "weights.safetensors") == 0o600
        assert not mode(folder.parents[1]) & 0o022
        assert not mode(folder) & 0o022


@posix
def test_folder_of_another_user_or_open_to_others_is_refused(tmp_path, monkeypatch):
    mine = private_folder(tmp_path / "mine")
    assert mode(mine) == 0o700
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="symbolic link"):
        private_folder(tmp_path / "link")
    with pytest.raises(FileError, match="not a folder"):
        private_folder(tmp_path / "file")
    for open_to in (0o770, 0o702):
        mine.chmod(open_to)
        with pytest.raises(FileError, match="other users can write"):
            private_folder(mine)
    mine.chmod(0o755)
    assert private_folder(mine) == mine
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(FileError, match="another user"):
        private_folder(mine)


@posix
def test_scratch_folder_avoids_places_where_others_replace_folders(tmp_path, monkeypatch):
    shared, sticky = tmp_path / "shared", tmp_path / "sticky"
    for folder, bits in ((shared, 0o777), (sticky, 0o1777)):
        folder.mkdir()
        folder.chmod(bits)
    (shared / "mine").mkdir(mode=0o700)
    for place, parent in ((sticky, sticky), (shared, sticky), (shared / "mine", sticky), (tmp_path, tmp_path)):
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        with scratch_folder(fallback=sticky) as scratch:
            assert scratch.parent == parent
            assert mode(scratch) == 0o700
        assert not scratch.exists()


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root gives folders to another user")
def test_folder_of_a_real_other_user_is_refused(tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1234, 1234)
    with pytest.raises(FileError, match=r"another user \(id 1234\)"):
        private_folder(theirs)
    monkeypatch.setattr(tempfile, "tempdir", str(theirs))
    with scratch_folder(fallback=tmp_path) as scratch:
        assert scratch.parent == tmp_path


def test_no_safe_place_is_an_error_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("convergence.io.files.keeps_folders", lambda place: False)
    with pytest.raises(FileError, match="Set TMPDIR"), scratch_folder():
        pass
    assert not list(Path(tmp_path).iterdir())


def test_leftovers_of_an_output_are_removed_and_others_kept(tmp_path):
    """Temporary files of a killed process: beside a file, and at any depth of a folder."""
    names = ["a.h5", ".a.h5.x.partial", ".b.h5.x.partial", "nets/net1/.weights.x.partial", "nets/net1/weights"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_leftovers_of(tmp_path / "a.h5")
    remove_leftovers_of(tmp_path / "nets")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a.h5", ".b.h5.x.partial", "nets/net1/weights"}


WRITING = """
import sys
from pathlib import Path
from convergence.io.files import atomic_write
for _ in range(60):
    with atomic_write(Path(sys.argv[1]), shared=True) as temporary:
        temporary.write_text("the same")
"""


def test_processes_write_a_shared_file_at_a_time(tmp_path):
    """No process removes the temporary file of another that runs."""
    command = [sys.executable, "-c", WRITING, str(tmp_path / "files.json")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["files.json"]


KILLED = """
import os, sys
from pathlib import Path
from convergence.io.files import atomic_write
with atomic_write(Path(sys.argv[1]), shared=True) as temporary:
    os._exit(1)
"""


def test_a_shared_write_removes_temporary_files_of_processes_that_ended(tmp_path):
    target = tmp_path / "files.json"
    subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    (left,) = tmp_path.iterdir()
    machine, pid, _ = left.name.removeprefix(".files.json.").split("-")
    others = [tmp_path / f".files.json.{name}-x.partial" for name in (f"{machine}-{os.getppid()}", f"00000000-{pid}")]
    old = tmp_path / ".files.json.00000000-1-x.partial"
    for path in (*others, old):
        path.touch()
    os.utime(old, (0, 0))
    with atomic_write(target, shared=True) as temporary:
        temporary.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([*others, target])
