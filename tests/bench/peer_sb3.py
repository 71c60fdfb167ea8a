"""Stable-Baselines3's DQN with rl-baselines3-zoo's settings for CartPole-v1: `python peer_sb3.py SEED`.

Run by `python -m tests.bench cartpole --sb3 PYTHON`, where PYTHON is an interpreter that has
stable-baselines3. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time

import gymnasium
import stable_baselines3
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

STEPS = 50_000
ZOO = {  # rl-baselines3-zoo, hyperparams/dqn.yml
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}

seed = int(sys.argv[1])
model = DQN("MlpPolicy", Monitor(gymnasium.make("CartPole-v1")), seed=seed, device="cpu", **ZOO)
began = time.monotonic()
model.learn(STEPS)
seconds = time.monotonic() - began
separate = Monitor(gymnasium.make("CartPole-v1"))
separate.reset(seed=10_000 + seed)
mean, std = evaluate_policy(model, separate, n_eval_episodes=100, deterministic=True)
found = {"mean_return": float(mean), "std": float(std), "seconds": seconds, "steps": STEPS}
sys.stdout.write(json.dumps({**found, "version": stable_baselines3.__version__}) + "\n")
