"""What /metrics shows: counts of requests and batches, in the text format of Prometheus 0.0.4."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from common.serve.formats import Problem

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)

disable_created_metrics()  # else each series has a second one: when it began


class Counters:
    """The counts of one process; with --workers each scrape reads one of them, told apart by `process`.

    Args:
        models: their names.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self.active = 0  # requests at work
        self._process = process = str(os.getpid())
        self._registry = registry = CollectorRegistry()

        def histograms(name: str, what: str, bounds: Sequence[float]) -> dict[str, Histogram]:
            whole = Histogram(name, what, ("process", "model"), registry=registry, buckets=bounds)
            return {model: whole.labels(process, model) for model in models}

        labels = ("process", "model", "status")
        self._answers = Counter("serve_requests", "Requests for predictions, by status.", labels, registry=registry)
        active = Gauge("serve_requests_active", "Requests at work.", ("process",), registry=registry)
        active.labels(process).set_function(lambda: self.active)
        what = "Seconds from the first byte of a request to its answer."
        self._seconds = histograms("serve_request_seconds", what, SECONDS)
        self._sizes = histograms("serve_batch_size", "Inputs that were run together.", SIZES)
        self._model_seconds = histograms("serve_model_seconds", "Seconds of the model for a batch.", SECONDS)

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
        self._answers.labels(self._process, model, status).inc()
        self._seconds[model].observe(seconds)

    def ran(self, model: str, size: int, seconds: float) -> None:
        """One batch was run."""
        self._sizes[model].observe(size)
        self._model_seconds[model].observe(seconds)

    def text(self) -> bytes:
        """All counts."""
        return generate_latest(self._registry)
