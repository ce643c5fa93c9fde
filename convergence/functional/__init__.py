"""Does a match mean anything? What nets do when units, layers or weights of others take the place of their own.

settings.py    the ``[functional]`` section, a table an experiment
bench.py       nets, images in groups, sums: what every experiment starts from
scoring.py     accuracy and loss per image group, so that each has an error bar
file.py, run.py   pieces that survive a kill, and the file that an experiment leaves

An experiment is a module with a function ``pieces(bench)``, a line in ``EXPERIMENTS``, and a chapter of the report
(:mod:`convergence.report.matters`).
"""

from convergence.registry import Registry

EXPERIMENTS = Registry(
    "experiment",
    {
        "stitch": "convergence.functional.stitching:pieces",
        "merge": "convergence.functional.merging:pieces",
        "compress": "convergence.functional.compression:pieces",
        "ensemble": "convergence.functional.ensembles:pieces",
        "average": "convergence.functional.averaging:pieces",
    },
)
