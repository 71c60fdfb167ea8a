"""Figures of rl.dqn: returns and seconds beside Stable-Baselines3, steps per second beside CleanRL."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.tools import mean_std, row, run

# Both with CleanRL's settings of dqn.py, over 60,000 steps.
SAME = ["--steps", "60000", "--buffer", "10000", "--learning-starts", "10000", "--batch-size", "128", "--lr", "2.5e-4",
        "--train-every", "10", "--updates", "1", "--target-every", "50", "--tau", "1", "--hidden", "120,84",
        "--n-step", "1", "--no-double", "--exploration", "0.5", "--epsilon-end", "0.05", "--validate-every", "60000",
        "--validations", "1", "--episodes", "1", "--checkpoint-every", "60000"]  # fmt: skip


def agent(name: str, *arguments: str, seeds: range = range(3)) -> None:
    results = [run("rl.dqn", "--env", name, *arguments, "--seed", str(seed)) for seed in seeds]
    means = [r["metrics"]["mean_return"] for r in results]
    seconds = mean_std([r["seconds"]["train"] for r in results], ".1f")
    steps = mean_std([r["steps"] * r["config"]["train_every"] for r in results], ",.0f")
    n = results[0]["metrics"]["n"]
    each = ", ".join(f"{m:.1f}" for m in means)
    value = f"mean return over {n} episodes {mean_std(means, '.1f')}: {each}; {steps} steps; {seconds} s training"
    row(name, value, " ".join(["python -m rl.dqn --env", name, *arguments]))


def cartpole(options: argparse.Namespace) -> None:
    agent("CartPole-v1", seeds=range(5))
    if not options.sb3:
        row("CartPole-v1, Stable-Baselines3", "not measured: --sb3 names a Python that has it", "peer_sb3.py")
        return
    results = []
    for seed in range(3):
        process = subprocess.run(
            [options.sb3, str(Path(__file__).with_name("peer_sb3.py")), str(seed)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        results.append(json.loads(process.stdout.splitlines()[-1]))
    value = f"mean return {mean_std([r['mean_return'] for r in results], '.1f')}; "
    value += f"{results[0]['steps']:,} steps; {mean_std([r['seconds'] for r in results], '.1f')} s training"
    row("CartPole-v1, Stable-Baselines3, settings of rl-baselines3-zoo", value, "tests/bench/peer_sb3.py")


def control(options: argparse.Namespace) -> None:
    for name in ("Acrobot-v1", "LunarLander-v3"):
        agent(name)


def speed(options: argparse.Namespace) -> None:
    """Ours with 1 and 10 environments and CleanRL's script in turns, for the machine's speed may change meanwhile."""
    cleanrl = "CleanRL's dqn.py"
    rates: dict[str, list[float]] = {}
    for seed in range(3):
        for environments in ("1", "10"):
            seconds = run("rl.dqn", "--envs", environments, *SAME, "--seed", str(seed))["seconds"]["train"]
            rates.setdefault(environments, []).append(60_000 / seconds)
        if options.cleanrl:
            rates.setdefault(cleanrl, []).append(cleanrl_rate(options, seed))
    for environments in ("1", "10"):
        row(f"steps/s at CleanRL's settings, {environments} environments", mean_std(rates[environments], ",.0f"),
            " ".join(["python -m rl.dqn --envs", environments, *SAME]))  # fmt: skip
    if not options.cleanrl:
        row("steps/s, CleanRL", "not measured: --cleanrl names a checkout, --cleanrl-python its Python", "dqn.py")
        return
    row("steps/s, CleanRL", mean_std(rates[cleanrl], ",.0f"), "python cleanrl/dqn.py --total-timesteps 60000")
    ratios = [ours / theirs for ours, theirs in zip(rates["1"], rates[cleanrl], strict=True)]
    row("1 environment, ours / CleanRL's, round by round", mean_std(ratios), "")


def cleanrl_rate(options: argparse.Namespace, seed: int) -> float:
    """Steps per second as CleanRL's script says them last."""
    python = options.cleanrl_python or sys.executable
    script = next(p for p in Path(options.cleanrl).resolve().rglob("dqn.py") if p.parent.name == "cleanrl")
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(script), "--total-timesteps", "60000", "--seed", str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(Path(options.cleanrl).resolve())}
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return float(re.findall(r"SPS: (\d+)", process.stdout)[-1])


def pong(options: argparse.Namespace) -> None:
    """A smoke: does it run, how fast, and what would a million frames take."""
    from rl.environments import SIZE

    arguments = ["--env", "ALE/Pong-v5", "--steps", "20000", "--buffer", "20000", "--learning-starts", "1000",
                 "--validate-every", "20000", "--validations", "1", "--episodes", "1"]  # fmt: skip
    result = run("rl.dqn", *arguments)
    seconds = result["seconds"]["train"]
    frames = 1_000_000 * SIZE * SIZE / 1e9
    value = f"{20_000 / seconds:,.0f} agent steps/s ({80_000 / seconds:,.0f} frames/s); {result['peak_memory_mb']:,.0f}"
    value += f" MB; frames of a replay of 1 M take {frames:.2f} GB"
    row("Pong, 20,000 steps", value, " ".join(["python -m rl.dqn", *arguments]))
