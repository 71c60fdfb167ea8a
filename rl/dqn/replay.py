"""Replay memory: preallocated tensors on the device, n-step returns, stacked frames, uniform or prioritised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 256  # priorities under one sum: a sum tree of two levels, both searched at once for the whole batch


class Rows(NamedTuple):
    """What N environments did in R steps, in order.

    Attributes:
        observations: what was seen before each action, [R, N, *frame].
        actions: int64 [R, N].
        rewards: float32 [R, N].
        terminated, truncated: whether the episode ended with this action, bool [R, N].
        real: false where there was no action: the step that only resets an environment, bool [R, N]. Its observation
            is the last one of the episode that ended before it.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    real: Tensor

    @classmethod
    def empty(cls, rows: int, environments: int, frame: Sequence[int], dtype: torch.dtype) -> Rows:
        """Rows to be filled in."""
        shape = (rows, environments)
        flags = (torch.empty(shape, dtype=torch.bool) for _ in range(3))
        return cls(
            torch.empty(*shape, *frame, dtype=dtype), torch.empty(shape, dtype=torch.int64), torch.empty(shape), *flags
        )


class Batch(NamedTuple):
    """Transitions to learn from.

    Attributes:
        observations, next_observations: [B, *shape], n steps apart, fewer where an episode ended.
        actions: int64 [B].
        returns: sum of the discounted rewards between the two, [B].
        discounts: what the value of the second is worth, γⁿ; 0 after a termination, [B].
        weights: importance of each, 1 where sampling is uniform, [B].
        indices: where they lie in the memory, [B].
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    next_observations: Tensor
    discounts: Tensor
    weights: Tensor
    indices: Tensor

    def part(self, start: int, end: int) -> Batch:
        return Batch(*(column[start:end] for column in self))


class Replay:
    """The newest transitions of N environments.

    It is a ring of rows: row t holds what each environment saw and did at its step t. The environments reset one step
    after an episode's end (NEXT_STEP), so the successor of row t is always row t + 1 and every observation is stored
    once: the last one of an episode in the row of the step that only resets, which is never sampled. Of images only
    the newest frame is stored; the stack is put together at sampling, from frames of the same episode.

    Args:
        capacity: transitions kept, over all environments.
        frame: shape of what is stored for each step, [F] or [H, W].
        stack: frames that make one observation of images; 0 for vectors.
        steps: n of n-step returns (Sutton 1988; with DQN: Hessel et al. 2018, arXiv 1710.02298).
        alpha: exponent of the priorities (Schaul et al. 2016, arXiv 1511.05952); 0 for uniform sampling.
    """

    def __init__(
        self,
        capacity: int,
        environments: int,
        frame: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        stack: int = 0,
        steps: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.0,
    ) -> None:
        self.n, self.rows = environments, max(capacity // environments, 4 * (steps + stack + 1))
        self.stack, self.steps, self.gamma, self.alpha, self.device = stack, steps, gamma, alpha, device
        # Of sums of priorities; Apple's GPUs have no float64, and their sums are a little off after millions of rows.
        self.exact = torch.float32 if device.type == "mps" else torch.float64
        self.written = 0  # rows so far, ever
        self.ready = 0  # rows so far whose n-step window is closed
        self.oldest = 0  # row from which on transitions may be sampled
        self.first = self.last = 0  # of `order`, counted like `written`
        self._shape = (self.rows, environments)

        def ring(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(self.rows, environments, *shape, dtype=dtype, device=device)

        self.observations = ring(dtype, *frame)
        self.actions = ring(torch.int64)
        self.rewards = ring(torch.float32)
        self.terminated, self.truncated, self.real = ring(torch.bool), ring(torch.bool), ring(torch.bool)
        self.age = ring(torch.uint8)  # frames of the same episode before this one, at most stack - 1
        # By row of their first step:
        self.returns, self.discounts = ring(torch.float32), ring(torch.float32)
        self.span = ring(torch.uint8)  # steps to the successor
        self.places = torch.arange(self.rows * environments, device=device)  # flat indices, row · N + environment
        # Those of the transitions that may be sampled, oldest first: another ring.
        self.order = torch.zeros(self.rows * environments, dtype=torch.int64, device=device)
        # p^α, 0 for what may not be sampled, and its sums over blocks.
        self.priorities = torch.zeros(-(-self.rows * environments // BLOCK), BLOCK, device=device)
        self.sums = torch.zeros(len(self.priorities), dtype=self.exact, device=device)
        self.highest = torch.ones((), device=device)

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def bytes(self) -> int:
        """Memory of all its tensors."""
        return sum(t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, Tensor))

    # -- writing ----------------------------------------------------------------------------------------

    def add(self, new: Rows) -> None:
        """Writes R rows over the oldest ones and closes the n-step windows that end with them."""
        count, most = len(new.actions), self.rows // 2
        if count <= most:
            self._add(new)
            return
        for start in range(0, count, most):
            self._add(Rows(*(column[start : start + most] for column in new)))

    def _add(self, new: Rows) -> None:
        count = len(new.actions)
        self._forget(self.written + count - self.rows)
        into = self._at(self.written, self.written + count)
        for name, column in new._asdict().items():
            getattr(self, name)[into] = column.to(self.device)
        if self.stack:
            self._count_ages(count)
        self.written += count
        self._close(self.written - self.steps)

    def _count_ages(self, count: int) -> None:
        for row in range(self.written, self.written + count):
            here, before = row % self.rows, (row - 1) % self.rows
            # Behind a resetting step an episode begins; so does it in the very first row.
            goes_on = self.real[before] if row else torch.zeros_like(self.real[here])
            self.age[here] = torch.where(goes_on, (self.age[before] + 1).clamp(max=self.stack - 1), 0)

    def _forget(self, oldest: int) -> None:
        """Takes transitions of rows before `oldest` out; with images also those whose stack would reach behind it."""
        oldest += max(self.stack - 1, 0)
        if oldest <= self.oldest:
            return
        amount = int(self.real[self._at(self.oldest, oldest)].sum())
        if self.alpha:
            slots = self._at(self.first, self.first + amount, len(self.order))
            self._set(self.order[slots], torch.zeros(amount, device=self.device))
        self.first += amount
        self.oldest = oldest

    def _close(self, end: int) -> None:
        """Sums up the n-step windows that begin in rows `ready` to `end`: all that they need is there."""
        if end <= self.ready:
            return
        here = self._at(self.ready, end)
        going = real = self.real[here]  # [W, N]
        returns = torch.zeros(going.shape, device=self.device)
        span = torch.zeros(going.shape, dtype=torch.uint8, device=self.device)
        bootstrap = torch.ones_like(going)
        for k in range(self.steps):
            row = self._at(self.ready + k, end + k)
            returns += going * self.rewards[row] * self.gamma**k
            span += going
            bootstrap &= ~(going & self.terminated[row])
            if k + 1 < self.steps:
                going = going & ~(self.terminated[row] | self.truncated[row])
        self.returns[here], self.span[here] = returns, span
        # A truncated episode would have gone on: its last observation has a value. A terminated one has none.
        self.discounts[here] = bootstrap * self.gamma ** span.float()
        new = self.places.view(self._shape)[here][real]
        self.order[self._at(self.last, self.last + len(new), len(self.order))] = new
        self.last += len(new)
        self.ready = end
        if self.alpha:
            self._set(new, self.highest.expand(len(new)))

    def _at(self, start: int, end: int, size: int = 0) -> slice | Tensor:
        """Where the counted rows `start` to `end` lie in a ring: a slice, unless they go round its end."""
        size = size or self.rows
        if start % size + end - start <= size:
            return slice(start % size, start % size + end - start)
        return torch.arange(start, end, device=self.device) % size

    def cut(self, frames: Tensor) -> None:
        """Ends every running episode as a truncation; `frames` [N, *frame] are what was seen last."""
        last = (self.written - 1) % self.rows
        self.truncated[last] |= self.real[last] & ~self.terminated[last]
        no = torch.zeros(1, self.n, dtype=torch.bool, device=self.device)
        self.add(Rows(frames[None], no.long(), no.float(), no, no, no))

    # -- sampling ---------------------------------------------------------------------------------------

    def batches(self, count: int, size: int, beta: float = 1.0) -> Iterator[Batch]:
        """`count` random batches, with replacement; uniform ones are gathered all at once.

        Args:
            beta: exponent of the importance weights; 1 corrects for the priorities in full.
        """
        if self.alpha:
            for _ in range(count):
                yield self._prioritized(size, beta)
            return
        slots = torch.randint(self.first, self.last, (count * size,), device=self.device) % len(self.order)
        drawn = self._gather(self.order.index_select(0, slots), torch.ones(count * size, device=self.device))
        if count == 1:
            yield drawn
            return
        for start in range(0, count * size, size):
            yield drawn.part(start, start + size)

    def _prioritized(self, size: int, beta: float) -> Batch:
        """One transition from each of `size` equal shares of the sum of all priorities."""
        sums = self.sums.cumsum(0)
        shares = torch.arange(size, dtype=self.exact, device=self.device)
        mass = (shares + torch.rand(size, dtype=self.exact, device=self.device)) / size * sums[-1]
        block = torch.searchsorted(sums, mass, right=True).clamp_(max=len(sums) - 1)
        inside = self.priorities[block].to(self.exact).cumsum(1)  # [B, BLOCK]
        rest = (mass - (sums[block] - self.sums[block])).clamp(min=0)
        rest = torch.minimum(
            rest, torch.nextafter(inside[:, -1], torch.zeros_like(rest))
        )  # rounding stays in its block
        position = torch.searchsorted(inside, rest[:, None], right=True).squeeze(1)
        indices = block * BLOCK + position
        chance = self.priorities.view(-1)[indices].to(self.exact) / sums[-1]
        weights = (len(self) * chance) ** -beta
        return self._gather(indices, (weights / weights.max()).float())

    def prioritize(self, batch: Batch, errors: Tensor) -> None:
        """Sets the priorities of a batch to its new errors [B], at least 0."""
        if self.alpha:
            values = (errors + 1e-6) ** self.alpha
            self.highest = torch.maximum(self.highest, values.max())
            self._set(batch.indices, values)

    def _set(self, indices: Tensor, values: Tensor) -> None:
        self.priorities.view(-1)[indices] = values
        blocks = indices // BLOCK
        self.sums[blocks] = self.priorities[blocks].to(self.exact).sum(1)

    def _gather(self, indices: Tensor, weights: Tensor) -> Batch:
        total = self.rows * self.n
        following = (indices + self._flat(self.span, indices) * self.n) % total
        return Batch(
            self._observations(indices),
            self._flat(self.actions, indices),
            self._flat(self.returns, indices),
            self._observations(following),
            self._flat(self.discounts, indices),
            weights,
            indices,
        )

    def _flat(self, ring: Tensor, indices: Tensor) -> Tensor:
        return ring.flatten(0, 1).index_select(0, indices)

    def _observations(self, indices: Tensor) -> Tensor:
        if not self.stack:
            return self._flat(self.observations, indices)
        back = torch.arange(self.stack - 1, -1, -1, device=self.device)  # oldest first
        back = torch.minimum(back, self._flat(self.age, indices)[:, None])  # [B, stack]; the first frame is repeated
        frames = (indices[:, None] - back * self.n) % (self.rows * self.n)
        return self._flat(self.observations, frames.flatten()).unflatten(0, frames.shape)

    # -- saving -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything in it; of the rings only the rows that were written."""
        filled = {name: ring[: self.written].clone() for name, ring in self._rings().items()}
        numbers = {name: getattr(self, name) for name in ("written", "ready", "oldest", "first", "last")}
        rest = {name: getattr(self, name) for name in ("order", "priorities", "sums", "highest")}
        return {"numbers": numbers, "rings": filled, "rest": rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state["numbers"])
        for name, ring in self._rings().items():
            ring[: self.written] = state["rings"][name].to(self.device)
        for name, value in state["rest"].items():
            getattr(self, name).copy_(value)

    def _rings(self) -> dict[str, Tensor]:
        return {name: t for name, t in vars(self).items() if isinstance(t, Tensor) and t.shape[:2] == self._shape}
