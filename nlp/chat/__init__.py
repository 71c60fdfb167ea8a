"""From a language model to one that answers; `python -m nlp.chat`."""
