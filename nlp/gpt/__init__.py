"""Language models from scratch; `python -m nlp.gpt`."""
