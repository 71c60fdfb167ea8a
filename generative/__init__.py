"""Generative-model use cases."""

DOMAIN = "Generative models"
