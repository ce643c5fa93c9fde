"""A chapter for each functional experiment: what came out in words, tables and figures.

Each is a function of an experiment's results that returns a :class:`~convergence.report.matters.Chapter`; another one
is a file and a line in ``CHAPTERS`` of :mod:`convergence.report.matters`.
"""
