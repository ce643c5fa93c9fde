"""A real OpenSSH server on the loopback interface, with keys of its own, run by whoever runs the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Start a server that knows one key; yields the ``ssh`` command that connects to it."""
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where Debian's server shuts its unprivileged part in
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PidFile {folder}/pid\nPermitUserEnvironment no\nPermitRootLogin prohibit-password\n",
        encoding="utf-8",
    )
    known = f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text(encoding='utf-8')}"
    (folder / "known_hosts").write_text(known, encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            time.sleep(0.05)
        yield (
            f"ssh -F none -p {port} -i {folder}/user -o IdentitiesOnly=yes -o BatchMode=yes "
            f"-o UserKnownHostsFile={folder}/known_hosts -o StrictHostKeyChecking=yes -l {getpass.getuser()}"
        )
    finally:
        process.terminate()
        process.wait(timeout=10)


def wrapper(path: Path, text: str) -> str:
    """An executable script, as a command; ``exec "$@"`` in it goes on to what it wraps."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


PYTHON = f"PYTHONPATH='{os.environ.get('PYTHONPATH', '')}' '{sys.executable}' -m convergence"
"""How the toolkit is called through the server, whose environment is empty."""
