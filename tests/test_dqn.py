"""DQN: what enters replay, what is learned from it, and that the agent learns, resumes and is measured honestly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common import artifact
from common.cli import Options, execute
from common.errors import UserError
from rl import dqn
from rl.acting import Actor, play
from rl.dqn import DQNConfig, losses
from rl.environments import TINY, Environments, best_return
from rl.networks import NoisyLinear, QNetwork, project
from rl.replay import Batch, Replay, Rows
from tests.helpers import final_weights, last_checkpoint, mistake, python, same

CPU = torch.device("cpu")

# --- a diary: an environment whose observations say which episode and step they are from ------------------------


def length_of(episode: int) -> int:
    return (3, 7, 1, 5, 2, 9)[episode % 6]


def reward_of(episode: int, step: int) -> float:
    return float((7 * episode + 3 * step) % 5 - 2)


def terminates(episode: int) -> bool:
    """Whether an episode ends by itself; else its time is up."""
    return episode % 4 < 2


def diary(pixels: bool = False, **_: Any) -> Any:
    """Observations [lane, episode, step]; an image has these as the gray values of its thirds."""
    import gymnasium
    import numpy as np

    class Diary(gymnasium.Env):
        shape = (84, 84, 1) if pixels else (3,)
        observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8 if pixels else np.float32)
        action_space = gymnasium.spaces.Discrete(3)

        def __init__(self) -> None:
            self.lane, self.episode, self.now = 0, -1, 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.lane = self.lane if seed is None else seed % 10
            self.episode, self.now = self.episode + 1, 0
            return self.seen(), {}

        def step(self, action: Any) -> Any:
            reward = reward_of(self.episode, self.now)
            self.now += 1
            over = self.now == length_of(self.episode)
            ends = terminates(self.episode)
            return self.seen(), reward, over and ends, over and not ends, {}

        def seen(self) -> Any:
            values = [self.lane, self.episode, self.now]
            if not pixels:
                return np.array(values, np.float32)
            return np.repeat(np.array(values, np.uint8), 28)[:, None, None] * np.ones((1, 84, 1), np.uint8)

    return Diary()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    import gymnasium

    for name, pixels in (("Diary-v0", False), ("PixelDiary-v0", True)):
        gymnasium.register(name, diary, kwargs={"pixels": pixels}, max_episode_steps=1000, disable_env_checker=True)
    yield
    for name in ("Diary-v0", "PixelDiary-v0"):
        del gymnasium.registry[name]


def recorded(
    name: str, rounds: list[int], cuts: set[int] = frozenset(), environments: int = 3, **settings: Any  # type: ignore[assignment]
) -> Replay:  # fmt: skip
    """A memory after some rounds of so many steps; episodes are cut after the rounds in `cuts`."""
    lanes = Environments(name, environments)
    settings = {"capacity": 100_000, "stack": 4 if lanes.pixels else 0, "gamma": 0.9} | settings
    replay = Replay(settings.pop("capacity"), environments, lanes.frame, lanes.dtype, CPU, **settings)
    actor, model = Actor(lanes, CPU), QNetwork(lanes.shape, 3, [4])
    actor.begin(20)
    for number, steps in enumerate(rounds):
        replay.add(actor.collect(model, steps, epsilon=0.5))
        if number in cuts:
            replay.cut(actor.newest)
            actor.begin(20)
    return replay


def everything(replay: Replay) -> Batch:
    """All that could be sampled, oldest first."""
    indices = replay.order[torch.arange(replay.first, replay.last) % len(replay.order)]
    return replay._gather(indices, torch.ones(len(indices)))


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("rounds", [[4] * 30, [1] * 60, [50, 3, 40]])
@pytest.mark.parametrize("cuts", [set(), {0, 2, 9, 10}])
def test_every_transition_is_that_of_a_loop_over_its_episode(steps: int, rounds: list[int], cuts: set[int]) -> None:
    replay = recorded("Diary-v0", rounds, cuts, steps=steps)
    batch = everything(replay)
    assert len(batch.indices) > 100
    seen = set()
    for old, new, returned, discount, span in zip(
        batch.observations.tolist(), batch.next_observations.tolist(), batch.returns.tolist(),
        batch.discounts.tolist(), replay.span.flatten()[batch.indices].tolist(), strict=True,
    ):  # fmt: skip
        lane, episode, now = (int(x) for x in old)
        assert now < length_of(episode), "the last observation of an episode is none to act on"
        assert [int(x) for x in new] == [lane, episode, now + span], "no window may leave its episode"
        over = now + span == length_of(episode)
        if not cuts:
            assert span == min(steps, length_of(episode) - now)
        assert span <= steps
        expected = sum(0.9**k * reward_of(episode, now + k) for k in range(span))
        assert returned == pytest.approx(expected, abs=1e-5)
        # Only a termination makes the future worthless; where time was up, or we cut, it is still worth something.
        assert discount == pytest.approx(0.0 if over and terminates(episode) else 0.9**span)
        seen.add((lane, episode, now))
    assert len(seen) == len(batch.indices), "nothing twice"


def test_nothing_is_lost_but_what_is_not_closed_yet() -> None:
    replay = recorded("Diary-v0", [10] * 10, steps=3)
    lane = [tuple(o) for o in everything(replay).observations.int().tolist() if o[0] == 0]
    expected = [(0, episode, now) for episode in range(40) for now in range(length_of(episode))]
    assert lane == expected[: len(lane)]
    assert int(replay.real.sum()) - len(replay) <= 3 * 3


def test_a_cut_ends_windows_and_is_worth_its_future() -> None:
    replay = recorded("Diary-v0", [9, 20], {0}, environments=1, steps=3)
    batch = everything(replay)
    # Lengths are 3, 7: nine steps are 3 + a reset + 5 of the second episode, whose seventh would have ended it.
    cut = [i for i, o in enumerate(batch.observations.tolist()) if o[1:] == [1, 4]]
    assert batch.next_observations[cut].tolist() == [[0, 1, 5]]
    assert batch.returns[cut].item() == reward_of(1, 4)
    assert batch.discounts[cut].item() == pytest.approx(0.9)


def test_a_full_memory_keeps_the_newest_and_stays_right() -> None:
    replay = recorded("Diary-v0", [7] * 40, {5, 20}, capacity=90, steps=3)
    batch = everything(replay)
    assert 50 < len(batch.indices) <= 90
    for old, new in zip(batch.observations.tolist(), batch.next_observations.tolist(), strict=True):
        assert old[:2] == new[:2]
        assert 1 <= new[2] - old[2] <= 3
    assert batch.observations[:, 1].min() > 40, "old episodes are gone"


@pytest.mark.parametrize("capacity", [100_000, 120])
def test_stacked_frames_equal_a_naive_stack(capacity: int) -> None:
    replay = recorded("PixelDiary-v0", [6] * 25, {3, 11}, capacity=capacity, steps=2)
    batch = everything(replay)
    assert batch.observations.dtype == torch.uint8
    assert batch.observations.shape[1:] == (4, 84, 84)
    assert replay.observations.shape[2:] == (84, 84), "every frame is stored once"
    for stacks in (batch.observations, batch.next_observations):
        for stack in stacks[:, :, ::28, 0].tolist():  # [4, 3]: what each frame says
            lane, episode, now = stack[-1]
            assert stack == [[lane, episode, max(now - back, 0)] for back in (3, 2, 1, 0)]


def test_a_million_frames_fit_into_8_gb() -> None:
    small = Replay(10_000, 8, (84, 84), torch.uint8, CPU, stack=4, steps=3, alpha=0.5)
    assert small.bytes * 100 < 8e9


def test_what_an_actor_sees_is_what_replay_gives_back() -> None:
    lanes = Environments("PixelDiary-v0", 2)
    seen = [lanes.reset(20)]
    rows = []
    for _ in range(40):
        step = lanes.step(torch.zeros(2, dtype=torch.int64))
        rows.append(
            (lanes.newest(seen[-1]), torch.zeros(2).long(), step.rewards, step.terminated, step.truncated, step.real)
        )
        seen.append(step.observations)
    replay = Replay(1000, 2, lanes.frame, lanes.dtype, CPU, stack=4)
    replay.add(Rows(*(torch.stack(c) for c in zip(*rows, strict=True))))
    batch = everything(replay)
    row, lane = batch.indices // 2, batch.indices % 2
    everywhere = torch.stack(seen)
    assert torch.equal(batch.observations, everywhere[row, lane])
    assert torch.equal(batch.next_observations, everywhere[row + 1, lane])


# --- sampling --------------------------------------------------------------------------------------------------


def test_uniform_sampling_reaches_all_alike() -> None:
    torch.manual_seed(0)
    replay = recorded("Diary-v0", [10] * 10)
    drawn = torch.cat([b.indices for b in replay.batches(200, 500)])
    counts = drawn.bincount(minlength=300)[everything(replay).indices].double()
    assert counts.sum() == len(drawn)
    expected = len(drawn) / len(replay)
    assert (counts - expected).abs().max() < 6 * expected**0.5


def test_prioritised_sampling_follows_the_priorities() -> None:
    torch.manual_seed(0)
    replay = recorded("Diary-v0", [100] * 5, steps=3, alpha=0.6)
    known = everything(replay)
    errors = torch.rand(len(known.indices)) * 4
    errors[::7] = 0
    replay.prioritize(known, errors)
    chances = (errors.double() + 1e-6) ** 0.6
    chances /= chances.sum()
    place = torch.full((replay.rows * replay.n,), -1)
    place[known.indices] = torch.arange(len(known.indices))
    batches = list(replay.batches(300, 256, beta=0.4))
    drawn = torch.cat([place[b.indices] for b in batches])
    assert bool((drawn >= 0).all()), "only what may be sampled"
    counts, expected = drawn.bincount(minlength=len(chances)).double(), chances * len(drawn)
    assert bool(((counts - expected).abs() <= 6 * expected.sqrt() + 1).all())
    weights = (len(chances) * chances[place[batches[0].indices]]) ** -0.4
    torch.testing.assert_close(batches[0].weights.double(), weights / weights.max(), atol=1e-5, rtol=1e-4)


def test_priorities_leave_with_their_transitions() -> None:
    replay = recorded("Diary-v0", [7] * 60, capacity=900, steps=3, alpha=0.5)
    held = torch.zeros(replay.priorities.numel(), dtype=torch.bool)
    held[everything(replay).indices] = True
    assert torch.equal(replay.priorities.flatten() > 0, held)
    torch.testing.assert_close(replay.sums, replay.priorities.double().sum(1))


def test_a_memory_comes_back_as_it_was() -> None:
    replay = recorded("Diary-v0", [7] * 20, steps=3, alpha=0.5)
    again = Replay(100_000, 3, (3,), torch.float32, CPU, steps=3, gamma=0.9, alpha=0.5)
    again.load_state_dict(copy.deepcopy(replay.state_dict()))
    assert same(again.state_dict(), replay.state_dict())
    torch.manual_seed(3)
    left = next(replay.batches(1, 64, 0.4))
    torch.manual_seed(3)
    right = next(again.batches(1, 64, 0.4))
    assert all(torch.equal(getattr(left, f), getattr(right, f)) for f in left.__dataclass_fields__)
    assert replay.state_dict()["rings"]["observations"].shape[0] == replay.written, "only what is filled"


# --- what is learned -------------------------------------------------------------------------------------------


def test_the_projection_equals_the_loop_of_the_paper() -> None:
    torch.manual_seed(0)
    support = torch.linspace(-2, 3, 11)
    p = torch.randn(20, 11).softmax(1)
    returns, discounts = torch.randn(20) * 2, torch.tensor([0.9, 0.0] * 10)
    expected = torch.zeros(20, 11)
    for i in range(20):
        for j in range(11):
            z = min(max(float(returns[i] + discounts[i] * support[j]), -2.0), 3.0)
            b = (z + 2) / 0.5
            lower, upper = int(b // 1), min(int(b // 1) + 1, 10)
            expected[i, lower] += p[i, j] * (1 - (b - lower))
            if upper > lower:
                expected[i, upper] += p[i, j] * (b - lower)
    torch.testing.assert_close(project(p, returns, discounts, support), expected, atol=1e-5, rtol=1e-4)


class Table(torch.nn.Module):
    """Q-values by hand: the observation is a number of a row."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.tensor(rows))
        self.atoms = 1

    def forward(self, observations: Tensor) -> Tensor:
        return self.rows[observations.long().squeeze(1)].unsqueeze(2)

    def expected(self, logits: Tensor) -> Tensor:
        return logits.squeeze(2)

    def values(self, observations: Tensor) -> Tensor:
        return self.expected(self(observations))


