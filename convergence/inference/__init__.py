"""Uncertainty of results: error bars, chance levels and false discoveries.

estimates.py  estimates with error bars, by the jackknife over image groups
chance.py     chance levels from random draws, p-values of units, false discovery rates
"""

from convergence.inference.chance import (
    false_discovery_rates,
    generator_of,
    null_draws,
    null_level,
    unit_p_values,
)
from convergence.inference.estimates import Estimate, jackknife, jackknife_error, mean_estimate, reach

__all__ = [
    "Estimate",
    "false_discovery_rates",
    "generator_of",
    "jackknife",
    "jackknife_error",
    "mean_estimate",
    "null_draws",
    "null_level",
    "reach",
    "unit_p_values",
]
