"""What /metrics shows: counts of requests and batches, in the text format of Prometheus 0.0.4."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.serve.formats import Problem

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Counts of values at or below each bound, their number and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> list[str]:
        total, lines = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
        return [*lines, f"{name}_sum{{{labels}}} {self._sum:.6f}", f"{name}_count{{{labels}}} {total}"]


class Counters:
    """The counts of one process; with --workers each scrape reads one of them, told apart by `process`.

    Args:
        models: their names; they need no escaping.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self.active = 0  # requests at work
        self._answers: Counter[tuple[str, int]] = Counter()
        self._seconds = {name: Histogram(SECONDS) for name in models}
        self._sizes = {name: Histogram(SIZES) for name in models}
        self._model_seconds = {name: Histogram(SECONDS) for name in models}

    @contextmanager
    def at_work(self, most: int) -> Iterator[None]:
        """Counts a request as at work for the length of a block; Problem 503 where there are `most` already."""
        if self.active >= most:
            raise Problem(503, "The server has all the requests that it can hold. Try again later.")
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def answered(self, model: str, status: int, seconds: float) -> None:
        """One request for predictions was answered."""
        self._answers[model, status] += 1
        self._seconds[model].add(seconds)

    def ran(self, model: str, size: int, seconds: float) -> None:
        """One batch was run."""
        self._sizes[model].add(size)
        self._model_seconds[model].add(seconds)

    def text(self) -> str:
        """All counts."""
        process = f'process="{os.getpid()}"'
        lines = [
            "# HELP serve_requests_total Requests for predictions, by status.",
            "# TYPE serve_requests_total counter",
        ]
        lines += [
            f'serve_requests_total{{{process},model="{model}",status="{status}"}} {count}'
            for (model, status), count in sorted(self._answers.items())
        ]
        lines += ["# HELP serve_requests_active Requests at work.", "# TYPE serve_requests_active gauge"]
        lines.append(f"serve_requests_active{{{process}}} {self.active}")
        for name, what, histograms in (
            ("serve_request_seconds", "Seconds from the first byte of a request to its answer.", self._seconds),
            ("serve_batch_size", "Inputs that were run together.", self._sizes),
            ("serve_model_seconds", "Seconds of the model for a batch.", self._model_seconds),
        ):
            lines += [f"# HELP {name} {what}", f"# TYPE {name} histogram"]
            for model, histogram in histograms.items():
                lines += histogram.lines(name, f'{process},model="{model}"')
        return "\n".join(lines) + "\n"
