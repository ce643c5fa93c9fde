"""Run experiments on a Slurm cluster: profiles, sbatch scripts, dependent jobs, their records and status.

Nothing here computes. Each job runs one stage of the ``convergence`` command under :mod:`slurm.job_runner`, which
writes a record of every attempt. The records, not the scheduler, decide what happened.
"""
