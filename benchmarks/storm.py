"""Kill commands at random instants, run them again, and compare what they leave with undisturbed runs.

    python -m benchmarks.storm --kills 300 --seed 0
    python -m benchmarks.storm --kills 50 --stages statistics ranks --ranks 6 --signals INT

Each trial starts a command (a stage, `run`, `pack`, MPI ranks, Dask workers), sends signals at random times, mostly
SIGKILL, and runs the same command again after each. At the end every dataset, weight, record and file name has to be
that of an undisturbed run. A command that ends after a signal may be started a second time while it still runs: the
second one has to wait or to refuse. Commands that exceed --timeout are reported with the stacks of all threads.
Exit code 1 if anything differs, fails or hangs. A seed repeats the draws; instants differ by what the machine does.
"""

from __future__ import annotations

from benchmarks import timing  # noqa: F401  before numpy

# isort: split
import argparse
import itertools
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.trials import Laboratory, Work, works
from tests.helpers.attempts import Attempt, send
from tests.helpers.fingerprints import differences, fingerprint

SHARES = {"KILL": 0.6, "TERM": 0.15, "USR2": 0.1, "INT": 0.15}
ACCEPTED = {"KILL": (0, -9), "TERM": (0, 75, -15), "USR2": (0, 75, -12), "INT": (0, 130, -2)}
"""Exit codes of a process after a signal to it: done before it arrived, stopped, or ended before Python handled it."""
KILLS_PER_TRIAL = 4
ORPHAN_S = 60.0
"""Time within which all processes of a killed command have to end."""


@dataclass
class Outcome:
    """Result of a trial."""

    work: str
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    seconds_at_once: float = 0.0
    second_commands: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Storm:
    """The trials of a seed; runs in each of the forked processes."""

    def __init__(self, laboratory: Laboratory, options: argparse.Namespace) -> None:
        self.laboratory, self.options = laboratory, options
        self.expected: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}

    def measure(self, work: Work) -> list[str]:
        """Do the work once undisturbed, beside the base run; returns how it differs from that."""
        runs = self.laboratory.folder / f"undisturbed-{work.name}"
        self.laboratory.prepare(work, runs)
        attempt = self.laboratory.start(work, runs)
        code = attempt.wait(self.options.timeout)
        self.seconds[work.name] = time.monotonic() - attempt.started
        self.expected[work.name] = fingerprint(self.laboratory.base(work.config))
        found = differences(fingerprint(runs), self.expected[work.name])
        shutil.rmtree(runs)
        return found[:5] if code == 0 else [f"exit code {code}: {attempt.log()[-1500:]}"]

    def trial(self, work: Work, number: int) -> Outcome:
        """Signals at random instants until the command is done; then the comparison."""
        outcome, draw = Outcome(work.name), random.Random(f"{self.options.seed} {work.name} {number}")
        runs = self.laboratory.folder / f"trial-{work.name}-{number}"
        self.laboratory.prepare(work, runs)
        for last in (False,) * KILLS_PER_TRIAL + (True,):
            attempt = self.laboratory.start(work, runs)
            ended = last or self._disturb(work, runs, attempt, draw, outcome)
            if outcome.problems:
                break
            if ended:
                self._finish(work, attempt, outcome)
                break
        if not outcome.problems:
            found = differences(fingerprint(runs), self.expected[work.name])
            outcome.problems += [f"{len(found)} differences: {'; '.join(found[:8])}"] if found else []
        if not outcome.problems:
            shutil.rmtree(runs)
            shutil.rmtree(runs.with_name(f"{runs.name}.scratch"), ignore_errors=True)
        outcome.problems = [f"{work.name}, trial {number} ({runs}): {problem}" for problem in outcome.problems]
        return outcome

    def _finish(self, work: Work, attempt: Attempt, outcome: Outcome) -> None:
        code = attempt.wait(self.options.timeout)
        outcome.seconds, outcome.seconds_at_once = time.monotonic() - attempt.started, self.seconds[work.name]
        if code is None:
            outcome.problems.append(f"the resumed command hangs:\n{attempt.stacks()}")
        elif code != 0:
            outcome.problems.append(f"the resumed command ended with {code}:\n{attempt.log()[-3000:]}")

    def _disturb(self, work: Work, runs: Path, attempt: Attempt, draw: random.Random, outcome: Outcome) -> bool:
        """Send one signal; whether the command ended before it."""
        usual = self.seconds[work.name]
        delay = draw.uniform(0, usual) if draw.random() < 0.7 else draw.uniform(0.8, 1.05) * usual
        name = draw.choices(self.options.signals, [SHARES[name] for name in self.options.signals])[0]
        second = draw.random() < self.options.second
        if attempt.wait(delay * (draw.random() if second else 1.0)) is not None:
            return True
        other = self.laboratory.start(work, runs) if second else None
        if other is not None and attempt.wait(delay / 2) is not None:
            self._settle(work, other, outcome, ORPHAN_S + self.options.timeout)
            return True
        victims = self._victims(work, attempt, name, draw)
        if attempt.poll() is not None:
            if other is not None:
                self._settle(work, other, outcome, self.options.timeout)
            return True
        for victim in victims:
            send(victim, getattr(signal, f"SIG{name}"))
        outcome.kills[name] += 1
        code = attempt.wait(self.options.timeout)
        if code is None:
            outcome.problems.append(f"the command hangs after SIG{name}:\n{attempt.stacks()}")
            return False
        on_itself = len(victims) == 1 and victims[0].pid == attempt.pid and not work.ranks
        if on_itself and code not in ACCEPTED[name]:
            outcome.problems.append(f"exit code {code} after SIG{name}:\n{attempt.log()[-3000:]}")
        orphans = attempt.orphans(ORPHAN_S)
        if orphans:
            outcome.problems.append(f"{ORPHAN_S:.0f} s after SIG{name} there still are: {'; '.join(orphans)}")
        if other is not None:
            self._settle(work, other, outcome, self.options.timeout)
        return code == 0 and not work.ranks

    def _settle(self, work: Work, other: Attempt, outcome: Outcome, seconds: float) -> None:
        """Wait for a second command: it did the work, found it done, or refused."""
        code = other.wait(seconds)
        outcome.second_commands["done" if code == 0 else "refused" if code == 2 else "failed"] += 1
        if code is None:
            outcome.problems.append(f"the second command hangs:\n{other.stacks()}")
        elif code not in (0, 2):
            outcome.problems.append(f"the second command ended with {code}:\n{other.log()[-3000:]}")

    def _victims(self, work: Work, attempt: Attempt, name: str, draw: random.Random) -> list[psutil.Process]:
        """The command, one of its ranks or workers, or all of them."""
        try:
            command = psutil.Process(attempt.pid)
        except psutil.NoSuchProcess:
            return []
        below = [p for p in attempt.descendants() if "resource_tracker" not in " ".join(_arguments(p))]
        inner = [p for p in below if not p.children()] if work.ranks else below
        if not inner or draw.random() < 0.4 or (name != "KILL" and not work.ranks):
            return [command]
        if name == "INT":  # a terminal sends it to all processes
            return [command, *below]
        return [draw.choice(inner)] if draw.random() < 0.6 else [command, *below]


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


