"""What the units of a net look like: what excites them most, what in it does, and what would excite them more."""
