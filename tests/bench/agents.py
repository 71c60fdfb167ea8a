"""Figures of rl.dqn: returns and seconds beside Stable-Baselines3, steps per second beside CleanRL."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.tools import SEEDS, bench, missing, run
from tests.results import Figure, Row, mean_of

# Both with CleanRL's settings of dqn.py, over 60,000 steps.
SAME = (
    "--steps 60000 --buffer 10000 --learning-starts 10000 --batch-size 128 --lr 2.5e-4 --train-every 10 --updates 1 "
    "--target-every 50 --tau 1 --hidden 120,84 --n-step 1 --no-double --exploration 0.5 --epsilon-end 0.05 "
    "--validate-every 60000 --validations 1 --episodes 1 --checkpoint-every 60000"
)


ROUNDS = 6  # of ours and CleanRL's in turns


def agent(what: str, *arguments: str, seeds: list[int] = SEEDS, note: str = "") -> Row:
    results = [run("rl.dqn", *arguments, "--seed", str(seed)) for seed in seeds]
    figures = {
        "mean return": mean_of([r["metrics"]["mean_return"] for r in results], "", 1),
        "steps": mean_of([r["steps"] * r["config"]["train_every"] for r in results], "", 0),
        "training": mean_of([r["seconds"]["train"] for r in results], "s", 1),
    }
    command = " ".join(["python -m rl.dqn", *arguments])
    return Row(what, figures, n=len(seeds), seeds=seeds, command=command, note=note)


def published(what: str, value: float, decimals: int, deviation: float, steps: int | None, source: str) -> Row:
    figures = {"mean return": Figure(value, "", decimals, deviation)}
    if steps:
        figures["steps"] = Figure(steps, "", 0)
    return Row(what, figures, "published", source=source)


@bench("cartpole", "Agents", "CartPole", "--sb3 PYTHON", "Mean return over 100 episodes.")
def cartpole(options: argparse.Namespace) -> Iterator[Row]:
    yield agent("CartPole-v1", seeds=[0, 1, 2, 3, 4])
    what = "Stable-Baselines3 with the zoo's settings"
    if options.sb3:
        results = []
        for seed in SEEDS:
            command = [options.sb3, str(Path(__file__).with_name("peer_sb3.py")), str(seed)]
            process = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(process.stdout.splitlines()[-1]))
        figures = {
            "mean return": mean_of([r["mean_return"] for r in results], "", 1),
            "steps": Figure(results[0]["steps"], "", 0),
            "training": mean_of([r["seconds"] for r in results], "s", 1),
        }
        note = f"Stable-Baselines3 {results[0]['version']}"
        yield Row(what, figures, "peer", n=len(SEEDS), seeds=SEEDS, command="tests/bench/peer_sb3.py SEED", note=note)
    else:
        yield missing(what, "--sb3 names no Python that has it")
    yield published("rl-baselines3-zoo", 500, 0, 0, None, "rl-baselines3-zoo")
    yield published("CleanRL", 488.7, 1, 16.1, 500_000, "CleanRL")


@bench(
    "control",
    "Agents",
    "Other control tasks",
    note="Recipes were picked on other seeds, 100 and up. Mean return over 100 episodes.",
)
def control(options: argparse.Namespace) -> Iterator[Row]:
    yield agent("Acrobot-v1", "--env", "Acrobot-v1")
    yield published("Acrobot-v1, CleanRL", -91.5, 1, 7.2, 500_000, "CleanRL")
    yield agent("LunarLander-v3", "--env", "LunarLander-v3", note="200 counts as solved")
    yield agent("MountainCar-v0", "--env", "MountainCar-v0", seeds=[100], note="this seed chose the recipe")
    yield published("MountainCar-v0, CleanRL", -195, 1, 8.5, 500_000, "CleanRL")


@bench(
    "agent-speed",
    "Agents",
    "Steps per second at CleanRL's settings",
    "--cleanrl CHECKOUT --cleanrl-python PYTHON",
    "In turns, for the machine's speed may change meanwhile.",
)
def speed(options: argparse.Namespace) -> Iterator[Row]:
    cleanrl = "CleanRL's dqn.py"
    rates: dict[str, list[float]] = {"1": [], "10": [], cleanrl: []}
    for seed in range(ROUNDS):
        for environments in ("1", "10"):
            seconds = run("rl.dqn", "--envs", environments, *SAME.split(), "--seed", str(seed))["seconds"]["train"]
            rates[environments].append(60_000 / seconds)
        if options.cleanrl:
            rates[cleanrl].append(cleanrl_rate(options, seed))
    for environments, what in (("1", "1 environment"), ("10", "10 environments")):
        figures = {"steps/s": mean_of(rates[environments], "", 0)}
        note = ""
        if options.cleanrl and environments == "1":
            ratios = [ours / theirs for ours, theirs in zip(rates["1"], rates[cleanrl], strict=True)]
            figures["of CleanRL's"] = mean_of(ratios, "×", 2)
            note = "the ratio is the mean of the rounds'"
        yield Row(what, figures, n=ROUNDS, command=f"python -m rl.dqn --envs {environments} {SAME}", note=note)
    if not options.cleanrl:
        yield missing(cleanrl, "--cleanrl names no checkout, --cleanrl-python no Python for it")
        return
    command = "python cleanrl/dqn.py --total-timesteps 60000"
    figures = {"steps/s": mean_of(rates[cleanrl], "", 0)}
    yield Row(cleanrl, figures, "peer", n=ROUNDS, command=command, note="1 environment")


def cleanrl_rate(options: argparse.Namespace, seed: int) -> float:
    """Steps per second as CleanRL's script says them last."""
    python = options.cleanrl_python or sys.executable
    script = next(p for p in Path(options.cleanrl).resolve().rglob("dqn.py") if p.parent.name == "cleanrl")
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(script), "--total-timesteps", "60000", "--seed", str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(Path(options.cleanrl).resolve())}
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return float(re.findall(r"SPS: (\d+)", process.stdout)[-1])


@bench("pong", "Agents", "Pong, a smoke")
def pong(options: argparse.Namespace) -> Iterator[Row]:
    """Does it run, how fast, and what would a million frames take."""
    from rl.environments import SIZE

    arguments = ["--env", "ALE/Pong-v5", "--steps", "20000", "--buffer", "20000", "--learning-starts", "1000"]
    arguments += ["--validate-every", "20000", "--validations", "1", "--episodes", "1"]
    result = run("rl.dqn", *arguments)
    seconds = result["seconds"]["train"]
    figures = {
        "agent steps/s": Figure(round(20_000 / seconds, 1), "", 0),
        "frames/s": Figure(round(80_000 / seconds, 1), "", 0),
        "memory": Figure(round(result["peak_memory_mb"] / 1e3, 3), "GB", 2),
        "replay of 1 M frames": Figure(1_000_000 * SIZE * SIZE / 1e9, "GB", 2),
    }
    command = " ".join(["python -m rl.dqn", *arguments])
    yield Row("20,000 agent steps", figures, n=1, command=command, note="nothing is learnt so soon")
    yield published("CleanRL, 10 M steps", 20.25, 2, 0.41, None, "CleanRL")
