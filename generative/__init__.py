"""Generative-model use cases."""
