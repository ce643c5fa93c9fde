"""Results of a run from another machine: remote.py copies files by ssh and rsync, fetch.py verifies and places them."""
