"""Processor time of every stage of a run, from images to the report, in two checkouts of the toolkit.

    python -m benchmarks.first_report OLD_TREE NEW_TREE [--config CONFIG] [--rounds N]

Every stage is run by its verb, first in one tree, then in the other, in ``--rounds`` rounds with folders of their own.
The time is user and system time of the process and its children (``os.wait4``), and the least of all rounds counts,
because other processes of the machine only add to it. A round before, which is not counted, fills the caches of
compiled code and of the system. CONFIG (default: ``configs/digits.toml`` of the old tree) has to be valid in both. A
verb that a tree lacks is replaced by its options there: averaging was ``train --averaging``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = (
    "train", "statistics", "analyze", "pictures", "stitch", "merge", "compress", "ensemble", "average", "report",
)  # fmt: skip
OLDER = {"average": ("train", "--averaging")}
"""Arguments of verbs that older trees do not have."""


def processor_seconds(tree: Path, arguments: list[str], log: Path) -> tuple[float, int]:
    """User and system time of a command of a tree and its children, and its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    with log.open("ab") as output:
        command = [sys.executable, "-m", "convergence", *arguments]
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, process.returncode


def verbs_of(tree: Path, stage: str, log: Path) -> list[str]:
    """The arguments that run a stage in a tree."""
    _, code = processor_seconds(tree, [stage, "--help"], log)
    return [stage] if code == 0 or stage not in OLDER else list(OLDER[stage])


def run_stage(tree: Path, stage: str, config: Path, runs: Path) -> float:
    """Processor time of a stage; ends the benchmark if it fails."""
    log = runs / "log"
    seconds, code = processor_seconds(tree, [*verbs_of(tree, stage, log), str(config), "--runs", str(runs)], log)
    if code != 0:
        raise SystemExit(f"{stage} failed in {tree}:\n{log.read_text(errors='replace')[-2000:]}")
    return seconds


def table(times: dict[str, tuple[list[float], list[float]]]) -> str:
    """Markdown: the least time of each stage in both trees, their ratio, and the whole."""
    rows = [(stage, min(old), min(new)) for stage, (old, new) in times.items()]
    rows.append(("whole", sum(old for _, old, _ in rows), sum(new for _, _, new in rows)))
    lines = ["| stage | old, CPU s | new, CPU s | new / old |", "|---|---|---|---|"]
    lines += [f"| {stage} | {old:.1f} | {new:.1f} | {new / old:.2f} |" for stage, old, new in rows]
    return "\n".join(lines)


def main() -> None:
    """Run both trees in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--config", type=Path, help="default: configs/digits.toml of the old tree")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    trees = (given.old.resolve(), given.new.resolve())
    config = (given.config or trees[0] / "configs" / "digits.toml").resolve()
    times: dict[str, tuple[list[float], list[float]]] = {stage: ([], []) for stage in STAGES}
    with tempfile.TemporaryDirectory() as place:
        for number in range(given.rounds + 1):
            folders = [Path(place) / f"{number}-{name}" for name in ("old", "new")]
            for folder in folders:
                folder.mkdir()
            for stage in STAGES:
                for k, (tree, folder) in enumerate(zip(trees, folders, strict=True)):
                    seconds = run_stage(tree, stage, config, folder)
                    if number:  # the first round fills the caches
                        times[stage][k].append(seconds)
                    print(f"round {number}, {stage}, {('old', 'new')[k]}: {seconds:.1f} s", file=sys.stderr, flush=True)
            for folder in folders:
                shutil.rmtree(folder)
    print(table(times))


if __name__ == "__main__":
    main()
