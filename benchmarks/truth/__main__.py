"""What the tool says of simulated populations of nets whose truth is known, and whether it is true.

    python -m benchmarks.truth [--draws 200] [--only SCENARIO ...] [--quick] [--workers 2] [--out TABLE.md]

Each draw of a scenario simulates the nets of a population, runs the pipeline on their activations, and reads intervals,
p-values, shares and sentences from the results. The table compares these with the truth. Exit code 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks.truth.bars import judged, table
from benchmarks.truth.scenarios import QUICK, SCENARIOS
from benchmarks.truth.simulation import n_draws, simulate

QUICK_DRAWS, QUICK_ALLOWANCE = 8, 3.0


def main() -> int:
    """Run the scenarios, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="draws of a population; slow ones have a share of them")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", choices=[one.name for one in SCENARIOS])
    parser.add_argument("--quick", action="store_true", help="a few draws of some populations, with wide bars")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    chosen = [one for one in SCENARIOS if one.name in options.only] if options.only else list(SCENARIOS)
    if options.quick:
        chosen = [one for one in chosen if one.name in QUICK or options.only]
    start = time.monotonic()
    draws = QUICK_DRAWS if options.quick else options.draws
    found = simulate([one.name for one in chosen], draws, options.workers, sys.stderr)
    bars = judged(found, QUICK_ALLOWANCE if options.quick else 0.0)
    counts = {one.name: n_draws(one.name, draws) for one in chosen}
    text = table(found, {one.name: one.about for one in chosen}, counts, bars)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    failed = [one for one in bars if not one.holds]
    minutes = (time.monotonic() - start) / 60
    print(
        f"\n{len(bars) - len(failed)} of {len(bars)} bars hold; {draws} draws, {minutes:.1f} minutes", file=sys.stderr
    )
    for one in failed:
        print(f"{one.scenario}: {one.bar.quantity} {one.mean:.3f} ± {one.error:.3f}, bar {one.bar}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