@pytest.mark.parametrize(("double", "goal"), [(False, 1 + 0.5 * 30), (True, 1 + 0.5 * 20)])
def test_double_q_chooses_by_one_and_judges_by_the_other(double: bool, goal: float) -> None:
    model: Any = Table([[0.25, 0.0], [9.0, 1.0]])  # in state 1 it likes action 0
    target: Any = Table([[0.0, 0.0], [20.0, 30.0]])  # which this one gives 20; its own choice is worth 30
    batch = Batch(
        torch.tensor([[0.0]]), torch.tensor([0]), torch.tensor([1.0]), torch.tensor([[1.0]]), torch.tensor([0.5]),
        torch.ones(1), torch.zeros(1).long(),
    )  # fmt: skip
    loss, error, value = losses(model, target, batch, double)
    assert value.item() == 0.25
    assert error.item() == pytest.approx(goal - 0.25)
    assert loss.item() == pytest.approx(goal - 0.25 - 0.5)  # Huber's loss beyond 1
    loss.backward()
    assert target.rows.grad is None
    assert model.rows.grad.tolist() == [[-1.0, 0.0], [0.0, 0.0]]


def test_a_distribution_is_learned_to_its_entropy() -> None:
    """The loss of C51 falls to the entropy of the target, where the error that sets priorities is 0."""
    torch.manual_seed(0)
    model = QNetwork((2,), 2, [16], atoms=5, low=0.0, high=4.0)
    target = copy.deepcopy(model)
    batch = Batch(
        torch.ones(1, 2), torch.tensor([1]), torch.tensor([1.5]), torch.ones(1, 2), torch.zeros(1), torch.ones(1),
        torch.zeros(1).long(),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(400):
        loss, error, value = losses(model, target, batch, True)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    assert loss.item() == pytest.approx(0.6931, abs=0.02)  # half at 1, half at 2
    assert error.item() < 0.02
    assert value.item() == pytest.approx(1.5, abs=0.02)


def test_dueling_streams_can_be_told_apart() -> None:
    torch.manual_seed(0)
    model = QNetwork((3,), 4, [8], dueling=True)
    x = torch.randn(5, 3)
    assert model.value is not None
    torch.testing.assert_close(model.values(x).mean(1, keepdim=True), model.value(x))  # the value is the mean
    before = model.values(x)
    with torch.no_grad():
        list(model.advantage.parameters())[-1].add_(7.0)
    torch.testing.assert_close(model.values(x), before, atol=1e-5, rtol=1e-4)  # a constant can't hide in advantages


def test_noise_is_there_in_training_and_gone_in_evaluation() -> None:
    torch.manual_seed(0)
    layer, x = NoisyLinear(64, 3), torch.randn(2, 64)
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    outputs = []
    for _ in range(4000):
        layer.resample()
        outputs.append(layer(x).detach())
    outputs_all = torch.stack(outputs)
    assert not torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs_all.mean(0), plain, atol=0.06, rtol=0)
    # f(ε) = sgn(ε)√|ε| has variance E|ε| = √(2/π); weight noise is a product of two, bias noise one.
    sigma = 0.5 / 8
    variance = sigma**2 * (2 / torch.pi * x.square().sum(1) + (2 / torch.pi) ** 0.5)
    torch.testing.assert_close(outputs_all.var(0), variance[:, None].expand(2, 3), rtol=0.15, atol=0)
    torch.testing.assert_close(layer.eval()(x), plain)
    assert not any("noise" in name for name in layer.state_dict())


