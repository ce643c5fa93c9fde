"""Uncertainty of results.

estimates.py   jackknife over image groups, chance levels, false-discovery rates
"""
