"""Sounds: where they come from, and their splits."""
