"""Uncertainty of results: error bars, chance levels and false discoveries.

estimates.py  estimates with error bars, by the jackknife over image groups
populations.py  intervals over nets and images together, differences between populations of nets
pair_units.py means over pairs of nets, with the replicates that delete a net
chance.py     chance levels from random draws, p-values of units, false discovery rates
"""

from convergence.inference.chance import (
    LEAST_DRAWS,
    false_discovery_rates,
    generator_of,
    null_draws,
    null_level,
    unit_p_values,
)
from convergence.inference.estimates import Estimate, jackknife, jackknife_error, mean_estimate, reach
from convergence.inference.pair_units import PairUnits
from convergence.inference.populations import (
    LEAST_NETS,
    NetsInterval,
    NetsNumber,
    image_bias,
    jackknife_variance,
    nets_interval,
)

__all__ = [
    "LEAST_DRAWS",
    "LEAST_NETS",
    "Estimate",
    "NetsInterval",
    "NetsNumber",
    "PairUnits",
    "false_discovery_rates",
    "generator_of",
    "image_bias",
    "jackknife",
    "jackknife_error",
    "jackknife_variance",
    "mean_estimate",
    "nets_interval",
    "null_draws",
    "null_level",
    "reach",
    "unit_p_values",
]
