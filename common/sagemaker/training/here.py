"""A training job on this machine without a container: the folders, variables and arguments of one, and its results.

No SDK, no Docker, no network, no root. What it can't show is the image: the packages are those of this Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import read_json
from common.errors import UserError
from common.files import explain_write_errors, write_json
from common.sagemaker.container import contract, staging
from common.sagemaker.container.contract import Host, Tree
from common.sagemaker.container.entry import CHECKPOINTS
from common.sagemaker.training.job import Place, TrainingJob
from common.sagemaker.training.processes import LISTENED_TO, Hosts, free_port
from common.sagemaker.training.spare import Spare
from common.training.folders import check_writable

MODEL = "model.tar.gz"
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}  # a line is shown when it is written
LET_GO = 15.0  # seconds for the processes of a killed launcher to save and end
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        folder: with the results: model.tar.gz, output/, log.txt, and failure where it failed.
        status: "Completed", "Failed" or "Stopped".
        failure_reason: as the console would show it; empty where there is none.
        model: model.tar.gz; it exists where the job is completed.
        metrics: measured on the test split.
        exit_code: 0, or that of the training.
    """

    folder: Path
    status: str
    failure_reason: str
    model: Path
    metrics: dict[str, float]
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """All of it and the job's name, as plain values."""
        plain = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(self).items()}
        return {"job": self.folder.name, **plain}

    def lines(self) -> list[str]:
        """The same for the terminal."""
        shown = [f"{self.status.lower():<10} {self.folder}"]
        if self.failure_reason:
            shown.append(f"reason     {self.failure_reason.strip()}")
        if self.status == "Completed":
            shown.append(f"model      {self.model}")
            shown.append(f"report     {self.folder / 'output' / 'report.html'}")
        elif self.status == "Stopped":
            shown.append(f"continue   the same command with --job-name {self.folder.name}")
        return shown


def spare_for(place: Place) -> contextlib.AbstractContextManager[Spare | None]:
    """A process for a job of one process, begun before the job is known; None where it has no use."""
    one = place.mode == "fast-local" and place.instance_count == place.processes == 1 and not place.dry_run
    if not one or os.name != "posix":
        return contextlib.nullcontext()
    return Spare(env=_outside() | UNBUFFERED, **LISTENED_TO)


def train(job: TrainingJob, spare: Spare | None = None) -> Outcome | None:
    """Runs a job here, or continues one of this name, or reads the result of a finished one; None in a dry run.

    Results lie in OUT/sagemaker/JOB/, checkpoints among them.

    Args:
        spare: a process in which to run it.

    Raises:
        UserError: it can't be started as asked.
    """
    if os.name != "posix":
        raise UserError("fast-local needs Linux or macOS.", f"Run the example itself: python -m {job.example}")
    remote = [source for source in job.channels.values() if source.startswith("s3://")]
    if remote:
        raise UserError(
            f"{remote[0]} needs an account: fast-local takes data of this machine.", "Say --execution-mode aws."
        )
    folder = (Path(job.place.out) / "sagemaker" / job.name).resolve()
    check_writable(folder)
    done = _known(job, folder)
    if job.place.dry_run:
        sys.stdout.write(json.dumps(describe(job), indent=2) + "\n")
        return None
    if done is not None:
        job.say(f"The job {job.name} is finished already; nothing was changed.")
        return done
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, job.name) as lock:
        return _run(job, folder, lock, spare)


def describe(job: TrainingJob) -> dict[str, Any]:
    """What identifies a job, as plain values: hyperparameters as they are sent."""
    return {
        "job": job.name,
        "example": job.example,
        "hyperparameters": strings(job),
        "channels": job.channels,
        "dialect": job.place.dialect,
        "instance_count": job.place.instance_count,
        "processes": processes(job),
    }


def strings(job: TrainingJob) -> dict[str, str]:
    """The hyperparameters as CreateTrainingJob takes them."""
    return {name: contract.encode(value) for name, value in job.hyperparameters.items()}


def processes(job: TrainingJob) -> int:
    """How many on each host; 0 asks for one per GPU."""
    return job.place.processes or _gpus() or 1


def _run(job: TrainingJob, folder: Path, lock: int, spare: Spare | None) -> Outcome:
    began = time.monotonic()
    for stale in (MODEL, "failure", "output"):
        _remove(folder / stale)
    # Its own path stays the same when the job is continued: a run remembers where its data were.
    root = folder / "ml"
    _remove(root)
    write_json(folder / "job.json", {**describe(job), "status": "InProgress"})
    trees = [Tree(root / f"algo-{rank + 1}") for rank in range(job.place.instance_count)]
    staged = staging.stage(job.example, trees[0].code)
    staging.share_bytecode(trees[0].code)
    job.say(f"job        {job.name} ({job.place.dialect}, {len(staged.files)} files, {staged.bytes / 1e3:.0f} kB)")
    commands = _prepare(job, trees, folder / "checkpoints", root)
    hosts = Hosts(commands, folder / "log.txt", quiet=job.quiet, keep=lock, spare=spare)
    code = hosts.wait(job.place.max_run)
    reason = next((text for tree in trees if (text := _text(tree.output / "failure"))), "")
    if code == 0:
        staging.pack(trees[0].model, folder / MODEL)
    elif not hosts.stopped:
        reason = reason or f"exit code {code}; see {folder / 'log.txt'}"
    output = trees[0].output / "data"
    if output.is_dir():
        output.rename(folder / "output")
    status = "Completed" if code == 0 else "Stopped" if hosts.stopped else "Failed"
    seconds = round(time.monotonic() - began, 3)
    outcome = conclude(job, folder, status, "" if hosts.stopped else reason, code, seconds=seconds)
    _remove(root)
    return outcome


