"""Image sources that are files: class folders of the user's own, and CUB-200-2011."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from common.data.images.arrays import shape_of
from common.data.images.download import fetch_archive
from common.data.images.splits import ImageData, Images, assemble
from common.data.splits import duplicates, stratified
from common.errors import UserError, nearest
from common.kinds.image import ImageInput

FOLDER_SIZE, CUB_SIZE = 64, 128
VALID = 0.15  # of the training images, where no validation split is given
_ROLES = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
_LAYOUT = "Expected is PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE with val and test beside train."
CUB_FOLDER = "CUB_200_2011"
CUB_URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
CUB_MD5 = "97eceeb196236b17998738112f37df78"


def folder(path: Path, size: int | None, channels: int | None, seed: int, limit: int | None) -> ImageData:
    """Class folders of images of any size, with or without train/val/test folders above them.

    With train, val and test: as given. With train and test: validation carved from train. With train and val: val is
    the test split and validation is carved from train. Else: 70 / 15 / 15 %, stratified. Byte-identical files stay on
    one side of a split that is drawn here. Hidden files and files of other types are ignored.

    Raises:
        UserError: the folder is missing or empty, has one class, a class without images or a file that can't be
            read; val or test has a class that train has not.
    """
    if not path.is_dir():
        raise UserError(f"{path} does not exist or is not a folder.", "Give folder:PATH the folder of class folders.")
    image = shape_of(size or FOLDER_SIZE, channels or 3)
    parts = _split_folders(path)
    top = parts.get("train", path)
    classes = [child.name for child in _folders(top)]
    train = _scan(top, classes, image)
    counts = Counter(train.targets.tolist())
    for label, name in enumerate(classes):
        if label not in counts:
            raise UserError(f"The class folder {top / name} has no images.", f"Images end in {_suffixes()}.")
    if len(classes) < 2:
        found = f"only one class, {classes[0]}" if classes else "no class folders"
        raise UserError(f"{top} has {found}.", _LAYOUT)
    given: dict[str, Images] = {role: _scan(parts[role], classes, image) for role in ("valid", "test") if role in parts}
    splits, how = _drawn(train, given, seed)
    if not all(map(len, splits)):
        raise UserError(f"{path} has {len(train)} training images, too few for train, valid and test.")
    return assemble(splits, classes, f"folder:{path.resolve().name}", how, limit=limit, seed=seed)


def _drawn(train: Images, given: dict[str, Images], seed: int) -> tuple[list[Images], str]:
    """Train, valid and test, those that are not given drawn from train."""
    if len(given) == 2:
        return [train, given["valid"], given["test"]], "splits as given"
    groups = duplicates(train.source)  # type: ignore[arg-type]
    if not given:
        parts = stratified(train.targets, (0.7, 0.15, 0.15), seed, groups)
        return [train.subset(part) for part in parts], f"stratified split, seed {seed}"
    parts = stratified(train.targets, (1 - VALID, VALID), seed, groups)
    (role, test), *_ = given.items()
    how = f"test is the given {'val' if role == 'valid' else 'test'}; valid carved from train, stratified, seed {seed}"
    return [train.subset(parts[0]), train.subset(parts[1]), test], how


def _split_folders(path: Path) -> dict[str, Path]:
    """train, valid and test folders by role; empty where `path` holds class folders itself."""
    children = [child for child in _folders(path) if child.name.lower() in _ROLES]
    if not any(child.name.lower() == "train" and _folders(child) for child in children):
        return {}
    parts: dict[str, Path] = {}
    for child in children:
        role = _ROLES[child.name.lower()]
        if role in parts:
            raise UserError(f"{path} has both {parts[role].name} and {child.name}.", "Keep one of them.")
        if not _folders(child):
            raise UserError(f"{child} has no class folders.", _LAYOUT)
        parts[role] = child
    return parts


def _scan(top: Path, classes: list[str], image: ImageInput) -> Images:
    """The images of all class folders under `top`, in the order of their names."""
    files: list[Path] = []
    targets: list[int] = []
    for child in _folders(top):
        if child.name not in classes:
            raise UserError(f"{top} has the class {child.name}, which train has not.", nearest(child.name, classes))
        inside = sorted(p for p in child.rglob("*") if p.suffix.lower() in ImageInput.suffixes and not _hidden(p, top))
        files += inside
        targets += [classes.index(child.name)] * len(inside)
    if not files:
        raise UserError(f"{top} has no images in class folders.", f"{_LAYOUT} Images end in {_suffixes()}.")
    return Images(files, torch.tensor(targets, dtype=torch.int64), image)


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error


def _hidden(path: Path, top: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(top).parts)


def _suffixes() -> str:
    return " ".join(sorted(ImageInput.suffixes))


def cub200(data_dir: Path, size: int | None, channels: int | None, seed: int, limit: int | None) -> ImageData:
    """CUB-200-2011 in its official layout, whole or without some class folders; downloaded where it is not found.

    Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011; non-commercial research and education only.

    Raises:
        UserError: it is not there and can't be downloaded, or it is incomplete.
    """
    places = [data_dir / CUB_FOLDER, data_dir, data_dir / "cub200" / CUB_FOLDER]
    root = next((place for place in places if (place / "images.txt").is_file()), None)
    if root is None:
        root = fetch_archive(data_dir, CUB_URL, CUB_MD5, CUB_FOLDER)
    names, paths, labels, split = (
        _table(root / f"{name}.txt") for name in ("classes", "images", "image_class_labels", "train_test_split")
    )
    kept = [i for i in paths if (root / "images" / paths[i]).parent.is_dir()]  # a class folder may be left out
    files = [root / "images" / paths[i] for i in kept]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        first = missing[0] if missing else root / "images"
        raise UserError(
            f"{root} is incomplete: {len(missing) or 'all'} images are missing, such as {first}.", _CUB_HINT
        )
    try:
        ids = sorted({int(labels[i]) for i in kept})  # not contiguous in a subset
        classes = [names[i].split(".", 1)[-1] for i in ids]
        targets = torch.tensor([ids.index(int(labels[i])) for i in kept])
        is_train = torch.tensor([split[i] == "1" for i in kept])
    except (KeyError, ValueError) as error:
        raise UserError(f"The lists in {root} disagree: {error} is missing in one of them.", _CUB_HINT) from error
    everything = Images(files, targets, shape_of(size or CUB_SIZE, channels or 3))
    train, test = (everything.subset(flags.nonzero().flatten()) for flags in (is_train, ~is_train))
    if len(train.targets.unique()) < 2 or not len(test):
        raise UserError(f"{root} has too few classes or images to train and test on.", _CUB_HINT)
    splits, how = _drawn(train, {"test": test}, seed)
    source = f"CUB-200-2011, {len(classes)} species (Wah et al. 2011; non-commercial research and education)"
    return assemble(splits, classes, source, how, limit=limit, seed=seed)


_CUB_HINT = "Remove that folder and run again, or point --data-dir at a whole one."


def _table(path: Path) -> dict[int, str]:
    """A list of the official layout, one `id value` a line."""
    try:
        rows = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {int(key): value.strip() for key, value in rows}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged.", _CUB_HINT) from error
