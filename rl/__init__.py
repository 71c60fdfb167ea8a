"""Reinforcement-learning use cases."""
