"""What is installed for whom: `make demo` brings what a user needs, and that is enough; the rest is for developers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from common import example
from tests.helpers import ROOT, python, result

FAKE = r"""#!/bin/sh
# Stands for Python: notes what it was asked, and makes an environment whose python is itself.
echo "$@" >> "$CALLS"
if [ "$2" = venv ]; then
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    for name in ruff mypy lint-imports; do cp "$0" "$3/bin/$name"; done
fi
case "$*" in *"$FAILS"*) exit 1 ;; esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / "fake").write_text(FAKE)
    (tmp_path / "fake").chmod(0o755)
    return tmp_path


def make(project: Path, *arguments: str, fails: str = "nothing") -> list[str]:
    """The installations that `make ARGUMENTS` asked pip for."""
    calls = project / "calls"
    calls.write_text("")
    ended = subprocess.run(
        ["make", f"PYTHON={project / 'fake'}", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CALLS": str(calls), "FAILS": fails},
    )
    assert (ended.returncode == 0) == (fails == "nothing"), ended.stderr
    lines = calls.read_text().splitlines()
    return [re.sub(r".*constraints\.txt ", "", line) for line in lines if "pip install" in line]


def test_demo_installs_the_base_once_and_test_adds_the_rest_once(project: Path) -> None:
    assert make(project, "demo") == ["-e ."]
    assert make(project, "demo") == []
    assert make(project, "test") == ["-e .[dev]"]
    for target in ("demo", "test", "lint", "bench", "setup"):
        assert make(project, target) == []


@pytest.mark.parametrize("target", ["setup", "test", "lint", "bench"])
def test_developers_get_everything_at_once(project: Path, target: str) -> None:
    assert make(project, target) == ["-e .", "-e .[dev]"]
    assert make(project, "demo") == []


def test_changed_requirements_install_again(project: Path) -> None:
    make(project, "test")
    for name in ("pyproject.toml", "constraints.txt"):
        newer = (project / ".venv" / ".ready-dev").stat().st_mtime + 10
        os.utime(project / name, (newer, newer))
        for marker in (project / ".venv").glob(".ready*"):
            os.utime(marker, (newer - 10, newer - 10))
        assert make(project, "test") == ["-e .", "-e .[dev]"]
        for file in (project / name, *(project / ".venv").glob(".ready*")):
            os.utime(file, (1e9, 1e9))


def test_failed_installations_are_repeated(project: Path) -> None:
    assert make(project, "test", fails=".[dev]") == ["-e .", "-e .[dev]"]
    assert make(project, "test") == ["-e .[dev]"]


def test_torch_comes_from_the_index_that_was_asked_for(project: Path) -> None:
    index = "https://example.org/whl/cpu"
    assert make(project, f"TORCH_INDEX={index}", "demo") == [f"--index-url {index} torch torchvision", "-e ."]
    assert make(project, "test") == [f"--index-url {index} torchaudio", "-e .[dev]"]  # remembered
    make(project, "clean")
    assert make(project, "demo") == ["-e ."]


def test_gpu_installs_nothing(project: Path) -> None:
    assert make(project, "gpu") == []


# --- what the base installation can do ---------------------------------------------------------------------

# Hides every other distribution from the imports of a process, as if it weren't there (also from find_spec).
HIDE = """
import json, runpy, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Without, sys.meta_path)
for command in json.loads(sys.argv[1]):
    sys.argv = command
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code: raise
"""


def base() -> set[str]:
    """Names of the distributions that `pip install .` brings."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject, flags=re.S | re.M)
    assert listed
    waiting = [Requirement(text) for text in re.findall(r'^ *"([^"]+)"', listed[1], flags=re.M)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        needed = waiting.pop()
        for extra in ("", *needed.extras):
            name = canonicalize_name(needed.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                texts = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # CUDA's, where torch is built for the CPU
                continue
            requirements = map(Requirement, texts)
            waiting += [r for r in requirements if not r.marker or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def with_base_only(*commands: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Runs `python -m COMMAND` for each, in one process that can import nothing but the base installation."""
    known = base()
    owners = metadata.packages_distributions()
    hidden = {top for top, names in owners.items() if not {canonicalize_name(n) for n in names} & known}
    hidden -= {"common", *(folder.name for folder in example.domains())}
    assert {"torchaudio", "fastapi", "pytest", "onnx"} <= hidden
    texts = [list(map(str, command)) for command in commands]
    return python("-c", f"HIDDEN = {hidden!r}\n{HIDE}", json.dumps(texts))


def test_every_example_trains_and_a_model_is_used_with_the_base_installation(tmp_path: Path) -> None:
    examples = ["nlp.classify", "nlp.gpt", "rl.dqn", "generative.gan", "research.ladder", "vision.train"]
    options: list[str | Path] = ["--tiny", "--json", "--out", tmp_path / "runs"]
    trained = result(with_base_only(*([name, *options] for name in examples)))
    assert len(list((tmp_path / "runs").rglob("report.html"))) == len(examples)
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    used = with_base_only(["common.predict", trained["run"], tmp_path / "a.png"], ["common.serve", trained["run"]])
    assert "a.png" in used.stdout
    assert used.returncode == 2, used.stderr
    assert "pip install" in used.stderr  # the server is an extra, and says so
