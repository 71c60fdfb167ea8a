"""What the four labs share: the photos, the weights to start from, and the project's commands.

Variables of the environment change them:

DATA=FOLDER         your photos, FOLDER/SPECIES/*.jpg, in place of drawn ones
WEIGHTS=imagenet    start from torchvision's ResNet-18, downloaded once, and not from a small VGG that is trained here
SAGEMAKER_IMAGE     the image with our server, which hosting on AWS needs
LABS_WORK=FOLDER    where everything is kept; sagemaker/labs/runs by default
LABS_TINY=1         the same path on next to nothing, as a test
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import birds  # first: it makes `common` importable

from common.errors import UserError
from common.sagemaker.training.job import Where, job_name

ROOT = Path(__file__).resolve().parents[2]
WORK = Path(os.environ.get("LABS_WORK") or ROOT / "sagemaker" / "labs" / "runs").resolve()
IMAGENET = os.environ.get("WEIGHTS") == "imagenet"
TINY = os.environ.get("LABS_TINY") == "1"
SEEDS = 1 if TINY else 3
EPOCHS = 1 if TINY else 30
JOBS = 2 if TINY else 8  # of the tuning


# --- photos ------------------------------------------------------------------------------------------------


def photos() -> Path:
    """The folder of photos: $DATA, or one that is drawn: 4 species, few photos to learn from, many to test on."""
    own = os.environ.get("DATA")
    return Path(own).expanduser().resolve() if own else _once(WORK / "photos", _draw)


def held_out() -> Path:
    """A folder SPECIES/*.jpg with exactly the photos that the training job keeps for the test."""
    from common.data.images.sources import load_images

    data = load_images(f"folder:{photos()}", seed=0)  # the seed of the training: it draws the same split
    folder = WORK / "test"
    shutil.rmtree(folder, ignore_errors=True)
    for file, label in zip(data.test.source, data.test.targets.tolist(), strict=True):
        target = folder / data.classes[label] / Path(file).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    return folder


def _draw(folder: Path) -> None:
    counts = {"train": 4, "val": 2, "test": 3} if TINY else {"train": 16, "val": 16, "test": 60}
    for seed, (part, count) in enumerate(counts.items()):
        birds.write(folder / part, birds.SPECIES, count, seed)


# --- the model ---------------------------------------------------------------------------------------------


def backbone() -> Path:
    """Weights of a small VGG that can tell twelve other species: what `--weights` takes."""
    return _once(WORK / "backbone", _learn_others) / "model.safetensors"


def arguments() -> list[object]:
    """What `vision.train` is told: fine-tune on the photos, in batches small enough for few of them."""
    words = ["--model", "vgg", "--size", "tiny", "--weights", backbone()]
    if IMAGENET:
        words = ["--model", "torchvision/resnet18", "--weights", "imagenet"]
    return ["--data", f"folder:{photos()}", *words, "--batch-size", 16, "--epochs", EPOCHS]


def train(mode: str) -> dict[str, Any]:
    """Trains as a job in one of the modes of `--execution-mode`; returns how it ended."""
    job = ["--execution-mode", mode, "--job-name", job_name("birds"), "--out", WORK / mode, "--json"]
    outcome: dict[str, Any] = json.loads(command("sagemaker/run_training.py", "vision.train", *job, "--", *arguments()))
    return outcome


def trained(mode: str) -> dict[str, Any]:
    """The newest job that `train` has completed, or a new one where there is none."""
    jobs = [json.loads(file.read_text()) for file in sorted((WORK / mode / "sagemaker").glob("birds-*/job.json"))]
    return next((job for job in reversed(jobs) if job["status"] == "Completed"), None) or train(mode)


def _learn_others(folder: Path) -> None:
    birds.write(folder / "others", birds.invented(3 if TINY else 12, seed=0), 8 if TINY else 60, seed=0)
    result = command(
        "-m", "vision.train", "--data", f"folder:{folder / 'others'}", "--model", "vgg", "--size", "tiny",
        "--epochs", 1 if TINY else 25, "--batch-size", 8 if TINY else 64, "--lr", 0.02, "--crop", 4, "--zoom", 0,
        "--out", folder, "--quiet", "--json",
    )  # fmt: skip
    shutil.copy2(Path(json.loads(result)["run"], "model", "model.safetensors"), folder)


# --- the model in use --------------------------------------------------------------------------------------


def where(mode: str) -> Where:
    """The mode and the folder of its results, as `common.sagemaker.hosting.main` takes them."""
    return Where(execution_mode=mode, image=os.environ.get("SAGEMAKER_IMAGE"), out=str(WORK / mode))


def flags(mode: str) -> list[object]:
    """The same for deploy.py and batch_transform.py."""
    chosen = where(mode)
    return ["--execution-mode", mode, "--out", chosen.out, *(["--image", chosen.image] if chosen.image else [])]


def predict(mode: str, model: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a batch transform job over a folder of photos."""
    command("sagemaker/batch_transform.py", model, folder, *flags(mode))
    newest = max((WORK / mode / "sagemaker").glob("batch-*"), key=lambda job: job.stat().st_mtime)
    return [json.loads(line) for line in (newest / "predictions.jsonl").read_text().splitlines()]


# --- commands ----------------------------------------------------------------------------------------------


def command(*words: object) -> str:
    """Runs `python WORDS` in the repository and shows what it says; returns what it printed on stdout.

    Raises:
        UserError: it failed; the reason was shown.
    """
    with tempfile.TemporaryFile("w+") as stdout:
        process = start(*words, stdout=stdout)
        follow(process)
        if process.wait():
            raise UserError(f"{words[0]} ended with exit code {process.returncode}.", "The reason stands above.")
        stdout.seek(0)
        return stdout.read()


def start(*words: object, stdout: Any = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """Starts `python WORDS` in the repository, and shows it as one would type it there; it ends with this process."""
    given = [str(word) for word in words]
    sys.stdout.write(f"$ python {shlex.join(given).replace(f'{ROOT}{os.sep}', '')}\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *given], cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
    )
    atexit.register(process.terminate)
    return process


def follow(process: subprocess.Popen[str], until: str = "") -> None:
    """Shows what a process says, to its end or to the line that begins with `until`."""
    assert process.stderr is not None
    for line in process.stderr:
        sys.stdout.write(line)
        if until and line.startswith(until):
            break


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made by the first who asks; what was interrupted is made anew."""
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as temporary:
            make(Path(temporary) / "new")
            (Path(temporary) / "new").rename(folder)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