_storm: Storm
"""Set before the processes are forked."""


def _run_trial(work: Work, number: int) -> Outcome:
    return _storm.trial(work, number)


def warm(chosen: list[Work]) -> None:
    """Import what the commands import, so that forked children start at once."""
    if any(work.config != "planted" for work in chosen):
        import torchvision.transforms  # noqa: F401


def main() -> int:
    """Parse the arguments and run the storm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = tuple(works(2, 2))
    parser.add_argument("--kills", type=int, default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--stages", nargs="+", choices=known, default=known, metavar="STAGE", help=", ".join(known))
    parser.add_argument("--signals", nargs="+", choices=tuple(SHARES), default=tuple(SHARES))
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--streams", type=int, default=os.cpu_count() or 1, help="trials at the same time")
    parser.add_argument("--second", type=float, default=0.0, metavar="SHARE", help="of attempts with a second command")
    parser.add_argument("--minutes", type=float, default=600.0, help="time after which no other trial is begun")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds after which a command hangs")
    options = parser.parse_args()
    logging.disable(logging.NOTSET)
    chosen = [work for name, work in works(options.ranks, options.workers).items() if name in options.stages]
    start, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="storm-"))
    warm(chosen)
    global _storm
    _storm = Storm(Laboratory(folder), options)
    _storm.laboratory.make_base(chosen)
    problems = [f"{work.name}, undisturbed twice: {text}" for work in chosen for text in _storm.measure(work)]
    print(f"undisturbed runs: {time.monotonic() - start:.0f} s; seed {options.seed}; {folder}", flush=True)
    outcomes = storm(chosen, options) if not problems else []
    problems += [problem for outcome in outcomes for problem in outcome.problems]
    _print_table(chosen, outcomes, options)
    print(f"{time.monotonic() - start:.0f} s; to repeat: python -m benchmarks.storm {' '.join(sys.argv[1:])}")
    for problem in problems:
        print(f"PROBLEM {problem}")
    if not problems:
        shutil.rmtree(folder)
    return 1 if problems else 0


def storm(chosen: list[Work], options: argparse.Namespace) -> list[Outcome]:
    """Trials in turn over the works, until each has had its share of the kills."""
    left = {work.name: -(-options.kills // len(chosen)) for work in chosen}
    numbers = {work.name: itertools.count() for work in chosen}
    outcomes: list[Outcome] = []
    end = time.monotonic() + 60 * options.minutes
    with ProcessPoolExecutor(options.streams, multiprocessing.get_context("fork")) as pool:
        running = {}
        while True:
            for work in sorted(chosen, key=lambda work: -left[work.name]):
                if len(running) < options.streams and left[work.name] > 0 and time.monotonic() < end:
                    left[work.name] -= 1  # an expectation, corrected by the outcome
                    running[pool.submit(_run_trial, work, next(numbers[work.name]))] = work
            if not running:
                return outcomes
            done = next(as_completed(running))
            work, outcome = running.pop(done), done.result()
            left[work.name] += 1 - outcome.kills.total()
            outcomes.append(outcome)
            for problem in outcome.problems:
                print(f"PROBLEM {problem}", flush=True)


def _print_table(chosen: list[Work], outcomes: list[Outcome], options: argparse.Namespace) -> None:
    print(
        f"{'':12}{'trials':>8}" + "".join(f"{name:>6}" for name in options.signals) + "   slowest resume (undisturbed)"
    )
    for work in chosen:
        own = [outcome for outcome in outcomes if outcome.work == work.name]
        kills = sum((outcome.kills for outcome in own), Counter())
        slowest = max((outcome.seconds for outcome in own), default=0.0)
        counts = "".join(f"{kills[name]:6}" for name in options.signals)
        print(f"{work.name:12}{len(own):8}{counts}   {slowest:.1f} s ({_storm.seconds[work.name]:.1f} s)")
    kills = sum((outcome.kills for outcome in outcomes), Counter())
    print(f"{'all':12}{len(outcomes):8}" + "".join(f"{kills[name]:6}" for name in options.signals))
    if seconds := sum((outcome.second_commands for outcome in outcomes), Counter()):
        print("second commands at once: " + ", ".join(f"{n} {what}" for what, n in sorted(seconds.items())))


if __name__ == "__main__":
    sys.exit(main())
