"""Seeded mutants of files and configs, each read by every reader: no traceback, no hang, no other numbers.

    python -m benchmarks.fuzz files --count 300 --seed 0
    python -m benchmarks.fuzz configs --count 1000 --seed 0

A mutant is read in a forked child with a time limit, so that a hang or a crash ends only the child. Outcomes: refused
(one paragraph of a UserError), same numbers, and the faults: different numbers, traceback, crash, hang. The command
prints the counts, names every fault with the seed that repeats it, and exits with 1 if there is one.
"""

from __future__ import annotations

import benchmarks.timing  # noqa: F401  # isort: skip

import argparse
import json
import logging
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convergence.errors import UserError
from convergence.registry import load_object

SECONDS = 20.0
"""Time limit of a mutant."""
LONGEST_MESSAGE = 3000
FAULTS = ("different numbers", "traceback", "crash", "hang")


class Outcome(NamedTuple):
    """What a reader made of a mutant."""

    mutant: str
    reader: str
    kind: str
    detail: str


Case = tuple[str, Callable[[], list[tuple[str, str, str]]]]
"""Name of a mutant, and a function that reads it: (reader, outcome, detail) of each reader."""


def outcome(read: Callable[[], str], expected: str | None) -> tuple[str, str]:
    """Outcome and detail of one reader; ``expected`` is what the whole file gives, None where others are valid."""
    try:
        found = read()
    except UserError as error:
        text = str(error)
        if len(text) > LONGEST_MESSAGE:
            return "traceback", f"a message of {len(text):,} characters: {text[:200]}"
        return "refused", text
    except Exception:
        return "traceback", traceback.format_exc(limit=-6)
    if expected is None or found == expected:
        return "same numbers" if found == expected else "valid", ""
    return "different numbers", f"{found[:200]} for {expected[:200]}"


def run_cases(cases: Sequence[Case], seconds: float = SECONDS) -> Iterator[Outcome]:
    """Read the cases in forked children, one child for many of them; a hang or a crash costs the child."""
    start = 0
    while start < len(cases):
        for found in _child(cases, start, seconds):
            yield found
            if found.reader == "":
                start += 1
        else:
            continue


def _child(cases: Sequence[Case], start: int, seconds: float) -> Iterator[Outcome]:
    """Outcomes of the cases from ``start`` on, until one hangs or crashes; an outcome without a reader ends a case."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _read_in_child(cases, start, writing)
    os.close(writing)
    pending, at, deadline = b"", start, time.monotonic() + seconds
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                yield Outcome(cases[at][0], "", "hang", f"more than {seconds:g} s")
                return
            content = os.read(reading, 1 << 16)
            if not content:
                if at < len(cases):
                    yield Outcome(cases[at][0], "", "crash", f"the process ended: {os.waitpid(child, os.WNOHANG)}")
                return
            *lines, pending = (pending + content).split(b"\n")
            for line in lines:
                found = Outcome(*json.loads(line))
                yield found
                if found.reader == "":
                    at, deadline = at + 1, time.monotonic() + seconds
    finally:
        os.close(reading)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _read_in_child(cases: Sequence[Case], start: int, writing: int) -> None:
    """Write the outcomes of the cases to a pipe, and end the process."""
    code = 1
    try:
        os.setpgid(0, 0)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for name, read in cases[start:]:
                for reader, kind, detail in read():
                    pipe.write(json.dumps([name, reader, kind, detail[:2000]]).encode() + b"\n")
                pipe.write(json.dumps([name, "", "read", ""]).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def report(found: Sequence[Outcome], seed: int) -> int:
    """Print the counts and every fault; return the exit code."""
    counts: dict[str, Counter[str]] = {}
    for one in found:
        if one.kind != "read":
            counts.setdefault(one.mutant.split(" ")[0], Counter())[one.kind] += 1
    for subject, numbers in sorted(counts.items()):
        print(f"{subject:14}", ", ".join(f"{kind}: {n}" for kind, n in sorted(numbers.items())))
    faults = [one for one in found if one.kind in FAULTS]
    for one in faults:
        print(f"\nFAULT {one.kind}, {one.mutant}, read by {one.reader or 'all'}, --seed {seed}\n{one.detail}")
    print(f"{sum(one.kind == 'read' or one.reader == '' for one in found)} mutants, {len(faults)} faults")
    return 1 if faults else 0


def fuzz_files(count: int, seed: int, folder: Path, kinds: Sequence[str] = ()) -> list[Outcome]:
    """Outcomes of ``count`` mutants of files of results, spread over the kinds of files."""
    made: Any = load_object("benchmarks.fuzz_files:subjects")(folder, kinds)
    cases: list[Case] = load_object("benchmarks.fuzz_mutations:cases")(made, count, seed, folder)
    return list(run_cases(cases))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=("files", "configs"))
    parser.add_argument("--count", type=int, default=300, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--kind", action="append", default=[], help="of files: only this kind; may be repeated")
    options = parser.parse_args(arguments)
    logging.getLogger("convergence").setLevel(logging.ERROR)
    if options.what == "configs":
        faults = load_object("benchmarks.fuzz_configs:fuzz")(options.count, options.seed)
        print("\n".join([*faults, f"{options.count:,} configs, {len(faults)} faults"]))
        return int(bool(faults))
    with tempfile.TemporaryDirectory() as folder:
        return report(fuzz_files(options.count, options.seed, Path(folder), options.kind), options.seed)


if __name__ == "__main__":
    sys.exit(main())
