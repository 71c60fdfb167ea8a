"""Replay: what enters it, what is sampled from it, and that it comes back as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rl.dqn.actor import Actor
from rl.dqn.networks import QNetwork
from rl.dqn.replay import Batch, Replay, Rows
from rl.environments import Environments
from tests import diary
from tests.diary import length_of, reward_of, terminates
from tests.helpers import same

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with diary.registered():
        yield


def recorded(
    name: str,
    rounds: list[int],
    cuts: set[int] = frozenset(),  # type: ignore[assignment]
    environments: int = 3,
    **settings: Any,
) -> Replay:
    """A memory after some rounds of so many steps; episodes are cut after the rounds in `cuts`."""
    lanes = Environments(name, environments)
    settings = {"capacity": 100_000, "stack": 4 if lanes.pixels else 0, "gamma": 0.9} | settings
    replay = Replay(settings.pop("capacity"), environments, lanes.frame, lanes.dtype, CPU, **settings)
    actor, model = Actor(lanes), QNetwork(lanes.shape, 3, [4])
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
        batch.observations.tolist(),
        batch.next_observations.tolist(),
        batch.returns.tolist(),
        batch.discounts.tolist(),
        replay.span.flatten()[batch.indices].tolist(),
        strict=True,
    ):
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
        actions = np.zeros(2, np.int64)
        step = lanes.step(actions)
        rows.append((lanes.newest(seen[-1]), actions, step.rewards, step.terminated, step.truncated, step.real))
        seen.append(step.observations)
    replay = Replay(1000, 2, lanes.frame, lanes.dtype, CPU, stack=4)
    replay.add(Rows(*(torch.from_numpy(np.stack(c)) for c in zip(*rows, strict=True))))
    batch = everything(replay)
    row, lane = batch.indices // 2, batch.indices % 2
    everywhere = torch.from_numpy(np.stack(seen))
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
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    assert replay.state_dict()["rings"]["observations"].shape[0] == replay.written, "only what is filled"
