"""The page in Chromium: from a stroke of a drawn digit to the answer on the screen."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from common.command.arguments import Options
from common.command.execute import execute
from common.example import get
from tests.bench.tools import bench
from tests.helpers import ROOT
from tests.page_helpers import CHROMIUM, DIGITS, FLAGS, draw
from tests.results import Figure, Row
from tests.serve_helpers import address

ROUNDS = 3  # that are measured, after one to warm up


def trained(out: str) -> str:
    """The folder of a default run on digits."""
    return str(execute(get("vision.train"), Options(out=out, quiet=True), {})["run"])


@contextmanager
def serving(folder: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "common.serve", f"digits={folder}", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield address(process)
        finally:
            process.terminate()


@bench("page", "Serving", "The page")
def strokes(options: argparse.Namespace) -> Iterator[Row]:
    """The clock runs from a change of the drawing to the frame that shows the answer to it."""
    from playwright.sync_api import sync_playwright

    times: list[float] = []
    right = 0
    with tempfile.TemporaryDirectory() as out, serving(trained(out)) as url, sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page()
        page.goto(f"{url}/#digits")
        page.locator("canvas.paper").wait_for()
        for number in range(ROUNDS + 1):
            for digit, drawing in DIGITS.items():
                page.get_by_role("button", name="Clear").click()
                page.evaluate("performance.clearMeasures()")
                draw(page, drawing)
                page.locator(".easel.hot").wait_for()
                spent = page.evaluate("performance.getEntriesByName('answer').at(-1).duration")
                if number:
                    times.append(spent)
                    right += page.locator(".word").inner_text() == digit
    times.sort()
    most = times[int(0.95 * len(times))]
    figures = {
        "median": Figure(round(median(times), 1), "ms", 0),
        "95 % within": Figure(round(most, 1), "ms", 0),
        "longest": Figure(round(times[-1], 1), "ms", 0),
        "right": Figure(right, ""),
    }
    note = "from a change of the drawing to the frame that shows the answer, in Chromium"
    yield Row("a stroke of a digit", figures, statistic="count", n=len(times), note=note)
