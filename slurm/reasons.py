"""Why a job ended, in one sentence, from its exit code and the last lines that it printed."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

TAIL_LINES = 25
_OOM = re.compile(r"oom[-_ ]kill|out[-_ ]of[-_ ]memory|MemoryError|exceeded memory limit", re.I)
_GPU_OOM = re.compile(r"CUDA.*out of memory", re.I)
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Warning)\b(?::.*)?$")
WORDS = {
    "TIMEOUT": "TIMEOUT: it reached its time limit; raise walltime_min, or requeue.signal_s if it stopped too late",
    "OUT_OF_MEMORY": "OOM: it used more memory than it asked for; raise memory_gb of the stage",
    "NODE_FAIL": "NODE_FAIL: its node failed",
    "CANCELLED": "CANCELLED: it was cancelled",
    "PREEMPTED": "PREEMPTED: another job took its place",
    "DEADLINE": "DEADLINE: it could not end before its deadline",
    "BOOT_FAIL": "BOOT_FAIL: its node did not boot",
}
"""Slurm's words for ends, with what to do."""


def reason_of(code: int, tail: Sequence[str]) -> str:
    """Why a stage that ended with this code did so."""
    for line in reversed(tail):
        if _GPU_OOM.search(line):
            return f"OOM: the GPU's memory ran out ({line.strip()})"
        if _OOM.search(line):
            return WORDS["OUT_OF_MEMORY"]
        if "DUE TO TIME LIMIT" in line:
            return WORDS["TIMEOUT"]
        if "DUE TO NODE FAILURE" in line:
            return WORDS["NODE_FAIL"]
    told = [line.removeprefix("convergence: ") for line in tail if line.startswith("convergence: ")]
    if told:
        return told[0]
    for line in reversed(tail):
        exception = _EXCEPTION.match(line.strip())
        if exception:
            return exception[0]
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            return f"exit code {code}"
        more = ": memory ran out, most likely, or somebody killed it" if name == "SIGKILL" else ""
        return f"killed by {name}{more}"
    return f"exit code {code}"
