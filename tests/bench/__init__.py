"""Measurements behind the figures of the README: `make bench`. Not tests: nothing here fails for being slow."""
