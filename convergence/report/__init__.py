"""The report: one folder that opens offline from disk, made of the files of results alone.

build.py     a run's results become pages, files of data and pictures
results.py   what is read, and what is wrong with it
site.py      pages, navigation and the files that they share
drawings.py  figures in every format, with their numbers
tables.py    measures of every layer, pairs, nets
units.py     what the unit browser shows, a file for each layer of each net
pictures.py  pictures.h5, if it is there and of this run; sprites.py: sheets of pictures
galleries.py which units to look at; cards.py: as they are shown
published.py the paper's values beside the run's
compare.py   two runs side by side; comparison.py: as a page
single.py    the folder as one file
"""

from convergence.report.build import report

__all__ = ["report"]