# --- environments ----------------------------------------------------------------------------------------------


def lookup(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda seen: torch.nn.functional.one_hot(act(seen), 2).float()


def test_playing_counts_the_first_episode_of_each_environment() -> None:
    lanes = Environments("Diary-v0", 5, once=True)
    played = play(lambda seen: torch.zeros(len(seen), 3), lanes, 20)
    assert played.lengths.tolist() == [3] * 5
    assert played.returns.tolist() == [sum(reward_of(0, k) for k in range(3))] * 5
    cart = Environments("CartPole-v1", 30, once=True)
    always_left = play(lookup(lambda seen: torch.zeros(len(seen)).long()), cart, 5)
    assert torch.equal(always_left.returns, always_left.lengths.double())
    assert 8 <= always_left.lengths.min() <= always_left.lengths.max() <= 11


def test_gymnasiums_own_vectors_and_single_environments_play_the_same() -> None:
    """CartPole's vectorised implementation: same dynamics, same limit, same reset in the step after the end."""
    fast = Environments("CartPole-v1", 2)
    slow = Environments("CartPole-v1", 2, render=True)
    assert type(fast.vector) is not type(slow.vector)
    fast.reset(0)
    slow.reset(0)
    for number, environment in enumerate(slow.vector.envs):
        environment.unwrapped.state = fast.vector.state[:, number].copy()
    generator = torch.Generator().manual_seed(0)
    reset = 0
    for _ in range(60):
        actions = torch.randint(2, (2,), generator=generator)
        left, right = fast.step(actions), slow.step(actions)
        assert torch.equal(left.real, right.real)
        assert torch.equal(left.rewards, right.rewards)
        assert torch.equal(left.terminated, right.terminated)
        if not bool(left.real.all()):  # both begin anew, but where is by chance
            reset += 1
            for number, environment in enumerate(slow.vector.envs):
                environment.unwrapped.state = fast.vector.state[:, number].copy()
        else:
            torch.testing.assert_close(left.observations, right.observations)
    assert reset > 1


def test_pong_plays_as_mnih_et_al_did() -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    lanes = Environments("ALE/Pong-v5", 2, clip_rewards=True)
    assert (lanes.shape, lanes.dtype) == ((4, 84, 84), torch.uint8)
    assert lanes.actions[:3] == ["noop", "fire", "right"]
    actor = Actor(lanes, CPU)
    actor.begin(0)
    replay = Replay(500, 2, lanes.frame, lanes.dtype, CPU, stack=4, steps=3)
    replay.add(actor.collect(QNetwork(lanes.shape, 6, [16]), 120, epsilon=1.0))
    batch = next(replay.batches(1, 32))
    assert batch.observations.float().std() > 10
    assert set(replay.rewards.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert QNetwork(lanes.shape, 6, [16], dueling=True, noisy=True).values(batch.observations).shape == (32, 6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CartPol-v1", "There is no environment CartPol-v1.\nDid you mean CartPole-v1?"),
        ("LunarLander-v99", "There is no environment LunarLander-v99.\nDid you mean LunarLander-v3?"),
        ("Pendulum-v1", "The actions of Pendulum-v1 are not discrete but a Box"),
        ("nowhere:Thing-v0", "nowhere:Thing-v0 needs"),
    ],
)
def test_an_environment_that_does_not_go_says_why(name: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        Environments(name, 1)
    assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("name", "library", "text"),
    [
        ("LunarLander-v3", "Box2D", "LunarLander-v3 needs Box2D.\npip install -e '.[box2d]'"),
        ("ALE/Pong-v5", "ale_py", "ALE/Pong-v5 needs ale-py.\npip install -e '.[atari]'"),
        ("ALE/Pong-v5", "cv2", "ALE/Pong-v5 needs OpenCV.\npip install -e '.[atari]'"),
    ],
)
def test_a_missing_extra_is_named(name: str, library: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in [m for m in sys.modules if m.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError) as error:
        Environments(name, 1)
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--env", "Pendulum-v1"], "error: The actions of Pendulum-v1 are not discrete"),
        (["--data", "Acrobot-v1", "--env", "CartPole-v1"], "error: --data Acrobot-v1 and --env CartPole-v1 name two"),
        (["--hidden", "big"], "error: --hidden big: not a list of widths."),
        (["--v-min", "3", "--v-max", "3"], "error: --v-min 3 is not below --v-max 3."),
        (["--envs", "8", "--train-every", "12"], "error: --train-every 12 is no multiple of --envs 8."),
    ],
)
def test_mistakes_give_one_or_two_lines(arguments: list[str], text: str, tmp_path: Path) -> None:
    assert mistake(python("-m", "rl.dqn", *arguments, "--out", tmp_path)).startswith(text)
    assert not list(tmp_path.iterdir())


