"""The science: networks, their statistics, alignments, measures and pictures. No MPI, no Slurm, no Dask."""

from convergence.version import __version__

__all__ = ["__version__"]
