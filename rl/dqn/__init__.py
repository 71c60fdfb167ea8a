"""Deep Q-learning; `python -m rl.dqn`."""
