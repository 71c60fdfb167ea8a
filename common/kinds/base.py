"""What every kind of input shares, and the kind that a new one begins with: everything here may be said otherwise.

A kind says how a raw input is read, in which bodies of requests it comes, how it is typed and shown, and how an answer
to it is explained. Nobody else tests a kind's name: who wants to know asks the kind.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 16 * 2**20  # of one input; a longer one is a mistake or an attack
JSON, JSON_LINES, CSV, TEXT = "application/json", "application/jsonlines", "text/csv", "text/plain"
FILE = "application/octet-stream"  # one input as it stands in a file; every kind takes it
Explain = Callable[[Any, int], dict[str, Any]]  # a decoded input and the number of one of the answer's names -> why


class Kind(ABC):
    """An input that is a frozen dataclass: its JSON is its kind and its fields.

    Attributes:
        kind: its name, such as "image"; also of the page's view for it.
        suffixes: of the files that hold one.
        media: content types of bodies besides JSON and JSON Lines, for people; TEXT and CSV are read by `cells`.
        plain: the content type of a body that names none.
        usage: how one is given to `common.predict`.
        keys: under which an input may stand in JSON, besides "inputs".
        latent: whether an input means a point of a latent space, as `point` says it.
        most_work: of the inputs of one request together, as `work` counts it.
        too_much: what is said of a request with more.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    media: ClassVar[tuple[str, ...]] = (CSV, TEXT)
    plain: ClassVar[str] = JSON
    usage: ClassVar[str] = "FILES..."
    keys: ClassVar[tuple[str, ...]] = ()
    latent: ClassVar[bool] = False
    most_work: ClassVar[int] = 2**31
    too_much: ClassVar[str] = ""

    # -- one raw input ----------------------------------------------------------------------------------

    @abstractmethod
    def decode(self, source: Path | bytes, name: str = "") -> Any:
        """One raw input, from a file or from its bytes, as the model's batch takes it; UserError if it is none."""

    @abstractmethod
    def sample(self) -> bytes:
        """A valid raw input, made up and always the same: to try a model out with."""

    def longer(self) -> bytes:
        """The same, longer where the kind has a length: what differs in shape may have any size."""
        return self.sample()

    def many(self, count: int) -> list[bytes]:
        """Different valid raw inputs, where they can be made up; none by default."""
        return []

    def start(self) -> Any:
        """What the page begins with, as JSON; None where the visitor begins with nothing."""
        return json.loads(self.sample())

    def to_text(self, raw: bytes) -> str:
        """A raw input as a text, for tables that hold texts; `from_text` reads it back."""
        return raw.decode()

    def from_text(self, text: str) -> bytes:
        """The reverse of `to_text`; ValueError where it is none."""
        return text.encode()

    # -- bodies of requests -----------------------------------------------------------------------------

    def alone(self, media: str) -> bool:
        """Whether a body of this content type is one input as it is."""
        return media == TEXT

    def lines(self, first: list[str]) -> tuple[Callable[[list[str]], bytes], bool] | None:
        """How lines of CSV become raw inputs, and whether the first is a header; None where CSV holds none.

        Args:
            first: cells of the first line.
        """
        return self.cells, False

    def cells(self, cells: list[str]) -> bytes:
        """The raw input of one line of CSV; UserError where it is none."""
        if len(cells) != 1:
            raise UserError(f"A line has {len(cells)} cells instead of one; quote a text that has a comma.")
        return cells[0].encode()

    def value(self, value: Any) -> bytes:
        """The raw input of a value of JSON; UserError where it is none."""
        return dumps(value).encode()

    def is_one(self, value: Any) -> bool:
        """Whether a value of JSON is one input, and not a list of them."""
        return not isinstance(value, list)

    def has_key(self, key: str) -> bool:
        """Whether an input itself is an object with this key, so that it can't be a wrapping."""
        return False

    def documents(self) -> dict[str, dict[str, Any]]:
        """The schemas of `media`, for the API's description."""
        return {media: {"schema": {"type": "string"}} for media in self.media}

    def work(self, raw: bytes) -> int:
        """How much decoding costs, in the unit of `most_work`."""
        return 0

    # -- the model --------------------------------------------------------------------------------------

    def network_input(self, items: Sequence[Any]) -> Tensor | None:
        """Decoded inputs as the network takes them, where that needs nothing but them; None elsewhere."""
        return None

    def explainer(self, predictor: Any) -> tuple[str, Explain] | None:
        """What the page shows of an explanation ("heat", "tokens"), and what makes it; None where there is none."""
        return None

    def point(self, item: Any) -> dict[str, Any]:
        """The point of the latent space that an input means; UserError where `latent` is false."""
        raise UserError("This model has no latent space.")

    def request(self, given: dict[str, Any]) -> bytes:
        """The raw input that a request to /v1/completions ("prompt") or /v1/chat/completions ("messages") means.

        Raises:
            UserError: this kind is not asked so.
        """
        raise UserError("This model writes no texts.")

    def page(self) -> dict[str, Any]:
        """What the page's view of this kind must know of the model besides; JSON-able."""
        return {}

    # -- on disk ----------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Any:
        """The reverse of `to_json`; UserError where a field is missing or of a wrong type."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k != "kind"}
        types = typing.get_type_hints(cls)
        try:
            for name, value in values.items():
                if not _fits(value, types[name]):
                    raise TypeError(f"{name} is {value!r}")
            return cls(**values)
        except (TypeError, KeyError) as error:
            shown = str(fields)[:200]
            raise UserError(f"The model's description of its {cls.kind} input is not valid: {shown}.") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a field: a whole number from 0, a number, a text, or a tuple of them."""
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(one, typing.get_args(kind)[0]) for one in value)
    if kind is int:
        return type(value) is int and 0 <= value < 2**31
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)


