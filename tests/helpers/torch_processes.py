"""Processes as torchrun starts them, with what a test plants in them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
from convergence.cli import main
{planted}
code = main(sys.argv[1:])
for thread in os.listdir("/proc/self/task") if os.path.isdir("/proc") else ():  # one that ends late aborts the process
    with open(f"/proc/self/task/{{thread}}/comm") as name:
        assert "gloo" not in name.read()
sys.exit(code)
"""


def start(size: int, arguments: list[str], planted: str = "") -> list[subprocess.Popen]:
    """So many processes of the command, each after a piece of Python; a single one stands alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(planted=planted), *arguments], cwd=Path(__file__).parents[2],
            text=True, stderr=subprocess.PIPE,
            env=os.environ | (common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else {}),
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen], timeout: float = 300) -> tuple[list[int], list[str]]:
    """Exit codes, and what each said."""
    errors = [process.communicate(timeout=timeout)[1] for process in processes]
    return [process.returncode for process in processes], errors
