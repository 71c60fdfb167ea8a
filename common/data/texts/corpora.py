"""Running text by name, for language models: documents from one end to the other, in splits that share no file."""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import platform
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.texts.classic import decode
from common.data.texts.docstrings import PACKAGES, source_files
from common.data.texts.splits import fingerprint
from common.errors import UserError, nearest
from common.files import located

CORPORA: dict[str, str] = {
    "docstrings": "what the installed python, torch, numpy and scikit-learn say of themselves, no download",
    "markov": "made-up text whose entropy is known, no download",
    "tinyshakespeare": "a megabyte of Shakespeare",
    "wikitext-2": "ten megabytes of Wikipedia",
    "text:PATH": "a text file, or a folder of them",
}
SPLIT_SEED = 0  # runs with other seeds are measured on the same text
HELD_OUT = 0.03  # of the docstrings, for validation; and as much for the test
VALID = 0.1  # of a text without splits of its own: its end
LEAST = 20  # letters of a docstring that is kept, and of a paragraph that may stand in one place only
LARGEST = 2**30  # bytes of a file


@dataclass(frozen=True)
class Corpus:
    """Documents in disjoint splits.

    Args:
        train, valid: documents of each, at least one.
        test: likewise; empty where the source has no such split.
        provenance: source, licence or citation, counts and how the split was made.
        entropy: the least nats per character that any model can expect on the validation text, where that is known.
    """

    train: list[str]
    valid: list[str]
    test: list[str]
    provenance: str
    entropy: float | None = None


def load_corpus(name: str, data_dir: Path | None = None) -> Corpus:
    """Load one of CORPORA.

    Args:
        name: a key of CORPORA, or `text:` and a path.
        data_dir: where files are looked for, `data` by default; it may be the very folder with the classic files. A
            relative path of `text:` is looked up in it first.

    Raises:
        UserError: the name is unknown, the files are not there, or there is too little text in them.
    """
    kind, _, rest = name.partition(":")
    root = (data_dir or Path("data")).expanduser()
    if kind == "text" and rest:
        return _own(located(rest, data_dir))
    if name == "docstrings":
        return _docstrings()
    if name == "markov":
        return _markov()
    if name == "tinyshakespeare":
        (path,) = _find(name, root, ("tinyshakespeare", "shakespeare", "shakespeare_char"), (("input.txt",),))
        source = f"{name}: {path.name}, from the plays of Shakespeare (Karpathy 2015, github.com/karpathy/char-rnn)"
        return _cut(_read(path), source)
    if name == "wikitext-2":
        return _wikitext(name, root)
    hint = f"For a text file say text:{name}." if Path(name).exists() else nearest(name, CORPORA)
    raise UserError(f"Unknown data {name!r}.", hint)


# --- docstrings of installed packages ----------------------------------------------------------------------

