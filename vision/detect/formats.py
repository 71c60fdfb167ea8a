"""Annotations as others write them: Pascal VOC, COCO and YOLO; every mistake in them is one line that says where."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor

from common.errors import UserError, nearest
from common.kinds import image as images
from common.kinds.boxes import Truth
from common.kinds.image import ImageInput

ROUNDING = 2.0  # pixels by which a box may reach beyond its image: it is clipped; further out is a mistake
SHARES = (0.7, 0.15, 0.15)  # train, valid and test of data that come in one piece
VALID = 0.15  # of the training images, where only a test split is given beside them
Source = Sequence[Path] | Sequence[Tensor]
ROLES = ("train", "valid", "test")


class Found(NamedTuple):
    """Photos and what is in them, for train, valid and test, in this order."""

    splits: dict[str, tuple[Any, list[Truth]]]
    classes: list[str]
    provenance: str


def size_of(item: Path | Tensor) -> tuple[int, int]:
    """Width and height of a photo, upright."""
    return (item.shape[-1], item.shape[-2]) if isinstance(item, Tensor) else images.size_of(item)


@dataclass
class Objects:
    """What an annotation says is in one image, checked object by object.

    Args:
        where: names it in the texts of errors.
        size: width and height of the image.
        notes: counts what was mended, over all images.
    """

    where: str
    size: tuple[int, int]
    notes: Notes
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)

    def add(
        self, number: int, box: Sequence[float], label: int, ignored: bool = False, area: float | None = None
    ) -> None:
        """One more object, its box as left, top, right and bottom in pixels.

        Boxes without an area are left out and counted; what reaches beyond the image by rounding is clipped.

        Raises:
            UserError: the box is inverted, not finite, or lies outside the image.
        """
        width, height = self.size
        what = f"{self.where}, object {number}: the box {_shown(box)}"
        left, top, right, bottom = box
        if not all(map(math.isfinite, box)):
            raise UserError(f"{what} is not of finite numbers.")
        if right < left or bottom < top:
            hint = "It may be x, y, width and height: this format has left, top, right and bottom."
            raise UserError(f"{what} ends before it begins.", hint)
        if right == left or bottom == top:
            self.notes.empty += 1
            return
        beyond = max(-left, -top, right - width, bottom - height)
        if beyond > ROUNDING:
            raise UserError(f"{what} reaches out of its image of {width} × {height} px.", _OUTSIDE)
        if beyond > 0:
            self.notes.clipped += 1
        inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            self.notes.empty += 1
            return
        self.boxes.append(inside)
        self.labels.append(label)
        self.ignored.append(ignored)
        self.areas.append((inside[2] - inside[0]) * (inside[3] - inside[1]) if area is None else area)

    def truth(self) -> Truth:
        return Truth.of(
            torch.tensor(self.boxes, dtype=torch.float64),
            torch.tensor(self.labels, dtype=torch.int64),
            torch.tensor(self.ignored, dtype=torch.bool),
            torch.tensor(self.areas, dtype=torch.float64),
        )


_OUTSIDE = "The annotation may be of another size of this image, or of its unturned pixels (EXIF)."


@dataclass
class Notes:
    """What was mended in the annotations of a data set."""

    empty: int = 0
    clipped: int = 0

    def __str__(self) -> str:
        said = [f"{self.empty} boxes without area left out"] if self.empty else []
        said += [f"{self.clipped} boxes clipped to their image"] if self.clipped else []
        return "".join(f"; {one}" for one in said)


def _shown(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"


def _check_normalised(where: str, boxes: Sequence[Sequence[float]]) -> None:
    """Raises UserError where all numbers of an image are within 0..1, though pixels are due."""
    if boxes and all(0 <= value <= 1 for box in boxes for value in box):
        raise UserError(f"{where}: all boxes lie within 0..1.", "This format has pixels, not shares of the image.")


def _check_size(where: str, said: tuple[int, int], file: Path) -> tuple[int, int]:
    """Width and height of an image; UserError where its annotation says others."""
    size = images.size_of(file)
    if said != size and min(said) > 0:
        turned = " It is turned by its EXIF entry; annotate it as it is shown." if said == size[::-1] else ""
        what = f"{where} says {said[0]} × {said[1]} px, but {file} has {size[0]} × {size[1]}."
        raise UserError(what, f"Annotation and image must be of one size.{turned}")
    return size


# --- splits ------------------------------------------------------------------------------------------------


def _divided(parts: dict[str, tuple[list[Path], list[Truth]]], seed: int) -> tuple[dict[str, Any], str]:
    """Train, valid and test; what is not given is drawn from train."""
    if len(parts) == 3:
        return {role: parts[role] for role in ROLES}, "splits as given"
    files, truths = parts["train"]
    order = list(range(len(files)))
    random.Random(seed).shuffle(order)
    shares = SHARES if len(parts) == 1 else (1 - VALID, VALID)
    ends = [round(sum(shares[: k + 1]) * len(order)) for k in range(len(shares))]
    drawn = [sorted(order[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    cut = [([files[i] for i in part], [truths[i] for i in part]) for part in drawn]
    if len(parts) == 1:
        return dict(zip(ROLES, cut, strict=True)), f"split at random, seed {seed}"
    (given,) = (role for role in parts if role != "train")
    return {"train": cut[0], "valid": cut[1], "test": parts[given]}, (
        f"test is the given {given}; valid drawn from train, seed {seed}"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}.") from error


# --- Pascal VOC --------------------------------------------------------------------------------------------

_VOC = "A year has Annotations/, JPEGImages/ and, for its splits, ImageSets/Main/train.txt."


def voc(path: Path, seed: int) -> Found:
    """Pascal VOC (Everingham et al. 2010): a devkit's newest year, or one year's folder.

    With train, val and test lists: as given. With train and val: val is the test split, valid is drawn from train.
    Without lists: 70 / 15 / 15 %. Pixels are counted from 1: 1 is taken off left and top. Objects marked difficult are
    not trained on and not counted.
    """
    root = _voc_year(path)
    lists = {
        role: root / "ImageSets" / "Main" / f"{name}.txt"
        for role, name in zip(ROLES, ("train", "val", "test"), strict=True)
    }
    given = {role: _read(file).split("\n") for role, file in lists.items() if file.is_file()}
    if "train" not in given:
        given = {"train": sorted(file.stem for file in (root / "Annotations").glob("*.xml"))}
    names: dict[str, None] = {}
    notes, parts = Notes(), {}
    files = {
        file.stem: file
        for file in sorted((root / "JPEGImages").iterdir())
        if file.suffix.lower() in ImageInput.suffixes
    }
    stems = {role: [line.split()[0] for line in lines if line.strip()] for role, lines in given.items()}
    parsed = {stem: _voc_file(root, stem, files) for part in stems.values() for stem in part}
    for stem in stems["train"]:
        names.update(dict.fromkeys(sorted(one[0] for one in parsed[stem][1])))
    classes = sorted(names)
    for role, part in stems.items():
        parts[role] = (
            [files[stem] for stem in part],
            [_voc_truth(root, stem, parsed[stem], classes, notes) for stem in part],
        )
    splits, how = _divided(parts, seed)
    return Found(splits, classes, f"voc:{path.resolve().name}; {how}{notes}")


def _voc_year(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(f"{path} does not exist or is not a folder.", "Give voc:PATH a devkit or one of its years.")
    places = [
        path,
        *sorted((p for p in path.iterdir() if p.is_dir()), reverse=True),
        *sorted(path.glob("VOCdevkit/*"), reverse=True),
    ]
    found = next((place for place in places if (place / "Annotations").is_dir()), None)
    if found is None or not (found / "JPEGImages").is_dir():
        raise UserError(f"{path} holds no Pascal VOC data.", _VOC)
    return found


def _voc_file(
    root: Path, stem: str, files: dict[str, Path]
) -> tuple[tuple[int, int], list[tuple[str, list[float], bool]]]:
    """The size that an annotation says, and its objects: class, box as written, whether it is difficult."""
    path = root / "Annotations" / f"{stem}.xml"
    if stem not in files:
        raise UserError(f"{root / 'JPEGImages'} has no image {stem}, which a list names.", _VOC)
    text = _read(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can blow up, and none is needed here
        raise UserError(f"{path} has a document type, which is not read.", "Annotations are plain XML.")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is no valid XML: {error}.") from error
    try:
        size = tuple(int(tree.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        found = []
        for number, one in enumerate(tree.iter("object"), start=1):
            name = one.findtext("name")
            corners = [one.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            if not name or None in corners:
                raise UserError(f"{path}, object {number}: it has no name, or no whole bndbox.")
            found.append((name, [float(corner or 0) for corner in corners], one.findtext("difficult") == "1"))
    except ValueError as error:
        raise UserError(f"{path} has a text where a number is due: {error}.") from error
    return (size[0], size[1]), found


def _voc_truth(
    root: Path, stem: str, parsed: tuple[tuple[int, int], list[Any]], classes: list[str], notes: Notes
) -> Truth:
    path = root / "Annotations" / f"{stem}.xml"
    said, found = parsed
    file = next(iter((root / "JPEGImages").glob(f"{stem}.*")))
    objects = Objects(str(path), _check_size(str(path), said, file), notes)
    _check_normalised(str(path), [box for _, box, _ in found])
    for number, (name, (left, top, right, bottom), difficult) in enumerate(found, start=1):
        if name not in classes:
            raise UserError(f"{path}, object {number}: the class {name!r} is not in train.", nearest(name, classes))
        if right > left and bottom > top:  # pixels count from 1; some tools write 0
            left, top = (side - 1 if side >= 1 else side for side in (left, top))
        objects.add(number, (left, top, right, bottom), classes.index(name), difficult)
    return objects.truth()


def bccd(data_dir: Path, seed: int) -> Found:
    """BCCD: blood cells in 364 images of 640 × 480 px, as its VOC lists split them (Shenggan, MIT)."""
    places = [data_dir / "bccd" / "BCCD", data_dir / "BCCD", data_dir / "BCCD_Dataset" / "BCCD", data_dir]
    root = next((place for place in places if (place / "Annotations").is_dir()), None)
    if root is None:
        what = f"BCCD is not in {data_dir}."
        raise UserError(
            what, "git clone https://github.com/Shenggan/BCCD_Dataset there, or name its place by --data-dir."
        )
    found = voc(root, seed)
    return found._replace(provenance=found.provenance.replace("voc:BCCD", "BCCD: blood cells (Shenggan, MIT)"))


# --- COCO --------------------------------------------------------------------------------------------------

_COCO = "A folder has annotations/instances_train*.json and instances_val*.json, or train.json and val.json."


def coco(path: Path, seed: int) -> Found:
    """COCO's JSON: one file, divided 70 / 15 / 15 %, or a folder with one for train and one for val or test.

    Category ids may be any numbers. Crowds are not trained on and not counted.
    """
    files = {"train": path} if path.is_file() else _coco_files(path)
    contents = {role: _coco_json(file) for role, file in files.items()}
    categories = _coco_categories(files["train"], contents["train"])
    notes, parts = Notes(), {}
    for role, file in files.items():
        theirs = _coco_categories(file, contents[role])
        if theirs != categories:
            raise UserError(f"{file} has other categories than {files['train']}.", "Splits share one list of classes.")
        parts[role] = _coco_part(file, role, contents[role], list(categories), notes)
    splits, how = _divided(parts, seed)
    return Found(splits, list(categories.values()), f"coco:{path.resolve().name}; {how}{notes}")


def _coco_files(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        raise UserError(f"{path} does not exist.", "Give coco:PATH a JSON file or a folder.")
    inside = sorted([*path.glob("*.json"), *path.glob("annotations/*.json"), *path.glob("*/*.coco.json")])
    found: dict[str, Path] = {}
    for role, words in (("train", ("train",)), ("valid", ("val",)), ("test", ("test",))):
        fits = [f for f in inside if any(word in f.name.lower() or word in f.parent.name.lower() for word in words)]
        fits = [f for f in fits if f.name.startswith("instances")] or fits
        if fits:
            found[role] = fits[0]
    if "train" not in found:
        raise UserError(f"{path} has no JSON for train.", _COCO)
    return found


def _coco_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(f"{path} is no COCO file.", 'It has lists under "images", "annotations" and "categories".')
    return value


def _coco_categories(path: Path, content: dict[str, Any]) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    try:
        named = {int(one["id"]): str(one["name"]) for one in content["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a category lacks an id or a name.") from error
    if len(named) < len(content["categories"]):
        raise UserError(f"{path}: two categories have one id.")
    return dict(sorted(named.items()))


def _coco_part(
    path: Path, role: str, content: dict[str, Any], ids: list[int], notes: Notes
) -> tuple[list[Path], list[Truth]]:
    by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    known = {one.get("id") for one in content["images"]}
    for number, one in enumerate(content["annotations"], start=1):
        where = f"{path}, annotation {one.get('id', number) if isinstance(one, dict) else number}"
        if not isinstance(one, dict) or one.get("image_id") not in known:
            raise UserError(f"{where}: there is no image {one.get('image_id') if isinstance(one, dict) else one!r}.")
        if one.get("category_id") not in ids:
            hint = f"Known are {', '.join(map(str, ids[:10]))}{' …' if len(ids) > 10 else ''}."
            raise UserError(f"{where}: there is no category {one.get('category_id')!r}.", hint)
        box = one.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
            raise UserError(f"{where}: its bbox is {box!r}.", "A bbox is [left, top, width, height] in pixels.")
        by_image.setdefault(one["image_id"], []).append((number, one))
    files, truths = [], []
    for image in content["images"]:
        file = _coco_image(path, role, image)
        where = f"{path}, image {image.get('file_name')}"
        said = (int(image.get("width") or 0), int(image.get("height") or 0))
        objects = Objects(where, _check_size(where, said, file), notes)
        own = by_image.get(image.get("id"), [])
        _check_normalised(where, [one["bbox"] for _, one in own])
        for number, one in own:
            left, top, width, height = map(float, one["bbox"])
            area = float(one["area"]) if isinstance(one.get("area"), (int, float)) and one["area"] > 0 else None
            crowd = bool(one.get("iscrowd", 0))
            try:
                objects.add(number, (left, top, left + width, top + height), ids.index(one["category_id"]), crowd, area)
            except UserError as error:
                corners = left + width > objects.size[0] + ROUNDING or top + height > objects.size[1] + ROUNDING
                if corners and width <= objects.size[0] + ROUNDING and height <= objects.size[1] + ROUNDING:
                    hint = "COCO has left, top, width and height; these may be left, top, right and bottom."
                    raise UserError(error.what, hint) from None
                raise
        files.append(file)
        truths.append(objects.truth())
    return files, truths


def _coco_image(path: Path, role: str, image: dict[str, Any]) -> Path:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: the image {image.get('id')!r} has no file_name.")
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    split = path.stem.rpartition("_")[2]  # instances_train2017
    places = [
        path.parent / name,
        root / name,
        *(root / folder / name for folder in (split, role, "images", f"images/{split}")),
    ]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(
            f"{path}: there is no file {name}.", f"Looked for beside it, and in {root / split} and {root / 'images'}."
        )
    return found


# --- YOLO --------------------------------------------------------------------------------------------------

_YOLO = "It has images/train and labels/train, or train/images and train/labels, and names in data.yaml or classes.txt."


def yolo(path: Path, seed: int) -> Found:
    """YOLO's text files: a line `class x y width height` for each object, the centre first, in shares of the image.

    With train, val and test: as given; with two of them the second is the test split; without: 70 / 15 / 15 %.
    An image without a label file has no object.
    """
    if not path.is_dir():
        raise UserError(f"{path} does not exist or is not a folder.", "Give yolo:PATH a folder.")
    folders = {}
    for role, words in (("train", ("train",)), ("valid", ("val", "valid")), ("test", ("test",))):
        for word in words:
            for place, labels in (
                (path / "images" / word, path / "labels" / word),
                (path / word / "images", path / word / "labels"),
            ):
                if place.is_dir() and role not in folders:
                    folders[role] = (place, labels)
    if "train" not in folders and (path / "images").is_dir():
        folders = {"train": (path / "images", path / "labels")}
    if "train" not in folders:
        raise UserError(f"{path} holds no YOLO data.", _YOLO)
    notes, classes = Notes(), _yolo_classes(path)
    parts = {role: _yolo_part(*pair, classes, notes) for role, pair in folders.items()}
    splits, how = _divided(parts, seed)
    return Found(splits, classes, f"yolo:{path.resolve().name}; {how}{notes}")


def _yolo_classes(path: Path) -> list[str]:
    """The names in data.yaml (a list, or numbers with names) or in classes.txt, a line each."""
    for name in ("classes.txt", "obj.names", "labels/classes.txt"):
        if (path / name).is_file():
            return [line.strip() for line in _read(path / name).splitlines() if line.strip()]
    settings = next((file for file in sorted([*path.glob("*.yaml"), *path.glob("*.yml")])), None)
    if settings is None:
        raise UserError(f"{path} has neither data.yaml nor classes.txt.", _YOLO)
    import yaml

    try:
        names = (yaml.safe_load(_read(settings)) or {}).get("names")
    except (yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{settings} is no valid YAML: {str(error).splitlines()[0]}.") from error
    if isinstance(names, dict):
        names = [names[number] for number in sorted(names)]
    if not isinstance(names, list) or not names:
        raise UserError(f"{settings} has no list of names.", 'It has a line such as names: ["cat", "dog"].')
    return [str(name) for name in names]


def _yolo_part(folder: Path, labels: Path, classes: list[str], notes: Notes) -> tuple[list[Path], list[Truth]]:
    files = [
        file for file in sorted(folder.rglob("*")) if file.suffix.lower() in ImageInput.suffixes and file.is_file()
    ]
    if not labels.is_dir():
        raise UserError(f"{labels} does not exist.", _YOLO)
    truths = []
    for file in files:
        text = labels / file.relative_to(folder).with_suffix(".txt")
        size = images.size_of(file)
        objects = Objects(str(text), size, notes)
        for number, (label, x, y, width, height) in enumerate(_yolo_lines(text, classes), start=1):
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            objects.add(number, [share * side for share, side in zip(corners, size * 2, strict=True)], label)
        truths.append(objects.truth())
    return files, truths


def _yolo_lines(path: Path, classes: list[str]) -> Iterator[tuple[int, float, float, float, float]]:
    for number, line in enumerate(_read(path).splitlines() if path.is_file() else [], start=1):
        where = f"{path}, line {number}"
        cells = line.split()
        if not cells:
            continue
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            raise UserError(f"{where} is no row of numbers: {error}.") from error
        if len(values) > 6 and len(values) % 2 == 1:  # a polygon: the box around it
            xs, ys = values[1::2], values[2::2]
            left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
            values = [values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        if len(values) != 5:
            raise UserError(f"{where} has {len(values)} numbers.", "A line is: class x y width height.")
        if values[0] != int(values[0]) or not 0 <= values[0] < len(classes):
            hint = "Classes count from 0." if values[0] == len(classes) else ""
            raise UserError(f"{where}: there is no class {cells[0]}; they go from 0 to {len(classes) - 1}.", hint)
        if max(values[1:]) > 1.5:
            raise UserError(
                f"{where}: {' '.join(cells[1:])} are no shares of the image.", "YOLO has shares in 0..1, not pixels."
            )
        yield int(values[0]), values[1], values[2], values[3], values[4]
