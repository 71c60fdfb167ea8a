"""Requests that arrive together are run together: one queue, one model, several threads.

A batch is whatever is queued when the model is free, of all requests in turn: one of many inputs holds up nobody, and
only so many of its inputs are decoded ahead. A batch is held back only while other requests are being decoded, and
never for longer than `wait`. A lone request never waits: if it is small, the model's thread decodes and runs it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

Row = dict[str, Any]
AHEAD = 4  # parts of a request that are decoded or queued at the same time


@dataclass(frozen=True)
class Part:
    """Some inputs of a request, as many as fit into a batch.

    Attributes:
        decode: gives the decoded inputs; runs in a thread.
        light: decoding takes no time to speak of, so that it may happen in the model's thread.
    """

    decode: Callable[[], Sequence[Any]]
    light: bool = True


@dataclass(eq=False)
class Job:
    """The inputs of one part on their way to answers."""

    items: Sequence[Any]
    rows: list[Any]
    missing: int
    done: asyncio.Future[list[Row]]
    arrived: float


class Turn:
    """What one request has in the queue."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Job, int]] = deque()


class Batcher:
    """Runs a model on the inputs of many requests. All methods belong to the event loop's thread.

    Args:
        predict: a list of decoded inputs to a list of rows; called from several threads.
        decoders: threads that decode requests; may be shared.
        threads: of the CPU, for all batches together; each batch at work gets its share.
        runners: batches at work at the same time.
        largest: inputs in a batch.
        wait: seconds that a batch is held back at most.
        observe: is told the size and the seconds of each batch.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[Any]], list[Row]],
        decoders: ThreadPoolExecutor,
        *,
        threads: int = 1,
        runners: int = 1,
        largest: int = 16,
        wait: float = 0.005,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.last_success = -math.inf  # on time.monotonic()'s clock
        self._predict = predict
        self._decoders = decoders
        self._threads = threads
        self._largest = largest
        self._wait = wait
        self._observe = observe
        # Not one pool: each thread that computes has OpenMP threads of its own, which spin for a while when it is done,
        # in the way of those of the next. Here lone requests always meet the same thread.
        self._runners = [ThreadPoolExecutor(1, thread_name_prefix=f"model-{number}") for number in range(runners)]
        self._at_work: set[ThreadPoolExecutor] = set()
        self._turns: deque[Turn] = deque()  # requests that have something queued; who is first gives the next input
        self._decoding = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Inputs in the queue."""
        return sum(len(turn.queue) for turn in self._turns)

    async def answer(self, split: Callable[[], Sequence[Part]], *, small: bool = True) -> list[Row]:
        """The rows of one request, in the order of its inputs.

        Args:
            split: gives the parts of the request; runs in a thread.
            small: it takes no time to speak of, so that it may happen in the model's thread.

        Raises:
            Exception: what `split` or a part's `decode` raised, or what the model raised for one of these inputs, run
                alone.
        """
        if self._at_work or self._decoding or self._turns or not small:
            parts, items = await self._in_decoders(lambda: _begin(split))
        else:
            items = None
            parts, rows = await self._at_once(split)
            if rows:
                return rows
        turn = Turn()
        if items is not None:
            return await self._queued(items, turn)
        return await self._in_parts(parts, turn)

    async def _in_parts(self, parts: Sequence[Part], turn: Turn) -> list[Row]:
        """The rows of all parts; while one is awaited the next ones are decoded, and all end if the request does."""
        rows: list[Row] = []
        tasks: deque[asyncio.Task[list[Row]]] = deque()
        try:
            for part in parts:
                tasks.append(asyncio.create_task(self._decoded_and_queued(part, turn)))
                if len(tasks) == AHEAD:
                    rows += await tasks[0]
                    tasks.popleft()
            for task in tasks:
                rows += await task
            return rows
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _decoded_and_queued(self, part: Part, turn: Turn) -> list[Row]:
        return await self._queued(await self._in_decoders(part.decode), turn)

    async def _queued(self, items: Sequence[Any], turn: Turn) -> list[Row]:
        job = Job(items, [None] * len(items), len(items), asyncio.get_running_loop().create_future(), time.monotonic())
        if not turn.queue:
            self._turns.append(turn)
        turn.queue.extend((job, index) for index in range(len(items)))
        self._start()
        try:
            return await job.done
        finally:
            job.done.cancel()  # a request that was given up leaves nothing for the model to do

    async def _in_decoders(self, work: Callable[[], Any]) -> Any:
        self._decoding += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        finally:
            self._decoding -= 1
            self._start()  # others may have waited for this one

    async def _at_once(self, split: Callable[[], Sequence[Part]]) -> tuple[Sequence[Part], list[Row]]:
        """The parts and the rows of a lone request; no rows where it has several parts, or a heavy one."""
        runner = self._runners[0]
        self._at_work.add(runner)
        running = asyncio.get_running_loop().run_in_executor(runner, self._decode_and_run, split)
        running.add_done_callback(partial(self._finish_at_once, runner))
        parts, rows, _ = await asyncio.shield(running)  # the thread goes on if the request is given up
        for row in rows:
            if isinstance(row, Exception):
                raise row
        return parts, rows

    def _decode_and_run(self, split: Callable[[], Sequence[Part]]) -> tuple[Sequence[Part], list[Any], float]:
        parts = split()
        if len(parts) > 1 or not parts[0].light:
            return parts, [], 0.0
        rows, seconds = self._run(list(parts[0].decode()), self._threads)
        return parts, rows, seconds

    def _finish_at_once(self, runner: ThreadPoolExecutor, running: asyncio.Future[Any]) -> None:
        failed = running.exception()  # of decoding; it is raised where it is awaited, if it still is
        _, rows, seconds = ((), [], 0.0) if failed else running.result()
        self._let_go(runner, rows, seconds)
        self._start()

    def _let_go(self, runner: ThreadPoolExecutor, rows: Sequence[Any], seconds: float) -> None:
        """A runner is free again, after a batch that gave rows and exceptions."""
        self._at_work.remove(runner)
        if rows:
            self._observe(len(rows), seconds)
            self.last_success = -math.inf if any(isinstance(row, Exception) for row in rows) else time.monotonic()

    def close(self) -> None:
        """Ends the model's threads once their batches are finished."""
        for runner in self._runners:
            runner.shutdown()

    def _start(self) -> None:
        """Starts batches while there is something queued and a runner is free."""
        while self._turns and len(self._at_work) < len(self._runners):
            first = self._turns[0].queue[0][0]
            if first.done.done():
                self._next()
                continue
            held_until = first.arrived + self._wait
            if self._decoding and self.waiting < self._largest and time.monotonic() < held_until:
                self._start_later(held_until)
                return
            free = [runner for runner in self._runners if runner not in self._at_work]
            batch = self._take(math.ceil(self.waiting / len(free)))
            self._at_work.add(free[0])
            threads = max(1, self._threads // len(self._at_work))
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(free[0], self._run, [job.items[i] for job, i in batch], threads)
            running.add_done_callback(partial(self._finish, free[0], batch))

    def _start_later(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._start)

    def _take(self, share: int) -> list[tuple[Job, int]]:
        batch: list[tuple[Job, int]] = []
        while self._turns and len(batch) < min(share, self._largest):
            job, index = self._next()
            if not job.done.done():
                batch.append((job, index))
        return batch

    def _next(self) -> tuple[Job, int]:
        """The next input: each request gives one in its turn."""
        turn = self._turns.popleft()
        job, index = turn.queue.popleft()
        if turn.queue:
            self._turns.append(turn)
        return job, index

    def _run(self, items: list[Any], threads: int) -> tuple[list[Any], float]:
        """Rows, or where the batch fails each input's own row or exception; and the seconds. In a model's thread."""
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of the thread that calls it
        began = time.perf_counter()
        try:
            rows: list[Any] = self._predict(items)
        except Exception:
            rows = [self._alone(item) for item in items]
        return rows, time.perf_counter() - began

    def _alone(self, item: Any) -> Any:
        try:
            return self._predict([item])[0]
        except Exception as error:
            return error

    def _finish(
        self, runner: ThreadPoolExecutor, batch: list[tuple[Job, int]], running: asyncio.Future[tuple[list[Any], float]]
    ) -> None:
        rows, seconds = running.result()
        self._let_go(runner, rows, seconds)
        for (job, index), row in zip(batch, rows, strict=True):
            if job.done.done():
                continue
            if isinstance(row, Exception):
                job.done.set_exception(row)
                continue
            job.rows[index] = row
            job.missing -= 1
            if not job.missing:
                job.done.set_result(job.rows)
        self._start()


def _begin(split: Callable[[], Sequence[Part]]) -> tuple[Sequence[Part], Sequence[Any] | None]:
    """The parts of a request, and the decoded inputs where there is only one."""
    parts = split()
    return parts, parts[0].decode() if len(parts) == 1 else None
