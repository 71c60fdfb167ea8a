"""Text classification; `python -m nlp.classify`."""
