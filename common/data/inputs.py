"""What a model can be asked with besides an image: a text, a row of numbers, a seed, an observation.

`common.data.images.ImageInput` is the image. Each has the shape of `common.example.Input`.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import typing
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from common.errors import UserError, nearest

MAX_BYTES = 16 * 2**20  # of one input; a longer one is a mistake or an attack


class _Fields:
    """An input that is a frozen dataclass: its JSON is its kind and its fields."""

    kind: ClassVar[str]

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


@dataclass(frozen=True)
class TextInput(_Fields):
    """A text, UTF-8."""

    kind: ClassVar[str] = "text"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def sample(self) -> bytes:
        return b"It is a good day to learn something new."

    def decode(self, source: Path | bytes, name: str = "") -> str:
        """The text of a file or of its bytes, as it is; an empty one is a text too.

        Raises:
            UserError: the file is missing, too large or not UTF-8.
        """
        return _text(source, name or "The text")


@dataclass(frozen=True)
class RowInput(_Fields):
    """A row of a table: one number for each named column.

    Args:
        names: of the columns, in the order in which the model takes them.
        usual: a value for each of them, such as its mean over the training data; zeros by default.
    """

    kind: ClassVar[str] = "row"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".csv")

    names: tuple[str, ...]
    usual: tuple[float, ...] = ()

    def sample(self) -> bytes:
        values = self.usual or (0.0,) * len(self.names)
        return json.dumps(dict(zip(self.names, values, strict=True))).encode()

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """float32 [F] of a JSON object by column name, a JSON list, or one line of comma-separated numbers.

        Raises:
            UserError: a column is missing or unknown, or a value is no finite number.
        """
        name = name or "The row"
        text = _text(source, name).strip()
        value = _json(text, name) if text.startswith(("{", "[")) else [_number(cell) for cell in _cells(text, name)]
        if isinstance(value, dict):
            for key in value:
                if key not in self.names:
                    raise UserError(f"{name} has an unknown column {_shown(key)}.", nearest(key, self.names))
            missing = [n for n in self.names if n not in value]
            if missing:
                raise UserError(f"{name} lacks {len(missing)} of {len(self.names)} columns: {missing[0]!r}, …")
            value = [value[n] for n in self.names]
        return _tensor(value, (len(self.names),), name)


class Draw(NamedTuple):
    """One point of a generator's latent space.

    Args:
        latent: float32 [Z].
        label: number of the class that is asked for, None for any.
        seed: that the latent was drawn from, None where it was given.
    """

    latent: Tensor
    label: int | None
    seed: int | None


@dataclass(frozen=True)
class SeedInput(_Fields):
    """A seed, or a latent, from which a generator makes something.

    Args:
        latent_size: Z.
        classes: that can be asked for; empty where the generator is unconditional.
    """

    kind: ClassVar[str] = "seed"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    latent_size: int
    classes: tuple[str, ...] = ()

    def sample(self) -> bytes:
        return b"7"

    def decode(self, source: Path | bytes, name: str = "") -> Draw:
        """`7`, `{"seed": 7, "class": "cat"}` or `{"latent": [Z numbers]}`; a seed gives the same latent everywhere.

        Raises:
            UserError: neither seed nor latent, a seed that is no whole number in 0..2^63-1, an unknown class.
        """
        name = name or "The seed"
        value = _json(_text(source, name), name)
        asked = value if isinstance(value, dict) else {"seed": value}
        for key in asked:
            if key not in ("seed", "latent", "class"):
                raise UserError(f"{name} has an unknown key {_shown(key)}.", "Known are seed, latent and class.")
        label = self._label(asked.get("class"), name)
        if "latent" in asked:
            return Draw(_tensor(asked["latent"], (self.latent_size,), name), label, None)
        seed = asked.get("seed")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise UserError(f"{name} is no seed: {_shown(seed)}.", "A seed is a whole number from 0, such as 7.")
        return Draw(torch.randn(self.latent_size, generator=torch.Generator().manual_seed(seed)), label, seed)

    def _label(self, asked: Any, name: str) -> int | None:
        if asked is None:
            return None
        if not self.classes:
            raise UserError(f"{name} asks for a class, but this model was trained without classes.")
        if str(asked) not in self.classes:
            raise UserError(f"{name} asks for the unknown class {_shown(asked)}.", nearest(str(asked), self.classes))
        return self.classes.index(str(asked))


@dataclass(frozen=True)
class ObservationInput(_Fields):
    """What an agent sees.

    Args:
        shape: of one observation.
    """

    kind: ClassVar[str] = "observation"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".npy")

    shape: tuple[int, ...]

    def sample(self) -> bytes:
        return json.dumps(torch.zeros(self.shape).tolist()).encode()

    def decode(self, source: Path | bytes, name: str = "") -> Tensor:
        """float32 of the given shape, from nested JSON lists or a .npy file.

        Raises:
            UserError: another shape, or a value that is no finite number.
        """
        name = name or "The observation"
        content = _bytes(source, name)
        if content.startswith(b"\x93NUMPY"):
            np = _numpy()
            try:
                value = np.load(io.BytesIO(content), allow_pickle=False)
            except Exception as error:  # of the header anything: its text is a Python literal
                raise UserError(f"{name} is a damaged .npy file ({type(error).__name__}).") from error
            if value.dtype.kind not in "biuf":
                raise UserError(f"{name} holds {str(value.dtype)[:80]}, not numbers.")
            with np.errstate(all="ignore"):  # what float32 can't hold becomes infinite, and is refused as that
                return _checked(torch.from_numpy(value.astype("float32")), self.shape, name)
        return _tensor(_json(_text(content, name), name), self.shape, name)


@functools.cache
def _numpy() -> Any:
    import numpy as np

    # NumPy warns of headers that Python 2 wrote, and Python of odd literals in them; what matters is an error.
    warnings.filterwarnings("ignore", message="Reading `.npy` or `.npz` file required")
    warnings.filterwarnings("ignore", message="invalid escape sequence")
    return np


def _bytes(source: Path | bytes, name: str) -> bytes:
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


def _text(source: Path | bytes, name: str) -> str:
    try:
        return _bytes(source, name).decode("utf-8-sig")  # with or without the mark that Windows puts first
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}).", "Convert it to UTF-8.") from error


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{name} is not valid JSON: {error}.") from error


def _cells(text: str, name: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text)), [])
    except csv.Error as error:  # a cell of more than 131,072 letters, and what is no CSV
        raise UserError(f"{name} is not a row of numbers: {error}.") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _tensor(value: Any, shape: tuple[int, ...], name: str) -> Tensor:
    try:
        tensor = torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{name} does not hold numbers of the shape {list(shape)}.") from error
    return _checked(tensor, shape, name)


def _checked(tensor: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if tuple(tensor.shape) != tuple(shape):
        raise UserError(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}.")
    if not bool(tensor.isfinite().all()):
        raise UserError(f"{name} holds {math.nan if bool(tensor.isnan().any()) else math.inf}; only finite numbers go.")
    return tensor