class FileKind(Kind):
    """An input that is a file's bytes, such as a picture or a sound: in JSON and in tables it is base64.

    Attributes:
        noun: what one is called, with its article.
        family: of content types that are all taken, such as "image/".
        bodies: other content types that say no more than that there is a file.
    """

    noun: ClassVar[str]
    family: ClassVar[str]
    bodies: ClassVar[tuple[str, ...]] = ("binary/octet-stream",)
    plain: ClassVar[str] = FILE
    keys: ClassVar[tuple[str, ...]] = ("b64",)

    def start(self) -> None:
        """Nothing: the visitor makes one, or chooses a file."""

    def to_text(self, raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    def from_text(self, text: str) -> bytes:
        return base64.b64decode(text, validate=True)

    def alone(self, media: str) -> bool:
        return media in self.bodies or media.startswith(self.family)

    def lines(self, first: list[str]) -> None:
        """None: CSV holds no files."""

    def value(self, value: Any) -> bytes:
        """A file in base64, also as a data URL."""
        if not isinstance(value, str):
            what = f"An input is {self.noun} file in base64, as a JSON string, not {type(value).__name__}."
            raise UserError(what)
        try:
            return self.from_text(value.partition(",")[2] if value.startswith("data:") else value)
        except binascii.Error as error:
            raise UserError(f"{self.noun.capitalize()} is not valid base64: {error}.") from error


def decoded(kind: Kind, source: Path | bytes, name: str) -> Any:
    """What `kind` makes of one raw input; any failure at all is a UserError about this input.

    Decoders read what strangers made, and libraries raise nearly anything on it: MemoryError for a made-up shape,
    RecursionError for nested brackets.
    """
    try:
        return kind.decode(source, name)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name} can't be read: {type(error).__name__}{reason and f': {reason}'}.") from error


def content_of(source: Path | bytes, name: str) -> bytes:
    content = source if isinstance(source, bytes) else _read(source)
    if len(content) > MAX_BYTES:
        raise UserError(f"{name} is larger than {MAX_BYTES >> 20} MB.")
    return content


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error


def text_of(source: Path | bytes, name: str) -> str:
    try:
        return content_of(source, name).decode("utf-8-sig")  # with or without the mark that Windows puts first
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}).", "Convert it to UTF-8.") from error


def json_of(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{name} is not valid JSON: {error}.") from error


def dumps(value: Any) -> str:
    """JSON with letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def tensor_of(value: Any, shape: tuple[int, ...], name: str) -> Tensor:
    import torch  # here: a command that has a mistake in its arguments says so without waiting for it

    try:
        tensor = torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{name} does not hold numbers of the shape {list(shape)}.") from error
    return checked(tensor, shape, name)


def checked(tensor: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}.")
    if not bool(tensor.isfinite().all()):
        raise UserError(f"{name} holds {math.nan if bool(tensor.isnan().any()) else math.inf}; only finite numbers go.")
    return tensor
