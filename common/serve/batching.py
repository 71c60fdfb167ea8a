"""Requests that arrive together are run together: one queue, one model, several threads.

A batch is whatever is queued when the model is free. It is held back only while other requests are being decoded, and
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


@dataclass(eq=False)
class Job:
    """The inputs of one request on their way to answers."""

    items: Sequence[Any]
    rows: list[Any]
    missing: int
    done: asyncio.Future[list[Row]]
    arrived: float


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
        self._queue: deque[tuple[Job, int]] = deque()
        self._decoding = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Inputs in the queue."""
        return len(self._queue)

    async def answer(self, decode: Callable[[], Sequence[Any]], *, small: bool = True) -> list[Row]:
        """The rows of one request, in the order of its inputs.

        Args:
            decode: gives the decoded inputs; runs in a thread.
            small: it takes no time to speak of, so that it may happen in the model's thread.

        Raises:
            Exception: what `decode` raised, or what the model raised for one of these inputs, run alone.
        """
        loop = asyncio.get_running_loop()
        if self._at_work or self._decoding or self._queue or not small:
            self._decoding += 1
            try:
                items = await loop.run_in_executor(self._decoders, decode)
            finally:
                self._decoding -= 1
                self._start()  # others may have waited for this one
        else:
            items, rows = await self._at_once(decode)
            if rows:
                return rows
        job = Job(items, [None] * len(items), len(items), loop.create_future(), time.monotonic())
        self._queue.extend((job, index) for index in range(len(items)))
        self._start()
        try:
            return await job.done
        finally:
            job.done.cancel()  # a request that was given up leaves nothing for the model to do

    async def _at_once(self, decode: Callable[[], Sequence[Any]]) -> tuple[Sequence[Any], list[Row]]:
        """The decoded inputs and the rows of a lone request; no rows where it holds more than a batch."""
        runner = self._runners[0]
        self._at_work.add(runner)
        running = asyncio.get_running_loop().run_in_executor(runner, self._decode_and_run, decode)
        running.add_done_callback(partial(self._finish_at_once, runner))
        items, rows, _ = await asyncio.shield(running)  # the thread goes on if the request is given up
        for row in rows:
            if isinstance(row, Exception):
                raise row
        return items, rows

    def _decode_and_run(self, decode: Callable[[], Sequence[Any]]) -> tuple[Sequence[Any], list[Any], float]:
        items = decode()
        if len(items) > self._largest:
            return items, [], 0.0
        rows, seconds = self._run(list(items), self._threads)
        return items, rows, seconds

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
        while self._queue and len(self._at_work) < len(self._runners):
            if self._queue[0][0].done.done():
                self._queue.popleft()
                continue
            held_until = self._queue[0][0].arrived + self._wait
            if self._decoding and len(self._queue) < self._largest and time.monotonic() < held_until:
                self._start_later(held_until)
                return
            free = [runner for runner in self._runners if runner not in self._at_work]
            batch = self._take(math.ceil(len(self._queue) / len(free)))
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
        while self._queue and len(batch) < min(share, self._largest):
            job, index = self._queue.popleft()
            if not job.done.done():
                batch.append((job, index))
        return batch

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
