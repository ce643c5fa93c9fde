"""Slurm's commands as scripts, for tests that need no Slurm."""

from tests.helpers.fake_slurm import fake  # noqa: F401
