"""Typed configs: one frozen dataclass per example is its command line, its JSON and its bounds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.errors import UserError, nearest

C = TypeVar("C", bound="Config")
# The groups of settings that are shown first and last; those of the example's own stand between.
FIRST, LAST = ("Data", "Model", "Training"), ("Device", "Run")
PLACES = (":PATH", ":FILE", ":MODEL")  # ends of a choice that may name a file or a folder
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Range:
    """Where tuning looks for a number: from `low` to `high`, both included, on a logarithmic scale if so said."""

    low: float
    high: float
    log: bool = False


def option(
    default: Any,
    help: str,
    *,
    group: str = "Training",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    unset: str = "",
    path: bool = False,
    tune: Range | tuple[Any, ...] | None = None,
    grows: bool = False,
    common: bool = False,
) -> Any:
    """A config field with its help and its bounds.

    Args:
        default: the value where nobody says another; None for one that a recipe decides: the field is declared with
            the type that it then has (`epochs: int = option(None, ...)`).
        help: one line, shown by --help.
        group: the panel of --help under which it stands.
        at_least, above, at_most: bounds of a number, the second one exclusive.
        choices: allowed strings. An entry that ends in capitals is a pattern: `folder:PATH` allows
            whatever starts with `folder:`.
        path: the value may name a file or a folder, which travels with a job to SageMaker. So may what stands for the
            capitals of `folder:PATH`, `npz:FILE` or `hf:MODEL`.
        unset: what --help shows as the default in place of None, such as "by data set".
        tune: where tuning looks: a range of numbers, or the values to choose from; None where it leaves it alone.
        common: among the dozen that people turn, which --help shows; --help-all shows the others too.
        grows: a run that is resumed may be given a larger value, and trains on.
    """
    metadata = {
        "help": help,
        "group": group,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "choices": choices,
        "unset": unset,
        "path": path,
        "tune": tune,
        "grows": grows,
        "common": common,
    }
    return dataclasses.field(default=default, metadata=metadata)


def changed(config: type[Config], name: str, default: Any = dataclasses.MISSING, **rules: Any) -> Any:
    """A field of a config that is inherited, with another default, or other rules of `option`."""
    field = config.__dataclass_fields__[name]
    rules = {**field.metadata, **rules}
    return option(field.default if default is dataclasses.MISSING else default, **rules)


@dataclass(frozen=True)
class Config:
    """What every example takes. An example's own config inherits it, adds fields and changes defaults."""

    data: str = option("synthetic", "data set", group="Data", common=True)
    data_dir: str | None = option(
        None,
        "folder that holds the data set, or gets it",
        group="Data",
        common=True,
        unset="data/ (downloads only there)",
        path=True,
    )
    batch_size: int = option(64, "samples per optimiser step, over all processes", at_least=1, common=True)
    lr: float = option(1e-3, "peak learning rate", above=0, at_most=100, common=True)
    seed: int = option(0, "seed of everything random", at_least=0, at_most=2**31 - 1, common=True)
    device: str = option(
        "auto", "where to compute", choices=("auto", "cpu", "cuda", "mps", "cuda:N"), group="Device", common=True
    )
    precision: str = option(
        "auto", "number format of the arithmetic", choices=("auto", "fp32", "bf16", "fp16"), group="Device"
    )
    compile: bool = option(False, "compile the model (slow to start, faster per step on a GPU)", group="Device")
    cuda_graph: bool = option(True, "launch each training step on a GPU at once", group="Device")
    checkpoint_seconds: float = option(
        10.0, "seconds between checkpoints; 0 saves after every step", at_least=0, group="Run"
    )

    @property
    def data_folder(self) -> Path | None:
        """`data_dir` as a path."""
        return Path(self.data_dir) if self.data_dir else None

    @classmethod
    def tiny(cls: type[C]) -> C:
        """The mock: the same example in seconds on made-up data."""
        return cls()

    def resolve(self: C) -> C:
        """The config with every "decided later" field decided; examples override it."""
        return self

    def fitted(self: C, data: Any) -> C:
        """The config with what is still open decided by what the data are; examples override it."""
        return self

    def filled(self: C, recipe: dict[str, Any]) -> C:
        """The config with what is still open decided by a recipe, and nothing that was said changed."""
        return dataclasses.replace(self, **{name: value for name, value in recipe.items() if self.is_open(name)})

    def is_open(self, name: str) -> bool:
        """Whether a field is still to be decided."""
        return getattr(self, name) is None

    def check(self) -> None:
        """Raises UserError for the first field whose value is out of bounds or not among its choices."""
        check_fields(self)

    def describe(self) -> str:
        """The settings that a recipe or the user chose, in one line: those that are not as the class declares them."""
        chosen = []
        for field in sorted(dataclasses.fields(self), key=lambda field: rank(field.metadata["group"])):
            value = getattr(self, field.name)
            said_elsewhere = field.metadata["group"] in ("Data", "Device", "Run") or field.name == "seed"
            if said_elsewhere or value == field.default or (field.default is None and not value):
                continue
            name = flag(field.name)[2:].replace("-", " ")
            chosen.append(name if value is True else f"no {name}" if value is False else f"{name} {_short(value)}")
        return ", ".join(chosen) or "as declared"

    @classmethod
    def ranges(cls) -> dict[str, Range | tuple[Any, ...]]:
        """Where tuning looks, by field name; empty for an example with nothing to tune."""
        rules = {field.name: field.metadata.get("tune") for field in dataclasses.fields(cls)}
        return {name: where for name, where in rules.items() if where is not None}

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def with_values(self: C, values: dict[str, Any], source: str = "") -> C:
        """A copy with other values, each checked for its name, type and bounds.

        Args:
            values: by field name (`batch_size`; `batch-size` is taken too).
            source: where they came from, for the error text, such as a file name.
        """
        where = f" in {source}" if source else ""
        if not isinstance(values, dict):
            raise UserError(f"The settings{where} are {str(values)[:60]!r}, not an object.")
        types = field_types(type(self))
        clean: dict[str, Any] = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            name = name if name in types else f"{name}_"
            if name not in types:
                raise UserError(f"Unknown setting {key!r}{where}.", nearest(name, types))
            clean[name] = _convert(name, value, types[name], where)
        changed = dataclasses.replace(self, **clean)
        changed.check()
        return changed