# --- the whole -------------------------------------------------------------------------------------------------


def trained(tmp_path: Path, **said: Any) -> dict[str, Any]:
    return execute(dqn.example, Options(tiny=True, out=str(tmp_path), quiet=True), said)


def best_possible(episodes: int) -> float:
    """Mean return of the best policy from the starts of the test."""
    starts = Environments(TINY, episodes).reset(dqn.TEST_SEED).argmax(1)
    return sum(best_return(int(cell)) for cell in starts) / episodes


@pytest.mark.parametrize("said", [{}, {"rainbow": True}, {"double": False, "n_step": 1, "dueling": True}])
def test_the_corridor_is_learned_to_its_best_return(said: dict[str, Any], tmp_path: Path) -> None:
    result = trained(tmp_path, **said)
    assert result["metrics"]["mean_return"] == pytest.approx(best_possible(20), abs=1e-6)
    saved = artifact.load(Path(result["run"]))
    assert dqn.evaluate(saved, DQNConfig().with_values(saved.config)).values == result["metrics"]
    predictor = dqn.load(saved)
    observation = predictor.input.decode(b"[0,0,0,1,0,0,0,0,0,0,0,0]")
    (row,) = predictor.predict([observation])
    assert row["action"] == "right"
    assert row["q_values"].keys() == {"left", "right"}
    assert row["q_values"]["right"] > row["q_values"]["left"]
    report = (Path(result["run"]) / "report.html").read_text()
    assert "data:image/gif" in report


def test_rainbow_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", rainbow=True)
    validate = dqn.validate

    def killed(config: Any, run: Any, *rest: Any) -> None:
        if run.step > 150:
            raise KeyboardInterrupt
        validate(config, run, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(dqn, "validate", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "halves", rainbow=True)
    resumed = execute(dqn.example, Options(out=str(tmp_path / "halves"), resume="latest", quiet=True), {})
    assert resumed["metrics"] == whole["metrics"]
    assert same(final_weights(Path(resumed["run"])), final_weights(Path(whole["run"])))
    left, right = last_checkpoint(Path(resumed["run"])), last_checkpoint(Path(whole["run"]))
    for part in ("model", "target", "optimizer", "replay", "actor"):
        assert same(left["parts"][part], right["parts"][part]), part
    assert same(left["rng"], right["rng"])
