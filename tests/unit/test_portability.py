"""The base install runs on macOS and Windows: guards about what some systems lack, names for all disks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from convergence.config.load import parse_config
from convergence.errors import ConfigError

ROOT = Path(__file__).parents[2]
NOT_BASE = {"training.py", "learner.py", "checkpoints.py", "distributed.py", "activations.py", "devices.py"}
"""What needs torch; hpc/ and slurm/ run on clusters, on Linux."""
MISSING_MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog", "msvcrt", "winreg", "posix"}
MISSING = {
    "os": {
        "fork", "forkpty", "getuid", "geteuid", "getgid", "setuid", "getpgid", "setsid", "killpg", "uname", "chown",
        "nice", "mkfifo", "mknod", "O_DIRECT", "O_DIRECTORY", "O_NOFOLLOW", "O_SYNC", "O_NONBLOCK", "posix_fadvise",
        "posix_fallocate", "sched_getaffinity", "sched_setaffinity", "pread", "pwrite", "getloadavg", "sysconf",
        "statvfs", "sync", "fdatasync", "wait", "WIFEXITED", "openpty", "sendfile", "copy_file_range", "memfd_create",
        "eventfd", "getrandom", "fchmod", "fchown", "pipe2", "register_at_fork",
    },
    "signal": {
        "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "SIGALRM", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGQUIT", "SIGPIPE",
        "alarm", "setitimer", "pause", "sigwait", "pthread_kill", "pthread_sigmask", "siginterrupt",
    },
    "time": {"tzset", "clock_gettime_ns"},
    "socket": {"AF_UNIX"},
    "multiprocessing": {"fork"},
}  # fmt: skip
"""What Windows (or macOS) lacks."""


def base_modules() -> list[Path]:
    return [path for path in sorted((ROOT / "convergence").rglob("*.py")) if path.name not in NOT_BASE]


def unguarded(text: str) -> Iterator[str]:
    """Uses of what not every system has, outside a test of `hasattr`, `os.name`, `sys.platform` or a `try`."""

    def visit(node: ast.AST, guarded: bool) -> Iterator[str]:
        if isinstance(node, ast.If | ast.IfExp):
            test = ast.unparse(node.test)
            guarded |= "hasattr" in test or "os.name" in test or "sys.platform" in test
        if isinstance(node, ast.Try):
            caught = {
                name for handler in node.handlers if handler.type for name in ast.unparse(handler.type).split(", ")
            }
            guarded |= bool(caught & {"ImportError", "AttributeError", "ModuleNotFoundError"})
        if not guarded:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                yield from (name for name in names if name.split(".")[0] in MISSING_MODULES)
                if isinstance(node, ast.ImportFrom) and node.module in MISSING:
                    yield from (a.name for a in node.names if a.name in MISSING[node.module])
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.attr in MISSING.get(node.value.id, ())
            ):
                yield f"{node.value.id}.{node.attr}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, guarded)

    yield from visit(ast.parse(text), False)


def test_base_modules_use_nothing_that_some_systems_lack():
    for path in base_modules():
        assert list(unguarded(path.read_text(encoding="utf-8"))) == [], path


def test_text_is_read_and_written_as_utf8():
    """Windows' own encoding is another."""
    for path in base_modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                keywords = {keyword.arg for keyword in node.keywords}
                if node.func.attr in ("read_text", "write_text"):
                    assert "encoding" in keywords, f"{path}:{node.lineno}"
                if node.func.attr == "open" and any(
                    isinstance(a, ast.Constant) and a.value in ("r", "w", "a") for a in node.args
                ):
                    owner = ast.unparse(node.func.value)
                    assert "encoding" in keywords or "h5" in owner or "Image" in owner, f"{path}:{node.lineno}"


def test_portability_check_detects_planted_uses():
    assert list(unguarded("import os\nos.fork()")) == ["os.fork"]
    assert list(unguarded("import fcntl")) == ["fcntl"]
    assert list(unguarded("from signal import SIGUSR2")) == ["SIGUSR2"]
    assert list(unguarded("import os\nif hasattr(os, 'fork'):\n    os.fork()")) == []
    assert list(unguarded("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None")) == []


def test_file_names_differ_by_more_than_case():
    seen: dict[str, Path] = {}
    for path in sorted(ROOT.rglob("*")):
        if any(part in (".git", ".venv", "runs", "build", "__pycache__") for part in path.relative_to(ROOT).parts):
            continue
        key = path.relative_to(ROOT).as_posix().lower()
        assert seen.setdefault(key, path) == path
        assert not set(path.name) & set('<>:"|?*\\'), path


CONFIG = """
name = "{name}"
[activations.nets]
{first} = {{ conv1 = "a.npy", Conv1 = "b.npy" }}
{second} = {{ conv1 = "a.npy", Conv1 = "b.npy" }}
[statistics]
comparisons = {comparisons}
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"comparisons": '["conv1", "Conv1"]'}, '"conv1" and "Conv1" differ by case only'),
        ({"second": "NET1"}, '"net1" and "NET1" differ by case only'),
        ({"name": "nul"}, "cannot be the name of a folder on Windows"),
        ({"second": "com1"}, "cannot be the name of a folder on Windows"),
    ],
)
def test_names_that_become_files_fit_every_system(change, says):
    values = {"name": "x", "first": "net1", "second": "net2", "comparisons": '["conv1"]'} | change
    if says:
        with pytest.raises(ConfigError, match=says):
            parse_config(CONFIG.format(**values))
    else:
        assert parse_config(CONFIG.format(**values)).name == "x"
