"""Trained models in other formats, each compared with the original before it counts as good."""
