"""The cluster: profiles, sbatch text, jobs that depend on each other, their records; the one door to submitit.

Nothing here computes. A job runs a stage of the ``convergence`` command under :mod:`slurm.wrapper`, which leaves a
marker file for each attempt, and the markers, not the scheduler, say what happened.
"""
