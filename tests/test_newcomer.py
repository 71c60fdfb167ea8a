"""A kind of input and a kind of answer that nobody knows, and a domain that nothing lists: all works, nothing changes.

tests/newcomer/ goes into a copy of the project as a new kind would: a file and a view each. Then its example is
trained, used, exported, served, tracked and transformed by the project's own commands.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, only_run
from tests.serve_helpers import address

NEW = {
    "morse.py": "common/kinds/morse.py",
    "tone.py": "common/kinds/tone.py",
    "morse.js": "common/serve/page/ask/morse.js",
    "tone.js": "common/serve/page/show/tone.js",
    "listen.py": "made/listen.py",
}
# Several commands in one process: importing torch for each would take longer than their work.
RUN = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        if words[0].endswith(".py"): runpy.run_path(words[0], run_name="__main__")
        else: runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code: raise
"""
LOAD = """
import mlflow, pandas
(version,) = mlflow.MlflowClient().search_model_versions("name='made-listen'")
model = mlflow.pyfunc.load_model(f"models:/made-listen/{version.version}")
print(model.predict(pandas.DataFrame({"input": ["---"]})).to_json(orient="records"))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the newcomer in it."""
    tree = tmp_path_factory.mktemp("tree")
    for part in ("common", "sagemaker"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "labs"))
    (tree / "made").mkdir()
    (tree / "made" / "__init__.py").write_text('DOMAIN = "Made up"\n')
    for name, target in NEW.items():
        assert not (tree / target).exists()
        shutil.copy(ROOT / "tests" / "newcomer" / name, tree / target)
    return tree


def start(tree: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "MLFLOW_TRACKING_URI": f"sqlite:///{tree}/mlflow.db"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    return subprocess.Popen([sys.executable, *arguments], cwd=tree, env=environment, **pipes)


def said(tree: Path, *arguments: str) -> str:
    process = start(tree, *arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def run(tree: Path, *commands: str) -> str:
    """What commands print that all succeed."""
    return said(tree, "-c", RUN, json.dumps([command.split() for command in commands]))


@pytest.fixture(scope="module")
def trained(tree: Path) -> Path:
    """Its run."""
    (tree / "in").mkdir()
    (tree / "in" / "sos.morse").write_text("... --- ...")
    (tree / "in" / "o.morse").write_text("---")
    track = "" if find_spec("mlflow") is None else "--track mlflow"
    out = run(tree, f"made.listen --json {track}", "common --json")
    assert [row["name"] for row in json.loads(out.splitlines()[-1])] == ["made.listen"]
    return only_run(tree / "runs", "made.listen")


@pytest.fixture(scope="module")
def server(tree: Path, trained: Path) -> Iterator[str]:
    with start(tree, "-m", "common.serve", str(trained), "--port", "0", stdout=subprocess.DEVNULL) as process:
        yield address(process)
        process.terminate()


def test_its_report_has_what_the_answer_shows(trained: Path) -> None:
    assert "They are off by 0.0" in (trained / "report.html").read_text()
    assert json.loads((trained / "result.json").read_text())["metrics"]["mse"] < 0.002


def test_it_predicts_into_rows_a_table_and_files_and_is_exported(tree: Path, trained: Path) -> None:
    run(
        tree,
        f"common.predict {trained} in/o.morse in/sos.morse --out sounds",
        f"common.evaluate {trained}",
        f"common.export {trained} --to torch-export",
        f"common.predict {trained}/exports/torch-export --value=--- --out exported",
    )
    rows = [json.loads(line) for line in (tree / "sounds" / "index.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["o.morse", "sos.morse"]
    assert [row["dashes"] for row in rows] == pytest.approx([3 / 16, 3 / 16], abs=0.08)
    assert all((tree / "sounds" / row["wav"]).read_bytes().startswith(b"RIFF") for row in rows)
    (again,) = (json.loads(line) for line in (tree / "exported" / "index.jsonl").read_text().splitlines())
    assert again["dashes"] == pytest.approx(rows[0]["dashes"], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('"---"', "application/json"),
        ('{"morse": "---"}', "application/json"),
        ('"---"\n', "application/jsonlines"),
        ("---\n", "text/csv"),
        ("---", "audio/x-morse"),
        ("---", "application/octet-stream"),
    ],
)
def test_every_body_is_answered(body: str, content_type: str, server: str) -> None:
    request = urllib.request.Request(f"{server}/invocations", body.encode(), {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.loads(answer.read())
    row = found[0] if isinstance(found, list) else found
    assert row["dashes"] == pytest.approx(3 / 16, abs=0.08)


def test_a_table_is_answered_with_a_table(server: str) -> None:
    head = {"Content-Type": "text/csv", "Accept": "text/csv"}
    request = urllib.request.Request(f"{server}/invocations", b"---\n.\n", head)
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    assert [float(line) for line in lines] == pytest.approx([3 / 16, 0], abs=0.08)


def test_a_wrong_body_gets_its_one_line(server: str) -> None:
    request = urllib.request.Request(f"{server}/invocations", b'"abc"', {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 400
    assert "not 1 to 16 dots, dashes and gaps" in json.loads(refused.value.read())["error"]


def test_its_views_stand_on_the_page(browser: Any, server: str) -> None:
    trouble: list[str] = []
    page = browser.new_page()
    page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(server)
    page.get_by_text("% dashes").wait_for()
    before = page.get_by_text("% dashes").inner_text()
    for _ in range(5):
        page.get_by_role("button", name="Dash").click()
    page.wait_for_function("before => document.querySelector('[role=status]').textContent !== before", arg=before)
    assert page.locator("audio").get_attribute("src").startswith("data:audio/wav")
    assert trouble == []


def test_batch_transform_answers_its_files(tree: Path, trained: Path) -> None:
    run(tree, f"sagemaker/batch_transform.py {trained} in --out transformed")
    (table,) = (tree / "transformed").rglob("predictions.jsonl")
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["o.morse", "sos.morse"]
    assert [row["dashes"] for row in rows] == pytest.approx([3 / 16, 3 / 16], abs=0.08)
    assert len(list((tree / "transformed").rglob("*.wav"))) == 2


def test_mlflow_keeps_a_model_that_predicts(tree: Path, trained: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    (row,) = json.loads(said(tree, "-c", LOAD).splitlines()[-1])
    assert row["dashes"] == pytest.approx(3 / 16, abs=0.08)
