"""The chapters on functional experiments: sentences, tables and figures.

Each module has a function ``chapter`` from results to a :class:`~convergence.report.functional_page.Chapter`, which is
listed in ``CHAPTERS`` of :mod:`convergence.report.functional_page`.
"""
