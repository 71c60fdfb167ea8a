"""Reinforcement-learning use cases."""

DOMAIN = "Reinforcement learning"
