"""Experiments on what nets compute when units, layers or weights of other nets replace their own.

settings.py          the ``[functional]`` section, one table per experiment
context.py           nets, images in groups and sums: what an experiment starts from
scores.py            accuracy and loss per image group; prediction_metrics.py: calibration of many nets
tables.py, file.py   results as tables; stage.py: tasks that survive a kill, and the file
surgery/             tracing units, permuting and removing them, splitting a net, aligning and repairing nets

Each experiment is a folder with ``experiment.py``, whose ``tasks(context)`` is in ``EXPERIMENTS``, and ``results.py``,
whose class of tables is in ``RESULTS``. Its chapter of the report is in :mod:`convergence.report.functional_page`.
"""

from convergence.registry import Registry

EXPERIMENTS = Registry(
    "experiment",
    {
        "stitch": "convergence.functional.stitching.experiment:tasks",
        "merge": "convergence.functional.merging.experiment:tasks",
        "compress": "convergence.functional.compression.experiment:tasks",
        "ensemble": "convergence.functional.ensembling.experiment:tasks",
        "average": "convergence.functional.averaging.experiment:tasks",
    },
)
RESULTS = Registry(
    "results of an experiment",
    {
        "stitch": "convergence.functional.stitching.results:StitchingResults",
        "merge": "convergence.functional.merging.results:MergingResults",
        "compress": "convergence.functional.compression.results:CompressionResults",
        "ensemble": "convergence.functional.ensembling.results:EnsemblingResults",
        "average": "convergence.functional.averaging.results:AveragingResults",
    },
)