def conclude(job: TrainingJob, folder: Path, status: str, reason: str, exit_code: int, **more: Any) -> Outcome:
    """The outcome of a job whose files lie in its folder; writes job.json, and the reason of a failure.

    Args:
        more: what else job.json shall say.
    """
    if reason:
        (folder / "failure").write_text(reason, encoding="utf-8")
    result = folder / "output" / "result.json"
    metrics = read_json(result)["metrics"] if result.exists() else {}
    outcome = Outcome(folder, status, reason, folder / MODEL, metrics, exit_code)
    write_json(folder / "job.json", {**describe(job), **outcome.to_json(), **more})
    return outcome


def _prepare(
    job: TrainingJob, trees: list[Tree], checkpoints: Path, root: Path
) -> list[tuple[list[str], Path, dict[str, str]]]:
    """Makes each host's tree; returns its command, its working directory and its environment."""
    hyperparameters, count = strings(job), processes(job)
    words = [contract.ENTRY, *contract.arguments(hyperparameters, job.place.dialect)]
    isolation = _isolation(root / "isolation")
    port = free_port()
    commands = []
    for rank, tree in enumerate(trees):
        host = Host(rank, len(trees), count, _gpus())
        if rank:
            shutil.copytree(trees[0].code, tree.code, symlinks=True)
        for place in (tree.model, tree.output / "data"):
            place.mkdir(parents=True)
        for name, source in job.channels.items():
            _link(Path(source), tree.channel(name))
        resources = host.resources(job.place.instance_type)
        contract.write_config(tree, hyperparameters, list(job.channels), resources)
        said = contract.environment(
            tree, hyperparameters, list(job.channels), host, job.place.instance_type, job.name, job.place.dialect
        )
        paths = [str(isolation), *([said["PYTHONPATH"]] if "PYTHONPATH" in said else [])]
        said |= {CHECKPOINTS: str(checkpoints), "PYTHONPATH": os.pathsep.join(paths), **UNBUFFERED}
        start = [sys.executable]
        if count * len(trees) > 1:
            start += [
                "-m",
                "torch.distributed.run",
                f"--nnodes={len(trees)}",
                f"--nproc_per_node={count}",
                "--master_addr=127.0.0.1",
                f"--master_port={port}",
                f"--node_rank={rank}",
            ]
        commands.append((start + words, tree.code, _outside() | said))
    return commands


def _isolation(folder: Path) -> Path:
    """A sitecustomize.py that takes this checkout off the path: the job must run from its staged source alone."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path[:] = [p for p in sys.path if p != {str(staging.ROOT)!r}]\n"
        "sys.meta_path[:] = [\n"
        "    f for f in sys.meta_path\n"
        f"    if {str(staging.ROOT / 'common')!r} not in\n"
        "    getattr(sys.modules.get(getattr(f, '__module__', '')), 'MAPPING', {}).values()\n"
        "]\n"
    )
    return folder


def _outside() -> dict[str, str]:
    """This process's environment without what would tell the job of it."""
    hidden = ("PYTHONPATH", "TRAINING_JOB_NAME", *_OF_TORCHRUN)
    return {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("SM_")}


def _known(job: TrainingJob, folder: Path) -> Outcome | None:
    """The outcome of the finished job of this name; UserError where that name has another job."""
    if not (folder / "job.json").exists():
        return None
    saved, asked = read_json(folder / "job.json"), describe(job)
    for key in ("example", "hyperparameters", "channels", "instance_count", "processes"):
        if saved.get(key) != asked[key]:
            raise UserError(f"The job {job.name} was started with another {key.rstrip('s')}.", "Choose another name.")
    if saved["status"] != "Completed" or not (folder / MODEL).exists():
        return None
    return Outcome(folder, "Completed", "", folder / MODEL, saved["metrics"], 0)


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[int]:
    """Holds the job's lock; the training inherits it, so that it outlives a killed launcher."""
    import fcntl  # not on Windows, where train() has ended before

    with (folder / ".lock").open("w") as file:
        deadline = time.monotonic() + LET_GO
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"The job {name} is running.", "Wait for it, or choose another name.") from None
                time.sleep(0.2)
        yield file.fileno()


def _link(source: Path, target: Path) -> None:
    """A channel: the folder itself, or a folder with the file in it; nothing is copied."""
    if source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=True)
    else:
        target.mkdir(parents=True)
        (target / source.name).symlink_to(source)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
