"""The version of the toolkit, in a file of its own so that the build reads it without importing numpy."""

__version__ = "0.1.0"
