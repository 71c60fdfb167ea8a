"""The source that a job needs and nothing else: our code, what to install, and never data or secrets."""

from __future__ import annotations

import gzip
import re
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from common.errors import UserError
from common.example import get
from common.files import write_whole
from common.sagemaker.container.contract import ENTRY

ROOT = Path(__file__).parents[3]
KINDS = (".py", ".css")  # all that our packages consist of; a key or a data set is neither
LARGEST = 20_000_000  # bytes; our source has half a megabyte
PACKAGE = "pytorch-use-cases"
# The image has them, built for its driver; pip must not come up with others.
FROM_IMAGE = ("torch", "torchvision", "torchaudio")


@dataclass(frozen=True)
class Staged:
    """A folder with staged source.

    Attributes:
        files: relative to it, sorted.
        bytes: of all files.
    """

    folder: Path
    files: tuple[str, ...]
    bytes: int


def stage(example: str, folder: Path, root: Path | None = None) -> Staged:
    """Copies what an example needs into a folder: `common/`, its domain, train_models.py, requirements.txt.

    Args:
        example: its name, such as "vision.train".
        folder: new or empty.
        root: of the repository; this one's by default.

    Raises:
        UserError: it is too much, or this is no checkout.
    """
    root = root or ROOT
    entry = root / "sagemaker" / ENTRY
    if not entry.exists():
        raise UserError(f"There is no {entry}.", "Jobs are started from a checkout: pip install -e .")
    domain = example.partition(".")[0]
    wanted = [file for package in ("common", domain) for file in _source(root / package)]
    size = sum(file.stat().st_size for file in wanted)
    if size > LARGEST:
        biggest = max(wanted, key=lambda file: file.stat().st_size)
        raise UserError(f"The source has {size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}.", f"Look at {biggest}.")
    folder.mkdir(parents=True, exist_ok=True)
    for file in wanted:
        target = folder / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    shutil.copyfile(entry, folder / ENTRY)
    lines = requirements(get(example).extras, root)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = tuple(file.relative_to(folder).as_posix() for file in files)
    return Staged(folder, names, sum(file.stat().st_size for file in files))


def share_bytecode(folder: Path) -> None:
    """Lets source that `stage` wrote use what Python has compiled for this checkout: the files are the same."""
    for package in {file.parent for file in folder.rglob("*.py")} - {folder}:
        (package / "__pycache__").symlink_to(ROOT / package.relative_to(folder) / "__pycache__")


def pack(folder: Path, target: Path) -> None:
    """Writes a folder as .tar.gz, the same bytes for the same content."""
    with (
        write_whole(target) as file,
        gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for path in sorted(folder.rglob("*")):
            archive.add(path, arcname=path.relative_to(folder).as_posix(), recursive=False, filter=_anonymous)


def requirements(extras: Sequence[str], root: Path = ROOT) -> list[str]:
    """What pip is to install in the container: our dependencies and these extras, without what the image has."""
    declared, known = _declared(root)
    lines = declared + [line for extra in extras for line in known.get(extra, [])]
    return sorted({line for line in lines if _name(line) not in FROM_IMAGE})


def _source(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    found = sorted(file for file in folder.rglob("*") if file.suffix in KINDS and file.is_file())
    hidden = [file for file in found if any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return [file for file in found if file not in hidden and not file.is_symlink()]


def _declared(root: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The project's dependencies and those of each extra: from pyproject.toml, or as they were installed."""
    if sys.version_info >= (3, 11) and (root / "pyproject.toml").exists():
        import tomllib

        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["dependencies"], project["optional-dependencies"]
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise UserError("This project is not installed.", "pip install -e .") from None
    basics: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        (extras.setdefault(extra[1], []) if extra else basics).append(line.partition(";")[0].strip())
    return basics, extras


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member
