"""Record the writes of commands, make every folder that a crash of the machine can leave, and resume from each.

    python -m benchmarks.replay --stages statistics train
    python -m benchmarks.replay --stages pack --states 500 --seed 1

SIGKILL leaves what was written; a machine that stops leaves what was flushed. A command runs once under strace. Each
prefix of its operations on files has four states (`tests/helpers/crash_states.py`): everything is on the disk; what was
not flushed is lost; names are there and bytes are not; sizes are there and bytes are zeros. Equal states count once.
The same command runs in each, in a forked child, and has to end with the datasets, weights, records and names of files
of an undisturbed run. At the end of a command nothing may be at risk. Exit code 1 if anything differs.

Consecutive writes to one file are a prefix each with --writes 0, otherwise that many of them, drawn by the seed.
"""

from __future__ import annotations

from benchmarks import timing  # noqa: F401  before numpy

# isort: split
import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.storm import warm
from benchmarks.system_calls import traced
from benchmarks.trials import Laboratory, Work, works
from tests.helpers.crash_states import KINDS, CrashState, Disk, Operation, Tree, crash_states, read_tree
from tests.helpers.fingerprints import differences, fingerprint

_laboratory: Laboratory
_expected: dict[str, dict[str, str]] = {}
_states: list[tuple[Work, CrashState]] = []
"""Set before the processes are forked, which find the states here."""


def record(work: Work, laboratory: Laboratory, trace: Path) -> tuple[Tree, list[Operation], Disk, Path]:
    """Run a work under strace; return the folder before, its operations, the disk at its end, and the path.

    Raises
    ------
    SystemExit
        if the operations do not lead to the files that are there.
    """
    runs = laboratory.folder / f"recorded-{work.name}"
    laboratory.prepare(work, runs)
    before = read_tree(runs)
    command = [sys.executable, "-m", "convergence", *laboratory.command(work, runs)]
    operations = traced(command, runs, trace, TMPDIR=str(laboratory.folder))
    disk = Disk(before)
    for operation in operations:
        disk.apply(operation)
    seen, there = disk.tree("kept"), read_tree(runs)
    wrong = [path for path in seen.keys() | there.keys() if seen.get(path) != there.get(path)]
    if wrong:
        raise SystemExit(f"{work.name}: the record of {', '.join(sorted(wrong)[:5])} is not what is there")
    return before, operations, disk, runs


def chosen_prefixes(operations: Sequence[Operation], writes: int, draw: random.Random) -> set[int]:
    """Numbers of operations after which the machine stops: all but some of consecutive writes to one file."""
    chosen: set[int] = set()
    numbered = enumerate(operations, start=1)
    for (kind, _), group in itertools.groupby(numbered, key=lambda item: (item[1].kind, item[1].path)):
        numbers = [n for n, _ in group]
        drawn = draw.sample(numbers, min(writes, len(numbers))) if kind == "write" and writes else numbers
        chosen |= {*drawn, numbers[-1]}
    return chosen


def resume(index: int) -> tuple[str, str]:
    """Run the command in one of the states; returns (kind of the state, what is wrong)."""
    work, state = _states[index]
    runs = _laboratory.folder / f"state-{os.getpid()}"
    place = runs.with_name(f"{runs.name}.scratch")
    state.write(runs)
    shutil.rmtree(place, ignore_errors=True)
    attempt = _laboratory.start(work, runs)
    code = attempt.wait(300)
    if code is None:
        return state.kind, f"{work.name}, {state}: hangs\n{attempt.stacks()}"
    if code:
        return state.kind, f"{work.name}, {state}: exit code {code}\n{attempt.log()[-1500:]}"
    found = differences(fingerprint(runs), _expected[work.name])
    return state.kind, f"{work.name}, {state}: {'; '.join(found[:5])}" if found else ""


def main() -> int:
    """Parse the arguments, record and replay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = tuple(name for name, work in works(2, 2).items() if not work.ranks)
    parser.add_argument("--stages", nargs="+", choices=known, default=known[:4], metavar="STAGE", help=", ".join(known))
    parser.add_argument("--writes", type=int, default=2, help="prefixes within consecutive writes to a file; 0 for all")
    parser.add_argument("--states", type=int, default=0, help="largest number of states of a stage, drawn; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=int, default=os.cpu_count() or 1, help="states at the same time")
    parser.add_argument("--minutes", type=float, default=600.0, help="time after which no other state is begun")
    options, begin = parser.parse_args(), time.monotonic()
    draw = random.Random(options.seed)
    chosen = [work for name, work in works(2, 2).items() if name in options.stages]
    folder = Path(tempfile.mkdtemp(prefix="replay-"))
    warm(chosen)
    global _laboratory
    _laboratory = Laboratory(folder)
    _laboratory.make_base(chosen)
    problems = []
    for work in chosen:
        start = time.monotonic()
        before, operations, disk, runs = record(work, _laboratory, folder / "trace")
        prefixes = chosen_prefixes(operations, options.writes, draw)
        states = list(crash_states(before, operations, prefixes))
        if options.states and len(states) > options.states:
            states = draw.sample(states, options.states)
        _states[:] = [(work, state) for state in states]
        _expected[work.name] = fingerprint(runs)
        for path in disk.at_risk():
            problems.append(f"{work.name}: at risk at the end: {path}")
            print(f"PROBLEM {problems[-1]}", flush=True)
        with ProcessPoolExecutor(options.streams, multiprocessing.get_context("fork")) as pool:
            results = []
            for result in pool.map(resume, range(len(_states))):
                results.append(result)
                if result[1]:
                    print(f"PROBLEM {result[1]}", flush=True)
                if time.monotonic() - begin > 60 * options.minutes:
                    pool.shutdown(cancel_futures=True)
                    break
        problems += [problem for _, problem in results if problem]
        counts = Counter(kind for kind, _ in results)
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
        print(f"{work.name}: {len(operations)} operations, {len(results)} of {len(states)} states ({kinds}), "
              f"{len(problems)} problems so far, {time.monotonic() - start:.0f} s", flush=True)  # fmt: skip
    print(f"to repeat: python -m benchmarks.replay {' '.join(sys.argv[1:])}")
    shutil.rmtree(folder)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
