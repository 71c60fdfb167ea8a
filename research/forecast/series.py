"""Series by name: embedded, made up, of statsmodels, or the user's own; and the windows that are cut from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError, nearest
from common.files import located
from common.kinds.history import History, HistoryInput, Moment, Step, Table, read_moment, read_table, written
from common.machine.device import mix_seed
from research.forecast.elnino import TABLE

SOURCES = ("el-nino", "co2", "sunspots", "synthetic", "ett:FILE", "csv:FILE")
# Season, rows that are looked back at and rows that are forecast, of the series that have a name.
NAMED = {"el-nino": (12, 36, 12), "co2": (52, 104, 26), "sunspots": (11, 33, 11), "synthetic": (8, 24, 8)}
SPLIT = (0.6, 0.2)  # of the rows for training and for validation; the rest is the test
MONTH = 30 * 24  # hours, as Zhou et al. 2021 (arXiv 2012.07436) count them
# The same for a file's rows that are so far apart.
USUAL: dict[str, tuple[int, int, int]] = {
    "15 minutes": (96, 336, 96), "1 hour": (24, 336, 96), "1 day": (7, 56, 14), "1 week": (52, 104, 26),
    "1 month": (12, 36, 12), "3 months": (4, 16, 4),
}  # fmt: skip
ANY = (1, 32, 8)


@dataclass(frozen=True)
class Series:
    """Columns in time, and where they are divided.

    Args:
        table: float64 [T, C] with its times.
        borders: rows at which validation begins, at which the test begins, and at which it ends.
        season: rows after which the pattern repeats; 1 where none is known.
        lookback, horizon: that suit it.
        source: where it comes from, and its licence.
        best: what the rule behind made-up data forecasts at each row from what came before: (origin, horizon) to
            [C, horizon]; None where nobody knows it.
    """

    table: Table
    borders: tuple[int, int, int]
    season: int
    lookback: int
    horizon: int
    source: str
    best: Any = None


@dataclass(frozen=True)
class Windows:
    """Every stretch of lookback + horizon rows whose targets lie in one split, as `Loader` takes them.

    Args:
        values: float32 [C, T], of the split and of the lookback before it.
        origins: row of the whole series at which the targets of the first window begin.
        inputs: the kind of the input.
        moments: time of each of the T rows.
        horizon: H.
    """

    values: Tensor
    origin: int
    inputs: HistoryInput
    moments: list[Moment]
    horizon: int

    def __len__(self) -> int:
        return self.values.shape[1] - self.inputs.lookback - self.horizon + 1

    def __getitem__(self, index: int) -> History:
        """One window as a predictor takes it."""
        end = index + self.inputs.lookback
        return History(self.values[:, index:end], self.moments[end - 1])

    def in_memory(self) -> Tensor:
        """[N, C, L], a view: overlapping windows cost no memory."""
        return self._cut()[..., : self.inputs.lookback]

    @property
    def targets(self) -> Tensor:
        """[N, C, H], a view too."""
        return self._cut()[..., self.inputs.lookback :]

    def _cut(self) -> Tensor:
        return self.values.unfold(1, self.inputs.lookback + self.horizon, 1).transpose(0, 1)

    def scaled(self, mean: Tensor, std: Tensor) -> Windows:
        """The same in other units: each column [C] less its mean, by its deviation."""
        return replace(self, values=(self.values - mean[:, None]) / std[:, None])


@dataclass(frozen=True)
class SeriesData:
    """The three splits, in the units of the source.

    Args:
        train, valid, test: windows; no target of one is a target of another.
        inputs: the kind of the input.
        mean, std: of each column over the training rows, float32 [C].
        series: where they were cut from.
        provenance: source, counts and split.
    """

    train: Windows
    valid: Windows
    test: Windows
    inputs: HistoryInput
    mean: Tensor
    std: Tensor
    series: Series
    provenance: str


def cut(series: Series, lookback: int, horizon: int) -> SeriesData:
    """Windows of all rows: training, validation and test follow each other in time.

    Scaling is measured on the training rows alone. A window of validation or test looks back into the rows before
    its split; its targets never do.

    Raises:
        UserError: a split is too short, or a column does not change.
    """
    table, (valid, test, end) = series.table, series.borders
    if valid < lookback + horizon or test - valid < horizon or end - test < horizon:
        rows = f"{valid} training, {test - valid} validation and {end - test} test rows"
        what = f"{rows} are too few to look {lookback} rows back and {horizon} ahead."
        raise UserError(what, "Use a smaller --lookback or --horizon.")
    train_rows = table.values[:valid]
    std = train_rows.std(0, correction=0)
    for name, spread in zip(table.names, std.tolist(), strict=True):
        if spread == 0:
            what = f"Column {name!r} is constant over the {valid} training rows: there is nothing to learn."
            raise UserError(what, "Leave it out: name the others by --columns.")
    inputs = HistoryInput(
        names=table.names, lookback=lookback, time=table.time, unit=table.step.unit, every=table.step.every,
        usual=tuple(float(f"{x:.7g}") for x in table.values[end - lookback : end].flatten().tolist()),
        last=written(table.moments[end - 1], table.step),
    )  # fmt: skip

    def windows(start: int, stop: int) -> Windows:
        first = max(0, start - lookback)
        values = table.values[first:stop].T.float().contiguous()
        return Windows(values, first + lookback, inputs, table.moments[first:stop], horizon)

    splits = windows(0, valid), windows(valid, test), windows(test, end)
    counts = " / ".join(f"{len(part):,} {name}" for part, name in zip(splits, ("train", "valid", "test"), strict=True))
    borders = ", ".join(written(table.moments[row], table.step) for row in (0, valid, test, end - 1))
    columns = f"{len(table.names)} column{'s' if len(table.names) > 1 else ''}"
    provenance = (
        f"{series.source}; {end:,} rows {table.step} apart, {columns}; {counts} windows of {lookback} + {horizon} "
        f"rows, in order of time (bounds {borders}); scaled by the training rows"
    )
    mean = train_rows.mean(0)
    return SeriesData(*splits, inputs, mean.float(), std.float(), series, provenance)


# --- where from --------------------------------------------------------------------------------------------


def load_series(name: str, *, data_dir: Path | None, time: str | None, columns: str | None, seed: int) -> Series:
    """One of SOURCES.

    Args:
        data_dir: where a relative path is looked for first.
        time, columns: of a file: the column of times, and those that are forecast, separated by commas.

    Raises:
        UserError: the name is unknown, a package is missing, or something in the file is wrong.
    """
    kind, _, rest = name.partition(":")
    wanted = [cell.strip() for cell in columns.split(",") if cell.strip()] if columns else None
    if kind in ("ett", "csv") and rest:
        path = located(rest, data_dir)
        table = read_table(_text(path), path.name, time, wanted)
        return _ett(table, path) if kind == "ett" else _csv(table, path)
    if time or wanted:
        raise UserError("--time and --columns are for --data csv:FILE and ett:FILE.", f"{name} has its own.")
    if name == "el-nino":
        return _el_nino()
    if name in ("co2", "sunspots"):
        return _statsmodels(name)
    if name == "synthetic":
        return _synthetic(seed)
    raise UserError(f"There is no series {name!r}.", nearest(name, SOURCES))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).", "Convert it to UTF-8.") from error


def _divided(table: Table, source: str, usual: tuple[int, int, int], best: Any = None) -> Series:
    rows = len(table.moments)
    valid = math.floor(SPLIT[0] * rows)
    return Series(table, (valid, valid + math.floor(SPLIT[1] * rows), rows), *usual, source, best)


def _el_nino() -> Series:
    lines = [line.split() for line in TABLE.strip().splitlines()]
    values = [float(cell) for _, *cells in lines for cell in cells]
    step = Step("months", 1)
    start = read_moment(f"{lines[0][0]}-01")
    moments = [step.after(start, i) for i in range(len(values))]
    table = Table(("temperature",), torch.tensor(values, dtype=torch.float64)[:, None], moments, step, "month")
    source = "El Niño: sea surface temperature off Peru (Niño 1+2, °C), NOAA ERSST.V3B, public domain"
    return _divided(table, source, NAMED["el-nino"])


def _statsmodels(name: str) -> Series:
    """CO₂ at Mauna Loa by the week (Keeling and Whorf), or sunspots by the year."""
    try:
        from statsmodels.datasets import co2, sunspots
    except ImportError:
        raise UserError(f"--data {name} needs statsmodels.", "pip install 'pytorch-use-cases[series]'") from None
    if name == "sunspots":
        rows = sunspots.load_pandas().data
        moments: list[Moment] = [int(year) for year in rows["YEAR"]]
        values = torch.tensor(rows["SUNACTIVITY"].to_numpy(copy=True), dtype=torch.float64)[:, None]
        table = Table(("sunspots",), values, moments, Step("count", 1), "year")
        return _divided(table, "yearly sunspots, NOAA, public domain, by statsmodels", NAMED[name])
    rows = co2.load_pandas().data
    missing = int(rows["co2"].isna().sum())
    filled = rows["co2"].interpolate().to_numpy(copy=True)
    moments = [moment.to_pydatetime() for moment in rows.index]
    table = Table(("co2",), torch.tensor(filled)[:, None], moments, Step("seconds", 604_800), "week")
    source = (
        "weekly CO₂ at Mauna Loa (ppm), Keeling and Whorf 2004, public domain, by statsmodels; "
        f"{missing} missing weeks interpolated"
    )
    return _divided(table, source, NAMED[name])


def _ett(table: Table, path: Path) -> Series:
    """The standard split of 12, 4 and 4 months of 30 days (Zhou et al. 2021); what comes after is not used."""
    a_day = {"1 hour": 1, "15 minutes": 4}.get(str(table.step))
    if a_day is None:
        raise UserError(f"{path.name} has rows {table.step} apart; ETT's are 1 hour or 15 minutes.", "Use csv:FILE.")
    borders = tuple(months * MONTH * a_day for months in (12, 16, 20))
    if len(table.moments) < borders[2]:
        what = f"{path.name} has {len(table.moments):,} rows; the standard split takes {borders[2]:,}."
        raise UserError(what, "Use csv:FILE, which divides any number.")
    source = f"{path.name}, Electricity Transformer Temperature (Zhou et al. 2021), CC BY-ND 4.0"
    return Series(table, (borders[0], borders[1], borders[2]), *USUAL[str(table.step)], source)


def _csv(table: Table, path: Path) -> Series:
    return _divided(table, f"csv:{path.name}", USUAL.get(str(table.step), ANY))


def _synthetic(seed: int, rows: int = 400) -> Series:
    """Two columns in units of their own: a season of 8 rows, and noise that is forgotten by a fifth in each row.

    y(t) = season(t) + a(t), a(t) = 0.8 a(t − 1) + e(t): the best forecast for h steps ahead is season + 0.8^h a.
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, "series"))
    noise = 0.5 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    wander = torch.zeros(rows, 2, dtype=torch.float64)
    for t in range(1, rows):
        wander[t] = 0.8 * wander[t - 1] + noise[t]
    time = torch.arange(rows + 64, dtype=torch.float64)
    phase = 2 * torch.pi * time / 8
    season = torch.stack([phase.sin(), phase.cos() + 0.5 * (2 * phase).sin()], dim=1)  # [rows + 64, 2]
    scale, offset = torch.tensor([1.0, 50.0]).double(), torch.tensor([0.0, 1000.0]).double()

    def best(origin: int, horizon: int) -> Tensor:
        faded = 0.8 ** torch.arange(1, horizon + 1, dtype=torch.float64)[:, None] * wander[origin - 1]
        return ((season[origin : origin + horizon] + faded) * scale + offset).T

    start, step = read_moment("2020-01-01"), Step("seconds", 86_400)
    moments = [step.after(start, i) for i in range(rows)]
    table = Table(("small", "large"), (season[:rows] + wander) * scale + offset, moments, step, "day")
    return _divided(table, "made-up days: a season of 8 and noise that fades", NAMED["synthetic"], best)