def rank(group: str) -> int:
    """The place of a group of settings among the others."""
    order = (*FIRST, "", *LAST)
    return order.index(group if group in order else "")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_fields(options: Any) -> None:
    """`Config.check` for any dataclass whose fields were declared with `option`."""
    for field in dataclasses.fields(options):
        _check_value(field, getattr(options, field.name))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or a UserError that says what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text.", "It should be a JSON file.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: line {error.lineno}, {error.msg}.") from None
    except (RecursionError, ValueError) as error:  # nested without end, or a number of thousands of digits
        raise UserError(f"{path} is not valid JSON: {str(error).partition(';')[0]}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not an object.")
    return value


def field_types(config: type) -> dict[str, tuple[type, bool]]:
    """The type of each field and whether it may be None, now or until a recipe decides: `{"lr": (float, True)}`."""
    types: dict[str, tuple[type, bool]] = {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        options = typing.get_args(hint)
        kind = next(o for o in options if o is not type(None)) if options else hint
        types[field.name] = kind, bool(options) or field.default is None
    return types


def path_prefixes(config: type) -> dict[str, tuple[str, ...]]:
    """What may stand before a path, for each setting that may name one: `{"data": ("folder:",), "weights": ("",)}`."""
    found: dict[str, tuple[str, ...]] = {}
    for field in dataclasses.fields(config):
        patterns = tuple(_pattern(choice) for choice in field.metadata["choices"] if choice.endswith(PLACES))
        found[field.name] = patterns + (("",) if field.metadata["path"] else ())
    return {name: prefixes for name, prefixes in found.items() if prefixes}


def flag(name: str) -> str:
    """The spelling of a field on the command line; `from_` is `--from`, which Python keeps for itself."""
    return "--" + name.rstrip("_").replace("_", "-")


def matches(value: str, choices: tuple[str, ...]) -> bool:
    """Whether a value is one of the choices or fits one that is a pattern."""
    for choice in choices:
        prefix = _pattern(choice)
        if value == choice or (prefix and value.startswith(prefix) and len(value) > len(prefix)):
            return True
    return False


def _pattern(choice: str) -> str:
    """What a value of a choice that is a pattern starts with: `folder:` of `folder:PATH`; "" of any other choice."""
    prefix = re.sub(r"[A-Z]+$", "", choice)
    return prefix if prefix != choice else ""


def _convert(name: str, value: Any, expected: tuple[type, bool], where: str) -> Any:
    kind, optional = expected
    if value is None and optional:
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise UserError(f"{flag(name)}{where} is {value!r}; it must be {TYPES[kind]}.")


def _check_value(field: dataclasses.Field[Any], value: Any) -> None:
    rules = field.metadata
    if value is None or not rules:
        return
    name = flag(field.name)
    if rules["choices"] and not matches(str(value), rules["choices"]):
        raise UserError(f"{name} {value}: unknown.", nearest(str(value), rules["choices"]))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f"{name} is {value}; it must be a finite number.")
        if rules["above"] is not None and value <= rules["above"]:
            raise UserError(f"{name} is {value}; it must be above {rules['above']:g}.")
        if rules["at_least"] is not None and value < rules["at_least"]:
            raise UserError(f"{name} is {value}; it must be at least {rules['at_least']:g}.")
        if rules["at_most"] is not None and value > rules["at_most"]:
            raise UserError(f"{name} is {value}; it must be at most {rules['at_most']:g}.")
