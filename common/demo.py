"""Serves every trained run found in a folder, the newest first; trains nothing and downloads nothing.

python -m common.demo                       the runs in runs/, at http://127.0.0.1:8000
python -m common.demo --runs elsewhere --port 8080
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.command import exits as command
from common.errors import UserError
from common.serve.settings import Address, Settings

if TYPE_CHECKING:
    from common.serve.models import ServedModel

MOST = 24  # runs that are served; each takes memory and a place on the page
WHEN = re.compile(r"^\d{8}-\d{6}-")  # with which the name of a run's folder begins


def main(
    runs: Annotated[str, typer.Option(metavar="FOLDER", help="that holds the runs")] = "runs",
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for the whole network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one")] = 8000,
) -> int:
    """Serves every trained run of a folder on a page, the newest first."""
    found = find_runs(Path(runs))
    if not found:
        raise UserError(f"There is no trained run in {runs}.", "Train one: python -m common lists them.")
    if len(found) > MOST:
        command.say(f"{len(found) - MOST} older runs are left out: python -m common.serve RUN serves any.")
    from common.serve.server import start  # loads torch: that there is no run is said before

    return start(name_runs(found[:MOST]), Settings(), Address(host, port), load=load_whole)


def find_runs(folder: Path) -> list[Path]:
    """The folders of all finished runs, at any depth, the newest first."""
    models = [path for path in folder.rglob("model/model.json") if path.is_file()]
    newest_first = sorted(models, key=lambda path: (path.stat().st_mtime_ns, str(path)), reverse=True)
    return [path.parent.parent for path in newest_first]


def name_runs(folders: Sequence[Path]) -> list[str]:
    """`NAME=FOLDER` for each: what tells runs apart, such as "vgg-digits", numbered from the second of the same."""
    from common.serve.models import free_name

    named: dict[str, Path] = {}
    for folder in folders:
        # Runs of several seeds lie in a folder of their own.
        parts = [folder.parent.name, folder.name] if folder.name.startswith("seed-") else [folder.name]
        plain = "-".join(WHEN.sub("", part) for part in parts)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:80] or "run"
        named[free_name(name, named)] = folder
    return [f"{name}={folder}" for name, folder in named.items()]


def load_whole(
    runs: Sequence[str], decoders: ThreadPoolExecutor, *, threads: int, precision: str
) -> dict[str, ServedModel]:
    """The models of those runs that load and answer; one line on stderr for each of the others.

    Args:
        runs: `NAME=FOLDER` each, with different names.

    Raises:
        UserError: none does.
    """
    from common.serve.models import load_models

    models: dict[str, ServedModel] = {}
    for run in runs:
        try:
            models |= load_models([run], decoders, threads=threads, precision=precision)
        except Exception as error:  # a run of another version or a damaged one may fail in any way
            why = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            command.say(f"left out: {run.partition('=')[2]}: {' '.join(why.split())}")
    if not models:
        raise UserError("None of the runs can be served.", "Train one: python -m common lists them.")
    return models


if __name__ == "__main__":
    command.run(main, "python -m common.demo")
