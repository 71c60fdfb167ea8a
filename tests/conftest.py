"""Settings of all tests, also for the processes that they start."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# One thread each: the tests run side by side, and tiny networks gain nothing from a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
# Hundreds of processes would each compile our source, where the shell forbids to keep what was compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What programs note for a user is noted for nobody.
_state = tempfile.TemporaryDirectory(prefix="state-")
os.environ["XDG_STATE_HOME"] = _state.name
os.environ.pop("PTUC_TRUST_EXPORT", None)
# No test may reach a hub, whatever the machine allows.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`python -m EXAMPLE ARGUMENTS` in this process, which saves its start; returns its error text.

    A mistake ends with code 2, has one or two lines, prints nothing to stdout and leaves nothing under --out.
    """
    from common.cli import main
    from tests.image_helpers import tree

    def call(example: Any, *arguments: object) -> str:
        before = tree(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main(example, [*map(str, arguments), "--out", str(tmp_path / "runs")])
        output = capfd.readouterr()
        error = output.err[output.err.index("error: ") :].strip()
        assert (stop.value.code, output.out) == (2, "")
        assert len(error.splitlines()) <= 2
        assert tree(tmp_path) == before
        return error

    return call


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; a test of the page is skipped, and says so, where one of them is missing."""
    from tests.page_helpers import CHROMIUM, FLAGS

    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright, of the extra dev, is not installed")
    if not CHROMIUM:
        pytest.skip("the page is tested in Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


SECONDS = 35.0  # that `make matrix` may take for each example on an ordinary machine; more is said,
MOST = 150.0  # and this fails: machines differ by 1.8 ×, and the detector takes 85 s on an ordinary one
_spent: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds up what each example costs the matrix; its name is among the test's parameters."""
    if "matrix" in report.keywords and (named := re.search(r"\[(?:.*-)?(\w+\.\w+)\b", report.nodeid)):
        _spent[named[1]] = _spent.get(named[1], 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and max(_spent.values(), default=0.0) > MOST:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, seconds in sorted(_spent.items(), key=lambda item: -item[1]):
        over = f"  more than {SECONDS:g} s" if seconds > SECONDS else ""
        terminalreporter.write_line(f"matrix  {name}  {seconds:.1f} s{over}")
