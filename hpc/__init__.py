"""Stages over many processes: ranks of MPI, and tasks on Dask workers."""
