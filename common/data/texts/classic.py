"""The classic data sets of text classification: from their files where they are, else from the Hugging Face hub."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common.data.texts.splits import TextData, Texts, official, split
from common.errors import UserError

NEWS = ["World", "Sports", "Business", "Sci/Tech"]
SENTIMENT = ["negative", "positive"]


@dataclass(frozen=True)
class Classic:
    """A data set that is known by name.

    Args:
        files: those that must lie in its folder.
        folders: names that the folder usually has, looked for under the data folder.
        read: its splits from that folder: train, valid and test, or None for those it has not; or all as one.
        hub: its name on the Hugging Face hub.
        columns: of text and label there; several text columns are joined.
        classes: their names, by label.
        source: citation.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[Path], dict[str, Texts]]
    hub: str
    columns: tuple[str, str]
    classes: list[str]
    source: str


def classic(name: str, root: Path, seed: int, limit: int | None) -> TextData:
    """A data set of CLASSIC, from its files under `root` or from the hub.

    Raises:
        UserError: it is in neither, or its files are damaged.
    """
    known = CLASSIC[name]
    places = [root, *(root / folder for folder in known.folders)]
    folder = next((place for place in places if all((place / file).exists() for file in known.files)), None)
    parts = known.read(folder) if folder else _from_hub(name, known, places)
    source = f"{name}: {known.source}"
    if "all" in parts:
        return split(parts["all"], known.classes, source, seed=seed, limit=limit)
    return official(parts["train"], parts.get("valid"), parts["test"], known.classes, source, seed=seed, limit=limit)


def decode(content: bytes) -> str:
    """Text of a file that is UTF-8, or else Windows' Western code page, in which older corpora were written."""
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")


# --- files -------------------------------------------------------------------------------------------------


def _ag_news(folder: Path) -> dict[str, Texts]:
    """train.csv and test.csv without a header: class 1 to 4, title, description."""
    parts = {}
    for name in ("train", "test"):
        path = folder / f"{name}.csv"
        texts, targets = [], []
        rows = csv.reader(io.StringIO(decode(path.read_bytes()), newline=""))
        for row in rows:
            if len(row) < 2 or row[0] not in ("1", "2", "3", "4"):
                layout = "Rows are class 1 to 4, title, description, without a header."
                raise UserError(f"{path} line {rows.line_num} is not a row of AG News: {','.join(row)[:60]!r}.", layout)
            texts.append(" ".join(row[1:]).replace("\\", " ").strip())  # its line breaks are backslashes
            targets.append(int(row[0]) - 1)
        parts[name] = Texts(texts, torch.tensor(targets, dtype=torch.long))
    return parts


def _rotten_tomatoes(folder: Path) -> dict[str, Texts]:
    """rt-polarity.neg and rt-polarity.pos, a sentence a line."""
    sides = [_lines(folder / f"rt-polarity.{side}") for side in ("neg", "pos")]
    targets = torch.tensor([0] * len(sides[0]) + [1] * len(sides[1]))
    return {"all": Texts(sides[0] + sides[1], targets)}


def _sst2(folder: Path) -> dict[str, Texts]:
    """train.tsv, dev.tsv and test.tsv: sentence TAB label, with a header or without.

    GLUE's test file has no labels (index TAB sentence): there dev is the test split.
    """
    parts = {name: _tsv(folder / f"{name}.tsv") for name in ("train", "dev")}
    first = _lines(folder / "test.tsv")[:1] if (folder / "test.tsv").exists() else []
    if not first or first[0].split("\t")[0] == "index":
        return {"train": parts["train"], "test": parts["dev"]}
    return {"train": parts["train"], "valid": parts["dev"], "test": _tsv(folder / "test.tsv")}


def _tsv(path: Path) -> Texts:
    texts, targets = [], []
    for number, line in enumerate(_lines(path), start=1):
        text, tab, label = line.rpartition("\t")
        if number == 1 and label == "label":
            continue
        if not tab or label not in ("0", "1"):
            raise UserError(f"{path} line {number} is not a sentence, a tab and 0 or 1: {line[:60]!r}.")
        texts.append(text.strip())
        targets.append(int(label))
    return Texts(texts, torch.tensor(targets, dtype=torch.long))


def _imdb(folder: Path) -> dict[str, Texts]:
    """train/pos, train/neg, test/pos and test/neg, a review a file."""
    parts = {}
    for name in ("train", "test"):
        texts, targets = [], []
        for target, side in enumerate(("neg", "pos")):
            files = sorted((folder / name / side).glob("*.txt"))
            texts += [decode(file.read_bytes()).replace("<br />", " ") for file in files]
            targets += [target] * len(files)
        if len(set(targets)) < 2:
            raise UserError(f"{folder / name} has no .txt files in pos or in neg.", "Unpack aclImdb_v1.tar.gz again.")
        parts[name] = Texts(texts, torch.tensor(targets))
    return parts


def _lines(path: Path) -> list[str]:
    lines = decode(path.read_bytes()).split("\n")  # not splitlines: some sentences hold stranger line ends
    return [line.strip("\r ") for line in lines if line.strip()]


# --- hub ---------------------------------------------------------------------------------------------------


def _from_hub(name: str, known: Classic, places: Sequence[Path]) -> dict[str, Texts]:
    where = ", ".join(str(place) for place in places)
    looked = f"--data {name}: {' and '.join(known.files)} not found in {where}"
    hint = "Point --data-dir at the folder that has them"
    try:
        from datasets import load_dataset
    except ImportError:
        what = f"{looked}, and the package datasets, which downloads them, is not installed."
        raise UserError(what, f"{hint}, or pip install -e '.[hub]'.") from None
    try:
        found = load_dataset(known.hub, cache_dir=str(places[0] / "hub"))
    except Exception as error:  # connection, cache, checksum: the libraries below raise what they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{looked}, and not to be had from the hub: {reason}", f"{hint}.") from error
    parts = {}
    for ours, theirs in (("train", "train"), ("valid", "validation"), ("test", "test")):
        if theirs in found:
            text, label = (list(found[theirs][column]) for column in known.columns)
            if min(label) >= 0:  # SST-2's test labels are withheld: -1
                parts[ours] = Texts(text, torch.tensor(label))
    if "test" not in parts:
        parts["test"] = parts.pop("valid")
    return parts


CLASSIC = {
    "ag-news": Classic(
        ("train.csv", "test.csv"),
        ("ag-news", "ag_news", "ag_news_csv"),
        _ag_news,
        "fancyzhx/ag_news",
        ("text", "label"),
        NEWS,
        "AG's news topics (Zhang et al. 2015, arXiv 1509.01626)",
    ),
    "sst2": Classic(
        ("train.tsv", "dev.tsv"),
        ("sst2", "SST2", "SST-2"),
        _sst2,
        "stanfordnlp/sst2",
        ("sentence", "label"),
        SENTIMENT,
        "Stanford Sentiment Treebank (Socher et al. 2013)",
    ),
    "rotten-tomatoes": Classic(
        ("rt-polarity.pos", "rt-polarity.neg"),
        ("rotten-tomatoes", "rt-polaritydata", "rt-polarity"),
        _rotten_tomatoes,
        "cornell-movie-review-data/rotten_tomatoes",
        ("text", "label"),
        SENTIMENT,
        "sentences of film reviews (Pang and Lee 2005)",
    ),
    "imdb": Classic(
        ("train", "test"),
        ("imdb", "aclImdb"),
        _imdb,
        "stanfordnlp/imdb",
        ("text", "label"),
        SENTIMENT,
        "film reviews (Maas et al. 2011)",
    ),
}
