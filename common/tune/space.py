"""What is searched: the settings of an example that nobody fixed, and where each of them may lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.command.arguments import Options
from common.command.execute import asked_config
from common.config import Config, Range, field_types, flag
from common.errors import UserError
from common.example import Example

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Where = Range | tuple[Any, ...]


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        ranges: where each setting may lie; its default lies there too.
        defaults: what the example takes where nobody says another value.
        integers: the settings that are whole numbers.
    """

    ranges: dict[str, Where]
    defaults: dict[str, Any]
    integers: frozenset[str]

    def distributions(self) -> dict[str, BaseDistribution]:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for name, where in self.ranges.items():
            if isinstance(where, tuple):
                found[name] = CategoricalDistribution(where)
            elif name in self.integers:
                found[name] = IntDistribution(int(where.low), int(where.high), log=where.log)
            else:
                found[name] = FloatDistribution(where.low, where.high, log=where.log)
        return found


def space_of(example: Example, options: Options, settings: dict[str, Any]) -> Space:
    """The ranges that the example's Config declares, less the settings that were given.

    A range is widened to hold the default, so that the search starts from what it has to beat.

    Raises:
        UserError: nothing is left to search, or what was said is wrong.
    """
    declared = example.config.ranges()
    if not declared:
        raise UserError(
            f"{example.name} declares nothing to tune.", "Give its Config's options a range: tune=Range(…)."
        )
    asked = asked_config(example, options, settings)
    base = example.config.tiny() if options.tiny else example.config()
    config = base.with_values(asked).resolve()
    config.check()
    free = {name: where for name, where in declared.items() if name not in asked}
    if not free:
        fixed = ", ".join(flag(name) for name in declared)
        raise UserError(f"Everything that could be tuned is fixed: {fixed}.", "Leave one of them out.")
    config = fitted(example, config)
    defaults = {name: value for name in free if (value := getattr(config, name)) is not None}
    integers = {name for name, (kind, _) in field_types(example.config).items() if kind is int}
    ranges = {name: _holding(where, defaults[name]) if name in defaults else where for name, where in free.items()}
    return Space(ranges, defaults, frozenset(integers & free.keys()))


def fitted(example: Example, config: Config) -> Config:
    """The config as a training would settle it: of the user's own data some settings are chosen by what they are."""
    if example.prepare is None or type(config).fitted is Config.fitted:
        return config
    try:
        return config.fitted(example.prepare(config))
    except UserError:  # data that only the jobs have: what is open stays so
        return config


def plain_ranges(ranges: Mapping[str, Where]) -> dict[str, Any]:
    """Ranges as plain values, by which two searches are told apart."""
    return {
        name: {"low": where.low, "high": where.high, "log": where.log} if isinstance(where, Range) else list(where)
        for name, where in ranges.items()
    }


def _holding(where: Where, default: Any) -> Where:
    if isinstance(where, Range):
        return Range(min(where.low, default), max(where.high, default), where.log and default > 0)
    return where if default in where else _in_order((*where, default))


def _in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(values, key=lambda value: (isinstance(value, str), value)))
