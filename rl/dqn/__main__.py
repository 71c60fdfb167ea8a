"""Trains an agent by deep Q-learning, on any gymnasium environment with discrete actions.

python -m rl.dqn                                     CartPole, in seconds
python -m rl.dqn --env LunarLander-v3 --dueling      needs the extra box2d
python -m rl.dqn --env ALE/Pong-v5 --rainbow         needs the extra atari
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common import artifact
from common.artifact import Artifact
from common.config import Config, Range, option
from common.errors import UserError
from common.example import Example
from common.kinds.action import Action
from common.kinds.answer import Predictor, Row
from common.kinds.observation import ObservationInput
from common.machine import distributed
from common.machine.device import mix_seed
from common.metrics import Metrics
from common.training.run import Run
from rl import gallery
from rl.dqn.actor import Actor
from rl.dqn.losses import losses
from rl.dqn.networks import QNetwork
from rl.dqn.replay import Batch, Replay
from rl.environments import TINY, Environments
from rl.game import AgentGame
from rl.playing import Played, one_thread, play

# Every run is validated on the same episodes and tested on the same others.
VALIDATION_SEED, TEST_SEED = 1_000_000, 2_000_000

# --- config ------------------------------------------------------------------------------------------------

# What suits an environment, for every setting that was not given.
VECTOR: dict[str, Any] = {
    "steps": 100_000, "envs": 8, "train_every": 256, "updates": 80, "batch_size": 128, "lr": 1.5e-3,
    "hidden": "128,128", "gamma": 0.99, "buffer": 50_000, "learning_starts": 1_000, "exploration": 0.12,
    "epsilon_end": 0.04, "target_every": 32, "tau": 1.0, "n_step": 5, "double": True, "dueling": False,
    "prioritized": False, "noisy": False, "distributional": False, "v_min": -100.0, "v_max": 100.0,
    "validate_every": 5_000, "validations": 20, "episodes": 100, "checkpoint_every": 20_000,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    TINY: {
        "steps": 8_000, "train_every": 32, "updates": 4, "batch_size": 32, "lr": 2e-3, "hidden": "32,32",
        "buffer": 10_000, "learning_starts": 500, "exploration": 0.5, "epsilon_end": 0.05, "target_every": 1,
        "tau": 0.02, "n_step": 3, "v_min": -1.0, "v_max": 1.5, "validate_every": 2_000, "validations": 10,
        "episodes": 20, "checkpoint_every": 960,
    },
    "CartPole-v1": {
        "steps": 50_000, "buffer": 10_000, "exploration": 0.072, "v_min": 0.0, "validate_every": 3_072,
        "validations": 100, "stop_at": 500.0, "checkpoint_every": 10_000,
    },
    "Acrobot-v1": {
        "steps": 80_000, "updates": 64, "lr": 7e-4, "target_every": 64, "n_step": 3, "validations": 100,
        "stop_at": -80.0, "v_max": 0.0,
    },
    "MountainCar-v0": {
        "steps": 120_000, "train_every": 16, "updates": 8, "lr": 4e-3, "gamma": 0.98, "buffer": 10_000,
        "exploration": 0.2, "epsilon_end": 0.07, "target_every": 300, "n_step": 1, "double": False,
        "validate_every": 10_000, "stop_at": -110.0, "v_max": 0.0,
    },
    "LunarLander-v3": {
        "steps": 150_000, "envs": 16, "updates": 96, "lr": 1e-3, "buffer": 100_000, "exploration": 0.15,
        "epsilon_end": 0.05, "target_every": 100, "n_step": 3, "validate_every": 10_000, "stop_at": 240.0,
        "v_min": -300.0, "v_max": 300.0,
    },
    "ALE": {
        "steps": 10_000_000, "train_every": 32, "updates": 8, "batch_size": 32, "lr": 1e-4, "hidden": "512",
        "buffer": 1_000_000, "learning_starts": 20_000, "exploration": 0.02, "epsilon_end": 0.01,
        "target_every": 2_000, "n_step": 1, "v_min": -10.0, "v_max": 10.0, "validate_every": 250_000,
        "validations": 10, "checkpoint_every": 1_000_000,
    },
}  # fmt: skip


@dataclass(frozen=True)
class DQNConfig(Config):
    """Everything that decides the result of one training."""

    data: str = option("CartPole-v1", "another word for --env", group="Data", common=True)
    env: str = option(
        None,
        "environment: any id of gymnasium with discrete actions",
        group="Data",
        unset="that of --data",
        common=True,
    )
    life_loss: bool = option(False, "the loss of a life ends an episode of training (Atari)", group="Data")
    max_episode_steps: int | None = option(
        None, "steps after which an episode is cut", group="Data", at_least=1, unset="the environment's own, else 1000"
    )
    clip_rewards: bool = option(None, "train on the sign of rewards", group="Data", unset="with Atari")

    hidden: str = option(None, "widths of the dense layers, such as 128,128", group="Model", unset="by env")
    rainbow: bool = option(False, "all six improvements below (Hessel et al. 2018)", group="Model")
    double: bool = option(None, "choose by one network, judge by the other", group="Model", unset="by env")
    dueling: bool = option(None, "streams for state value and advantages", group="Model", unset="by env")
    prioritized: bool = option(None, "replay large errors more often", group="Model", unset="by env")
    noisy: bool = option(None, "explore by noise in the weights, not ε-greedily", group="Model", unset="by env")
    distributional: bool = option(None, "learn distributions of returns, C51", group="Model", unset="by env")
    n_step: int = option(None, "steps of reward before bootstrapping", group="Model", at_least=1, at_most=50,
                                unset="by env", tune=(1, 3, 5))  # fmt: skip
    atoms: int = option(51, "returns that a distribution is made of", group="Model", at_least=2, at_most=1001)
    v_min: float = option(None, "the lowest of them", group="Model", unset="by env")
    v_max: float = option(None, "the highest of them", group="Model", unset="by env")

    steps: int = option(
        None, "steps in the environments, all together", at_least=1, unset="by env", grows=True, common=True
    )
    envs: int = option(None, "environments side by side, over all processes", at_least=1, unset="by env")
    train_every: int = option(None, "steps between updates, all environments together", at_least=1,
                                     unset="by env")  # fmt: skip
    updates: int = option(None, "optimiser steps then", at_least=1, unset="by env")
    batch_size: int = option(None, "transitions per optimiser step, over all processes", at_least=1,
                                    unset="by env", common=True)  # fmt: skip
    lr: float = option(None, "learning rate of Adam", above=0, at_most=100, unset="by env",
                              tune=Range(1e-4, 1e-2, log=True), common=True)  # fmt: skip
    clip: float = option(0.0, "largest norm of the gradient; 0 for none", at_least=0)
    gamma: float = option(None, "discount per step", at_least=0, at_most=1, unset="by env",
                                 tune=Range(0.95, 0.999))  # fmt: skip
    buffer: int = option(None, "transitions in the replay memory, over all processes", at_least=1,
                                unset="by env")  # fmt: skip
    learning_starts: int = option(None, "steps before the first update", at_least=0, unset="by env")
    exploration: float = option(None, "share of the steps over which ε falls", at_least=0, at_most=1,
                                       unset="by env", tune=Range(0.05, 0.5))  # fmt: skip
    epsilon_end: float = option(None, "ε from then on", at_least=0, at_most=1, unset="by env")
    target_every: int = option(None, "optimiser steps between moves of the target network", at_least=1,
                                      unset="by env", tune=Range(8, 512, log=True))  # fmt: skip
    tau: float = option(None, "share by which it then moves", above=0, at_most=1, unset="by env")
    alpha: float = option(0.5, "how much priorities count", at_least=0, at_most=1)
    beta: float = option(0.4, "how much of their bias is corrected at first; in full at the end", at_least=0, at_most=1)
    validate_every: int = option(None, "steps between validations", at_least=1, unset="by env")
    validations: int = option(None, "episodes of a validation", at_least=1, unset="by env")
    stop_at: float | None = option(None, "mean return of two validations at which training stops", unset="by env")
    episodes: int = option(None, "episodes of the final evaluation", at_least=1, unset="by env")
    checkpoint_every: int = option(
        None, "steps between checkpoints, at which running episodes are cut", at_least=1, unset="by env"
    )

    @classmethod
    def tiny(cls) -> DQNConfig:
        return cls(data=TINY)

    def resolve(self) -> DQNConfig:
        """Fills what was left open from the recipe of the environment."""
        name = self.env or self.data
        atari = name.startswith("ALE/")
        recipe = VECTOR | {"clip_rewards": atari} | RECIPES.get("ALE" if atari else name, {})
        if self.rainbow:
            recipe |= dict.fromkeys(("double", "dueling", "prioritized", "noisy", "distributional"), True)
            recipe["n_step"] = 3
        return replace(self.filled(recipe), data=name, env=name)

    def check(self) -> None:
        super().check()
        if not self.is_open("env") and self.data not in (self.env, DQNConfig.data, TINY):
            raise UserError(f"--data {self.data} and --env {self.env} name two environments.", "Give one of them.")
        if not self.is_open("hidden") and not all(part.isdigit() and int(part) for part in self.hidden.split(",")):
            raise UserError(f"--hidden {self.hidden}: not a list of widths.", "Such as 128,128.")
        if self.precision == "fp16":
            raise UserError("--precision fp16: this loop does not scale its loss.", "Use bf16, fp32 or auto.")
        if not self.is_open("v_min") and not self.is_open("v_max") and self.v_min >= self.v_max:
            raise UserError(f"--v-min {self.v_min:g} is not below --v-max {self.v_max:g}.")
        if self.train_every and self.envs and self.train_every % self.envs:
            raise UserError(
                f"--train-every {self.train_every} is no multiple of --envs {self.envs}.",
                "Every environment does the same number of steps between updates.",
            )
        for flag, value in (("envs", self.envs), ("batch-size", self.batch_size)):
            if value and value % distributed.world():
                raise UserError(f"--{flag} {value} can't be shared by {distributed.world()} processes.")


# --- model -------------------------------------------------------------------------------------------------


def build(config: DQNConfig, shape: Sequence[int], actions: int) -> QNetwork:
    """The network of a config for observations [B, *shape]."""
    return QNetwork(
        shape, actions, [int(width) for width in config.hidden.split(",")], dueling=config.dueling,
        noisy=config.noisy, atoms=config.atoms if config.distributional else 1, low=config.v_min, high=config.v_max,
    )  # fmt: skip


# --- train -------------------------------------------------------------------------------------------------


def train(config: DQNConfig, run: Run) -> Metrics:
    """Trains, evaluates on other episodes, and saves the agent.

    A step of the run is a round: `train_every` steps in the environments, then `updates` of the network.
    """
    config = run.settle(config)
    world, rank = distributed.world(), distributed.rank()
    environments = Environments(
        config.env,
        config.envs // world,
        clip_rewards=config.clip_rewards,
        life_loss=config.life_loss,
        limit=config.max_episode_steps,
    )
    if environments.limit:
        run.progress.say(f"note       {limit_note(config.env, environments.limit)}")
    model, target = networks(config, run, environments)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    replay = memory(config, run, environments)
    actor = Actor(environments)
    run.track(model=model, target=target, optimizer=optimizer)
    run.track_each(replay=replay, actor=actor)
    run.state["updates"] = 0

    rounds = math.ceil(config.steps / config.train_every)
    checkpoint_every = max(1, round(config.checkpoint_every / config.train_every))
    validate_every = max(1, round(config.validate_every / config.train_every))
    validation = Environments(config.env, config.validations, once=True, limit=config.max_episode_steps)
    autocast = run.autocast if run.plan and run.plan.precision != "fp32" else nullcontext
    for _ in run.loop(steps=rounds, checkpoint_every=checkpoint_every):
        done = run.step * config.train_every
        if run.step % checkpoint_every == 0:  # environments can't be saved: here they begin anew, resumed or not
            actor.begin(mix_seed(config.seed, "environments", rank, run.step))

        epsilon = 0.0 if config.noisy else max(config.epsilon_end, 1 - done / max(1, config.exploration * config.steps))
        with autocast():
            replay.add(actor.collect(model, config.train_every // config.envs, epsilon))
        if (run.step + 1) % checkpoint_every == 0:
            replay.cut(actor.newest)
        run.log(episode_return=actor.episode_return, epsilon=epsilon)

        if done >= config.learning_starts and len(replay):
            beta = config.beta + (1 - config.beta) * run.step / rounds
            for batch in replay.batches(config.updates, config.batch_size // world, beta):
                with autocast():
                    loss, value = update(config, model, target, optimizer, replay, batch)
                run.state["updates"] += 1
                if run.state["updates"] % config.target_every == 0:
                    move(target, model, config.tau)
            run.log(loss=loss, q=value)

        if (run.step + 1) % validate_every == 0 or run.step + 1 == rounds:
            validate(config, run, model, validation)

    model.load_state_dict(run.best())
    run.progress.say(f"kept       val_return {run.state['best_score']:.4g}")  # the log's last word on it
    agent = copy.deepcopy(model).cpu()  # measured where it is used
    metrics, played = test(agent, config)
    metrics.notes.append(
        f"trained for {run.step * config.train_every:,} steps in the environments, {run.state['updates']:,} updates"
    )
    run.sections += gallery.sections(config.env, agent.values, played, TEST_SEED)
    inputs = ObservationInput(environments.shape)
    artifact.save(run, agent, inputs=inputs, answer=Action(environments.actions), metrics=metrics)
    return metrics


def networks(config: DQNConfig, run: Run, environments: Environments) -> tuple[Any, Any]:
    """The network that learns and its target, equal at first, on the device."""
    sample = torch.zeros(1, *environments.shape, dtype=environments.dtype)
    network = build(config, environments.shape, len(environments.actions))
    run.prefer_cpu(network, sample, config.batch_size)
    target = run.place(copy.deepcopy(network), sample).requires_grad_(False)
    model = run.place(network, sample)
    shape = "×".join(map(str, environments.shape))
    run.progress.say(f"env        {config.env}: observations {shape}, {len(environments.actions)} actions")
    run.progress.say(f"model      {config.hidden}, {sum(p.numel() for p in model.parameters()):,} weights")
    return model.train(), target.train()


def memory(config: DQNConfig, run: Run, environments: Environments) -> Replay:
    """The replay memory of this process."""
    try:
        replay = Replay(
            config.buffer // distributed.world(), environments.count, environments.frame, environments.dtype,
            run.device, stack=environments.shape[0] if environments.pixels else 0, steps=config.n_step,
            gamma=config.gamma, alpha=config.alpha if config.prioritized else 0.0,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"--buffer {config.buffer} does not fit into memory.", "Use a smaller one.") from error
    run.progress.say(f"replay     {config.buffer:,} transitions, {replay.bytes / 1e6:,.1f} MB")
    return replay


def update(
    config: DQNConfig, model: Any, target: Any, optimizer: torch.optim.Optimizer, replay: Replay, batch: Batch
) -> tuple[Tensor, Tensor]:
    """One optimiser step: the mean loss and the mean value before it."""
    model.resample()
    target.resample()
    each, errors, values = losses(model, target, batch, config.double)
    loss = (batch.weights * each).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    distributed.average_gradients(model)
    if config.clip:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    replay.prioritize(batch, errors)
    return loss.detach(), values.mean()


@torch.no_grad()
def move(target: nn.Module, model: nn.Module, tau: float) -> None:
    """Moves the target network by a share of the way to the network that learns."""
    torch._foreach_lerp_(list(target.parameters()), list(model.parameters()), tau)


def validate(config: DQNConfig, run: Run, model: Any, environments: Environments) -> None:
    """Plays the validation episodes, keeps the best weights, and stops where they are good enough twice."""
    model.eval()
    played = play(lambda seen: model.values(seen.to(run.device)), environments, VALIDATION_SEED)
    model.train()
    score = distributed.share(played.mean)
    run.log_now(val_return=score, environment_steps=(run.step + 1) * config.train_every)
    run.keep_best(score, model.state_dict())
    enough = config.stop_at is not None and score >= config.stop_at
    if enough and run.state.get("was_enough"):
        run.stop(f"two validations in a row reached a mean return of {config.stop_at:g}")
    run.state["was_enough"] = enough


# --- evaluate ----------------------------------------------------------------------------------------------


def test(agent: QNetwork, config: DQNConfig) -> tuple[Metrics, Played]:
    """Whole episodes that neither training nor validation has seen, played greedily on the CPU."""
    environments = Environments(config.env, config.episodes, once=True, limit=config.max_episode_steps)
    with one_thread():
        played = play(agent.eval().values, environments, TEST_SEED)
    environments.close()
    n = len(played.returns)
    mean, std = played.mean, played.returns.std(correction=0).item()
    values: dict[str, float | int] = {
        "mean_return": mean, "mean_return_low": mean - 1.96 * std / math.sqrt(n),
        "mean_return_high": mean + 1.96 * std / math.sqrt(n), "std_return": std,
        "min_return": played.returns.min().item(), "max_return": played.returns.max().item(),
        "mean_length": played.lengths.double().mean().item(), "n": n,
    }  # fmt: skip
    notes = [f"{n} episodes of {config.env}, one from each of {n} fixed starts; rewards as the environment gives them"]
    if environments.limit:
        notes.append(limit_note(config.env, environments.limit))
    return Metrics("mean_return", values, notes), played


def limit_note(env: str, steps: int) -> str:
    """Said of environments in which an episode may never end."""
    return f"{env} has no time limit: episodes are cut after {steps:,} steps (--max-episode-steps)"


def evaluate(saved: Artifact, config: DQNConfig) -> Metrics:
    """Plays the test episodes again with a saved agent."""
    return test(load_agent(saved), config)[0]


# --- predict -----------------------------------------------------------------------------------------------


def load_agent(saved: Artifact) -> QNetwork:
    """The trained network, ready to act."""
    config = DQNConfig().with_values(saved.config)
    agent = build(config, ObservationInput.from_json(saved.inputs).shape, len(saved.classes))
    saved.load_into(agent)
    return agent


def load(saved: Artifact) -> Predictor:
    """An observation in, the best action and the value of every action out."""
    inputs, answer = ObservationInput.from_json(saved.inputs), Action(saved.classes)
    agent = load_agent(saved)

    @torch.inference_mode()
    def predict(observations: Sequence[Tensor]) -> list[Row]:
        return answer.rows(agent.values(torch.stack(list(observations))))  # [B, A]

    play = partial(AgentGame, str(saved.config["env"]), agent.values)
    return Predictor(inputs, answer, predict, play=play)


example = Example(
    name="rl.dqn",
    task="Reinforcement learning: deep Q-learning",
    model="DQN",
    seconds=18,
    headline="mean_return",
    config=DQNConfig,
    train=train,
    load=load,
    evaluate=evaluate,
    tag=lambda config: f"{config.env}{'-rainbow' if config.rainbow else ''}",
    objective="val_return",
    extras=("box2d", "atari"),
)

if __name__ == "__main__":
    from common.cli import main

    main(example)
