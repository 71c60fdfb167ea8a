"""DQN: what is learned from replay, and that the agent learns, resumes and is measured honestly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from rl.dqn import __main__ as dqn
from rl.dqn.__main__ import DQNConfig
from rl.dqn.actor import Actor
from rl.dqn.losses import losses, project
from rl.dqn.networks import NoisyLinear, QNetwork
from rl.dqn.replay import Batch, Replay
from rl.environments import TINY, Environments, best_return
from rl.playing import play
from tests import diary
from tests.diary import reward_of
from tests.helpers import final_weights, last_checkpoint, same

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with diary.registered():
        yield


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
        torch.tensor([[0.0]]),
        torch.tensor([0]),
        torch.tensor([1.0]),
        torch.tensor([[1.0]]),
        torch.tensor([0.5]),
        torch.ones(1),
        torch.zeros(1).long(),
    )
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
        torch.ones(1, 2),
        torch.tensor([1]),
        torch.tensor([1.5]),
        torch.ones(1, 2),
        torch.zeros(1),
        torch.ones(1),
        torch.zeros(1).long(),
    )
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


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((4,), {}),
        ((4,), {"dueling": True}),
        ((4,), {"atoms": 11, "high": 2.0}),
        ((4, 84, 84), {}),
        ((4,), {"noisy": True}),
    ],
)
def test_a_policy_takes_the_action_of_the_highest_value(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = QNetwork(shape, 3, [32, 16], **settings).eval()
    seen = torch.randn(64, *shape)
    with torch.inference_mode():
        expected = model.values(seen).argmax(1)
        assert len(expected.unique()) > 1 or model.pixels
        assert model.policy()(seen.numpy()).tolist() == expected.tolist()


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
    fast = Environments("CartPole-v1", 4)
    slow = Environments("CartPole-v1", 4, render=True)
    assert type(fast.vector) is not type(slow.vector)
    fast.reset(0)
    slow.reset(0)
    for number, environment in enumerate(slow.vector.envs):
        environment.unwrapped.state = fast.vector.state[:, number].copy()
    generator = torch.Generator().manual_seed(0)
    reset = 0
    for _ in range(60):
        actions = torch.randint(2, (4,), generator=generator).numpy()
        left, right = fast.step(actions), slow.step(actions)
        assert left.real.tolist() == right.real.tolist()
        assert left.rewards.tolist() == right.rewards.tolist()
        assert left.terminated.tolist() == right.terminated.tolist()
        if not left.real.all():  # both begin anew, but where is by chance
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
    actor = Actor(lanes)
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
def test_mistakes_give_one_or_two_lines(arguments: list[str], text: str, refusal: Callable[..., str]) -> None:
    assert refusal(dqn.example, *arguments).startswith(text)


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


def test_an_environment_without_a_time_limit_gets_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On CliffWalking an agent that has learnt nothing walks for ever."""
    values = {
        "env": "CliffWalking-v1",
        "steps": 480,
        "episodes": 3,
        "validations": 2,
        "validate_every": 480,
        "max_episode_steps": 50,
    }
    result = execute(dqn.example, Options(tiny=True, out=str(tmp_path)), values)
    assert result["metrics"]["mean_length"] <= 50
    said = capsys.readouterr().err
    assert said.count("CliffWalking-v1 has no time limit: episodes are cut after 50 steps") == 2  # log and note
    for name in ("CliffWalking-v1", "CliffWalking"):  # Gymnasium takes the newest version of a name without one
        environments = Environments(name, 1)
        assert environments.limit == 1000
        environments.reset(0)
        cut = [bool(environments.step(np.zeros(1, np.int64)).truncated[0]) for _ in range(1000)]
        assert cut == [False] * 999 + [True]
    assert Environments("CartPole-v1", 1).limit is None
