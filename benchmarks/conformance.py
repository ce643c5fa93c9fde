"""Whether numbers are right: everything against other implementations and plain definitions, and hostile input.

    python -m benchmarks.conformance              # two tables, a few seconds
    python -m benchmarks.conformance --markdown   # as docs/conformance.md holds them

Data are made here, from seeds. Peers that are not installed are named and left out; pip install astropy networkx
statsmodels for all of them. Exit code 1 if a number differs by more than is stated.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from threadpoolctl import threadpool_limits

from benchmarks.conformance_layers import LAYERS
from benchmarks.conformance_statistics import BINNED_UNITS, HOSTILE_UNITS
from benchmarks.conformance_table import HOSTILE, ROWS, agreement_cells, markdown, outcome_cells

# Rows register themselves, in this order.
for _part in ("statistics", "alignments", "fits", "measures", "hostile"):
    import_module(f"benchmarks.conformance_{_part}")

AGREEMENT = ["what", "against", "cases", "which", "largest difference", "stated"]
OUTCOMES = ["input", "asked", "truth", "here", "the usual lines", "give"]
LEGEND = (
    f"- **The layers**: {', '.join(LAYERS)}.\n"
    f"- **The hostile units**: {HOSTILE_UNITS}.\n"
    f"- **The binned units**: {BINNED_UNITS}."
)


def main() -> int:
    """Measure all rows, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print tables in markdown")
    options = parser.parse_args()
    with threadpool_limits(1):  # small matrices
        found = [(row, row.measure()) for row in ROWS]
        outcomes = [(case, case.compute()) for case in HOSTILE]
    agreement = [agreement_cells(row, measured) for row, measured in found]
    hostile = [outcome_cells(case, outcome) for case, outcome in outcomes]
    if options.markdown:
        print("## Agreement", LEGEND, markdown(AGREEMENT, agreement), sep="\n\n")
        print("\n## Hostile input", markdown(OUTCOMES, hostile), sep="\n\n")
    else:
        print(LEGEND)
        for what, against, cases, which, difference, stated in agreement:
            print(f"{difference:>13} {stated:>7}  {what} against {against}\n{'':23}{cases} cases: {which}")
        for given, asked, truth, here, usual, gives in hostile:
            print(f"{given}: {asked} is {truth}; here {here}; {usual}: {gives}")
    beyond = [row.what for row, measured in found if measured and not measured.difference <= row.within]
    wrong = [case.given for case, outcome in outcomes if not outcome.right]
    for name in (*beyond, *wrong):
        print(f"NOT AS STATED: {name}", file=sys.stderr)
    return 1 if beyond or wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
