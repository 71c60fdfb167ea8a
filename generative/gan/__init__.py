"""Generative adversarial networks; `python -m generative.gan`."""
