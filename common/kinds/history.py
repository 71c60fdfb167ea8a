"""A history: the last rows of a table in time, from which a forecast is made."""

from __future__ import annotations

import json
import math
import re
from calendar import monthrange
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from common.errors import UserError, nearest
from common.kinds.base import CSV, TEXT, Kind, dumps, json_of, shown, text_of
from common.kinds.sheet import is_number, read_sheet

USUAL = ("time", "date", "datetime", "timestamp", "ds", "month", "week", "year", "day")  # names of a column of times
LARGEST = 1e30  # float32 ends at 3e38, and squares of sums must fit too
Moment = datetime | int  # a date, or the number of a row, a year or whatever is counted


@dataclass(frozen=True)
class Step:
    """How far apart the rows of a history are.

    Args:
        unit: "seconds"; "months", on the same day of each; "month ends"; or "count", of whole numbers such as years.
        every: how many of them.
    """

    unit: str
    every: int

    def after(self, moment: Moment, count: int) -> Moment:
        """The time so many steps later, or earlier where the number is negative."""
        if isinstance(moment, int):
            return moment + count * self.every
        if self.unit == "seconds":
            return moment + timedelta(seconds=count * self.every)
        year, month = divmod(moment.year * 12 + moment.month - 1 + count * self.every, 12)
        last = monthrange(year, month + 1)[1]
        day = last if self.unit == "month ends" else min(moment.day, last)
        return moment.replace(year=year, month=month + 1, day=day)

    def __str__(self) -> str:
        if self.unit == "seconds":
            for name, seconds in (("week", 604_800), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
                if self.every % seconds == 0:
                    return _plural(self.every // seconds, name)
        return _plural(self.every, {"months": "month", "month ends": "month"}.get(self.unit, "step"))


def _plural(count: int, name: str) -> str:
    return f"{count} {name}{'s' if count != 1 else ''}"


def written(moment: Moment, step: Step) -> str:
    """A time as it stands in a table: 2024, 2024-05, 2024-05-31 or 2024-05-31 13:00:00."""
    if isinstance(moment, int):
        return str(moment)
    if step.unit == "months" and (moment.day, moment.hour, moment.minute, moment.second) == (1, 0, 0, 0):
        return f"{moment:%Y-%m}"
    whole_days = (moment.hour, moment.minute, moment.second) == (0, 0, 0)
    return f"{moment:%Y-%m-%d}" if whole_days and (step.unit != "seconds" or step.every % 86_400 == 0) else str(moment)


def read_moment(text: str) -> Moment:
    """A whole number, or a date as ISO 8601 has it, with or without its day and its time of the day.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?\d{1,15}", text):
        return int(text)
    if re.fullmatch(r"\d{4}-\d{2}", text):
        text += "-01"
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class Table(NamedTuple):
    """Columns of numbers, row after row in time.

    Args:
        names: of the columns, without that of the times.
        values: float64 [T, C].
        moments: the time of each row; the row's number where the table has no times.
        step: between them.
        time: name of the column of times; "" where there is none.
    """

    names: tuple[str, ...]
    values: Tensor
    moments: list[Moment]
    step: Step
    time: str


def read_table(text: str, name: str, time: str | None = None, columns: Sequence[str] | None = None) -> Table:
    """A table as CSV with a header, or as a JSON object with a list for each column.

    Args:
        name: of the table, for the texts of errors.
        time: column of the times. By default one with a usual name, such as "date", else the first one that holds
            no numbers, else none: then rows are numbered.
        columns: that are taken, in this order; all but the times by default.

    Raises:
        UserError: a column is missing; a value is empty, a text or not finite; times are unreadable, unsorted, doubled,
            have a gap or differ in their steps. The line is named.
    """
    header, rows, first = _from_json(text, name) if text.lstrip().startswith("{") else (*read_sheet(text, name), 2)
    for asked in (*(columns or ()), *([time] if time else [])):
        if asked not in header:
            raise UserError(f"{name} has no column {shown(asked)}.", nearest(asked, header))
    time = _time_column(header, rows, columns) if time is None else time
    names = tuple(columns or (cell for cell in header if cell != time))
    if not names:
        raise UserError(f"{name} has no column of numbers.", "It needs one beside the times.")
    places = [header.index(cell) for cell in names]
    values = []
    for line, row in enumerate(rows, start=first):
        values.append([_number(row[place], f"{name} line {line}: column {shown(header[place])}") for place in places])
    moments, step = _moments([row[header.index(time)] for row in rows] if time else [], len(rows), name, first)
    return Table(names, torch.tensor(values, dtype=torch.float64).reshape(len(rows), len(names)), moments, step, time)


def _from_json(text: str, name: str) -> tuple[list[str], list[list[Any]], int]:
    value = json_of(text, name)
    lists = list(value.values())
    if not lists or not all(isinstance(column, list) for column in lists):
        raise UserError(f"{name} is no table.", 'In JSON it is {"time": ["2024-01", ...], "NAME": [1.5, ...]}.')
    if len({len(column) for column in lists}) > 1:
        raise UserError(f"{name} has columns of different lengths.", "Every time needs a value in each.")
    return list(value), [list(row) for row in zip(*lists, strict=True)], 1


def _time_column(header: list[str], rows: list[list[Any]], columns: Sequence[str] | None) -> str:
    free = [cell for cell in header if cell not in (columns or ())]
    for cell in free:
        if cell.strip().lower() in USUAL:
            return cell
    first = rows[0] if rows else []
    for cell, value in zip(header, first, strict=False):
        if cell in free and not is_number(value) and _is_moment(value):
            return cell
    return ""


def _is_moment(cell: Any) -> bool:
    try:
        read_moment(str(cell))
    except (ValueError, OverflowError):
        return False
    return True


def _number(cell: Any, where: str) -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise UserError(f"{where} is empty.", "Fill the gap, or leave out what comes before it.")
    if isinstance(cell, bool) or not is_number(cell):
        raise UserError(f"{where} is {shown(cell)}, not a number.")
    value = float(cell)
    if not math.isfinite(value):
        raise UserError(f"{where} is {value}, not a finite number.", "Fill the gap, or leave out what comes before it.")
    if abs(value) > LARGEST:
        raise UserError(f"{where} is {value:g}, too large to compute with.")
    return value


# --- times -------------------------------------------------------------------------------------------------


def _moments(cells: list[Any], count: int, name: str, first: int) -> tuple[list[Moment], Step]:
    """The times and the one step between them."""
    if not cells:
        return list(range(1, count + 1)), Step("count", 1)
    moments: list[Moment] = []
    for line, cell in enumerate(cells, start=first):
        try:
            moments.append(read_moment(str(cell)))
        except (ValueError, OverflowError):
            what = f"{name} line {line}: {shown(cell)} is not a time."
            raise UserError(
                what, "Times are whole numbers, or dates such as 2024-05, 2024-05-31 or 2024-05-31 13:00."
            ) from None
        if len(moments) > 1:
            _check_order(moments[-2], moments[-1], f"{name} line {line}")
    if len(moments) < 2:
        return moments, Step("count" if moments and isinstance(moments[0], int) else "seconds", 1)
    return moments, _step(moments, name, first)


def _check_order(before: Moment, now: Moment, where: str) -> None:
    one_kind = isinstance(before, int) == isinstance(now, int)
    if not one_kind or (isinstance(now, datetime) and isinstance(before, datetime) and _zone(now) != _zone(before)):
        raise UserError(f"{where}: {now} is another kind of time than {before} before it.")
    if now == before:
        raise UserError(f"{where}: the time {now} stands there a second time.", "Each time has one row.")
    if now < before:  # type: ignore[operator]
        raise UserError(f"{where}: {now} comes after {before}.", "Sort the rows by time, the oldest first.")


def _zone(moment: datetime) -> bool:
    return moment.tzinfo is not None


def _step(moments: list[Moment], name: str, first: int) -> Step:
    """The step between all times.

    Raises:
        UserError: some times are missing, or the rows have several steps.
    """
    dates = [moment for moment in moments if isinstance(moment, datetime)]
    if not dates:
        gaps = [b - a for a, b in pairwise(moment for moment in moments if isinstance(moment, int))]
        return Step("count", _common(gaps, moments, name, first, str))
    for unit in ("months", "month ends"):  # a month is not always as long
        found = _monthly(dates, unit)
        if found is not None:
            gaps = [b - a for a, b in pairwise(found)]
            return Step(unit, _common(gaps, moments, name, first, partial(_said, unit)))
    seconds = [(b - a).total_seconds() for a, b in pairwise(dates)]
    gaps = [int(gap) for gap in seconds]
    if gaps != seconds:
        raise UserError(f"{name} has times that are less than a second apart.", "Number the rows instead.")
    return Step("seconds", _common(gaps, moments, name, first, partial(_said, "seconds")))


def _said(unit: str, every: int) -> str:
    return str(Step(unit, every))


def _monthly(moments: Sequence[datetime], unit: str) -> list[int] | None:
    """The number of each time's month, where all are on the same day at the same hour of theirs, and months apart."""
    hours = {(m.hour, m.minute, m.second) for m in moments}
    days = {m.day for m in moments}
    ends = all(m.day == monthrange(m.year, m.month)[1] for m in moments)
    if len(hours) > 1 or not (ends if unit == "month ends" else len(days) == 1):
        return None
    return [m.year * 12 + m.month for m in moments]


def _common(gaps: list[int], moments: list[Moment], name: str, first: int, say: Callable[[int], str]) -> int:
    """The one step among the distances between times."""
    counts = Counter(gaps)
    usual, often = counts.most_common(1)[0]
    if len(counts) == 1:
        return usual
    odd = next(i for i, gap in enumerate(gaps) if gap != usual)
    where = f"{name} line {first + odd + 1}"
    if often > len(gaps) / 2 and all(gap % usual == 0 for gap in gaps):
        missing = gaps[odd] // usual - 1
        what = f"{where}: {_plural(missing, 'row')} missing between {moments[odd]} and {moments[odd + 1]}."
        raise UserError(what, "Fill the gap, or leave out what comes before it.")
    what = f"{where}: the rows are {say(usual)} apart, but here {say(gaps[odd])}."
    raise UserError(what, "Forecasts need one step between all rows; bring them to one first.")


# --- the kind ----------------------------------------------------------------------------------------------


class History(NamedTuple):
    """What a forecast is made from.

    Args:
        values: float32 [C, L], the last L rows of each column.
        last: time of the last row.
    """

    values: Tensor
    last: Moment


@dataclass(frozen=True)
class HistoryInput(Kind):
    """A table in time, as CSV or JSON; of a longer one the last rows count.

    Args:
        names: of the columns that the model takes, in its order. A table may have others too.
        lookback: rows that the model looks at.
        time: name of the column of times where it was trained; "" where rows were numbered.
        unit, every: the step between the rows, as of `Step`.
        usual: values of an example, row after row; [lookback × columns] numbers.
        last: time of that example's last row.
    """

    kind: ClassVar[str] = "history"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".json")
    media: ClassVar[tuple[str, ...]] = (CSV, TEXT)
    usage: ClassVar[str] = "history.csv --out forecast"

    names: tuple[str, ...]
    lookback: int
    time: str
    unit: str
    every: int
    usual: tuple[float, ...]
    last: str

    @property
    def step(self) -> Step:
        return Step(self.unit, self.every)

    def sample(self) -> bytes:
        columns = [list(self.usual[i :: len(self.names)]) for i in range(len(self.names))]
        table: dict[str, Any] = dict(zip(self.names, columns, strict=True))
        if self.time:
            end = read_moment(self.last)
            times = [written(self.step.after(end, i), self.step) for i in range(1 - self.lookback, 1)]
            table = {self.time: times, **table}
        return json.dumps(table).encode()

    def decode(self, source: Path | bytes, name: str = "") -> History:
        """The last `lookback` rows of a table: CSV with a header, or JSON with a list for each column.

        Raises:
            UserError: see `read_table`; there are too few rows, or they have another step than where it was trained.
        """
        name = name or "The history"
        text = text_of(source, name)
        time = self.time if self.time and self.time in _head(text) else None
        table = read_table(text, name, time, self.names)
        rows = len(table.moments)
        if rows < self.lookback:
            what = f"{name} has {_plural(rows, 'row')}, but the model looks back at {self.lookback}."
            raise UserError(what, "Give a longer history.")
        if table.time and self.time and table.step != self.step:
            raise UserError(f"{name} has rows {table.step} apart; the model was trained on rows {self.step} apart.")
        return History(table.values[-self.lookback :].T.float().contiguous(), table.moments[-1])

    def times(self, item: History, horizon: int) -> list[str]:
        """The times of a forecast, as texts."""
        step = self.step if self.time else Step("count", 1)
        return [written(step.after(item.last, i), step) for i in range(1, horizon + 1)]

    def network_input(self, items: Sequence[History]) -> Tensor:
        return torch.stack([item.values for item in items])  # [B, C, L]

    def alone(self, media: str) -> bool:
        return media in self.media

    def lines(self, first: list[str]) -> None:
        """A table is one input, not one for each of its lines."""
        return

    def value(self, value: Any) -> bytes:
        if not isinstance(value, (dict, str)):
            raise UserError(f"A history is an object with a list for each column, not {type(value).__name__}.")
        return (value if isinstance(value, str) else dumps(value)).encode()

    def has_key(self, key: str) -> bool:
        return key in self.names or key == self.time


def _head(text: str) -> str:
    """The part of a table that names its columns; of JSON all of it."""
    return text if text.lstrip().startswith("{") else text.lstrip("\ufeff").split("\n", 1)[0]
