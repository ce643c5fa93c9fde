"""One Slurm for all tests of this folder."""

from tests.helpers.slurm_site import cluster, site  # noqa: F401
