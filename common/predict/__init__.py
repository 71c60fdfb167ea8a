"""Predictions by any trained model, for files or for what is typed."""