# Strings, and comments as quotes in them open none. A string that begins a line is a docstring, or documents like one.
_STRINGS = re.compile(
    r"#[^\n]*|[rRbBuUfF]{0,2}(\"\"\"|''')(.*?)\1|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)


def _docstrings() -> Corpus:
    """A document for each file; a paragraph that has been in another file, or before in this one, is left out."""
    files = [file for package in PACKAGES.values() for file in source_files(package)]
    random.Random(SPLIT_SEED).shuffle(files)
    seen: set[str] = set()
    documents, dropped = [], 0
    for file in files:
        kept: list[str] = []
        for text in _strings(file):
            paragraphs = re.split(r"\n\s*\n", text)
            prints = [fingerprint(paragraph) for paragraph in paragraphs]
            new = [p for p, key in zip(paragraphs, prints, strict=True) if len(key) < LEAST or key not in seen]
            dropped += len(paragraphs) - len(new)
            seen.update(prints)
            if sum(map(len, new)) >= LEAST:
                kept.append("\n\n".join(new))
        if kept:
            documents.append("\n\n".join(kept))
    held = round(HELD_OUT * len(documents))
    versions = [platform.python_version()] + [importlib.metadata.version(name) for name in list(PACKAGES)[1:]]
    named = ", ".join(f"{name} {version}" for name, version in zip(PACKAGES, versions, strict=True))
    source = f"docstrings: of {named}; {dropped:,} paragraphs left out that were there before; split by file"
    test, valid, train = documents[:held], documents[held : 2 * held], documents[2 * held :]
    return Corpus(train, valid, test, f"{source}; {_counts(train, valid, test)}")


def _strings(file: Path) -> list[str]:
    """The triple-quoted strings of a source file that begin a line, without their indentation."""
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    if '"""' not in source and "'''" not in source:
        return []
    found = []
    for match in _STRINGS.finditer(source):
        if match[1] and not source[source.rfind("\n", 0, match.start()) + 1 : match.start()].strip():
            found.append(inspect.cleandoc(match[2]))
    return found


# --- files -------------------------------------------------------------------------------------------------


def _wikitext(name: str, root: Path) -> Corpus:
    """Articles of wiki.{train,valid,test}.tokens, or of the raw files; the official split."""
    parts = ("train", "valid", "test")
    names = [tuple(f"wiki.{part}.{suffix}" for part in parts) for suffix in ("tokens", "raw")]
    paths = _find(name, root, ("wikitext-2", "wikitext-2-raw"), names)
    # An article begins with its title between single equals signs; sections have more of them.
    train, valid, test = (re.split(r"(?m)^(?= = [^=\n]+ = $)", _read(path)) for path in paths)
    splits = [[article for article in part if article.strip()] for part in (train, valid, test)]
    source = f"{name}: {paths[0].name.split('.')[-1]} files of articles of Wikipedia (Merity et al. 2016, 1609.07843)"
    return Corpus(splits[0], splits[1], splits[2], f"{source}; official split; {_counts(*splits)}")


def _own(path: Path) -> Corpus:
    """A file: its end is the validation text. A folder: some of its files are, drawn by a fixed seed."""
    if path.is_file():
        return _cut(_read(path), f"text:{path.name}")
    if not path.is_dir():
        raise UserError(f"There is no file or folder {path}.", "Give text:PATH the path of a text, or of a folder.")
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file.relative_to(path))]
    texts = [text for file in files if (text := _text_or_none(file))]
    if not texts:
        raise UserError(f"The folder {path} holds no text files.", "They must be UTF-8.")
    source = f"text:{path.name}: {len(texts)} of {len(files)} files are text"
    if len(texts) == 1:
        return _cut(texts[0], source)
    random.Random(SPLIT_SEED).shuffle(texts)
    total, held, size = sum(map(len, texts)), 0, 0
    while size < VALID * total and held < len(texts) - 1:
        size += len(texts[held])
        held += 1
    valid, train = texts[:held], texts[held:]
    return Corpus(train, valid, [], f"{source}; split by file, seed {SPLIT_SEED}; {_counts(train, valid, [])}")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text_or_none(path: Path) -> str | None:
    try:
        content = path.read_bytes() if path.stat().st_size <= LARGEST else b"\0"
        return None if b"\0" in content else content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _cut(text: str, source: str) -> Corpus:
    """The first nine tenths of a text and its end."""
    place = int((1 - VALID) * len(text))
    train, valid = [text[:place]], [text[place:]]
    if not text[:place].strip() or not text[place:].strip():
        raise UserError(f"{source.split(';')[0]} has {len(text)} letters, too few to learn from.")
    return Corpus(train, valid, [], f"{source}; the last {VALID:.0%} for validation; {_counts(train, valid, [])}")


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST else b""
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    if size > LARGEST:
        raise UserError(f"{path} has {size / 1e9:.1f} GB, more than {LARGEST / 1e9:.1f}.", "Take a part of it.")
    if b"\0" in content:
        raise UserError(f"{path} is no text file.", "It must be UTF-8.")
    return decode(content)


def _find(name: str, root: Path, folders: Sequence[str], choices: Sequence[tuple[str, ...]]) -> list[Path]:
    """The first of several sets of files that is whole in a folder of a usual name."""
    for folder in (root, *(root / folder for folder in folders)):
        for files in choices:
            if all((folder / file).is_file() for file in files):
                return [folder / file for file in files]
    wanted = " or ".join(" and ".join(files) for files in choices)
    what = f"--data {name}: {wanted} not found in {root}, nor in {' or '.join(folders)} there."
    raise UserError(what, "Point --data-dir at the folder that has them.")


def _counts(*splits: Sequence[str]) -> str:
    parts = zip(("train", "valid", "test"), splits, strict=True)
    return " / ".join(f"{sum(map(len, texts)):,} {name}" for name, texts in parts if texts) + " characters"


# --- made-up text ------------------------------------------------------------------------------------------

LETTERS = "abcdefgh"
TRAIN_LETTERS, VALID_LETTERS = 40_000, 4_000


def _markov() -> Corpus:
    """Letters that depend on the two before them, as a random table says (Markov 1913; Shannon 1948).

    The entropy is what the table itself takes for the validation text, which no model can beat but by chance.
    """
    rng = random.Random(SPLIT_SEED)
    table = {(a, b): _shares(rng) for a in LETTERS for b in LETTERS}
    splits, nats = [], 0.0
    for size in (TRAIN_LETTERS, VALID_LETTERS, VALID_LETTERS):
        text, nats_of = [LETTERS[0], LETTERS[0]], 0.0
        for _ in range(size):
            shares = table[text[-2], text[-1]]
            (number,) = rng.choices(range(len(LETTERS)), shares)
            text.append(LETTERS[number])
            nats_of -= math.log(shares[number])
        splits.append("".join(text[2:]))
        nats = nats_of / size if len(splits) == 2 else nats
    train, valid, test = ([text] for text in splits)
    source = f"markov: made-up letters that depend on two before them, at best {nats:.4f} nats each"
    return Corpus(train, valid, test, f"{source}; {_counts(train, valid, test)}", nats)


def _shares(rng: random.Random) -> list[float]:
    """Uneven probabilities of all letters."""
    weights = [rng.expovariate(1.0) ** 3 for _ in LETTERS]
    return [weight / sum(weights) for weight in weights]
