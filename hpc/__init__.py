"""Ranks and blocks: the one door to MPI, ownership of groups, and the statistics stage spread over ranks."""
