"""The report: one folder that opens offline from disk, made from the files of results alone.

build.py            pages, data and pictures from the results of a run
results.py          results of a run, and notices on files that do not fit
site.py             pages, menu, shared files, placed figures
tables.py           measures of every layer, pairs, nets
pair_view.py        a pair of nets from one side, for galleries and the unit browser
units.py            data of the unit browser, a file for each layer of each net
thumbnail_sheets.py pictures of units as sheets
galleries.py        lists of units side by side
published.py        values of the paper beside those of the run
comparison.py       two runs side by side
functional pages    matters.py, stitched.py, chapters/
single.py           the folder as one file
"""

from convergence.report.build import report

__all__ = ["report"]
