"""Searches the settings of an example."""
