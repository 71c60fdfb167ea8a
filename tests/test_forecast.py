"""research.forecast: the splits, the baselines, the bands, and every mistake in a table of history."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.kinds.curve import LEVELS, Curve
from common.kinds.history import HistoryInput, Step, read_table
from common.predict import __main__ as predict
from common.serve.models import load_models
from research.forecast import baselines, models, scores
from research.forecast.__main__ import ForecastConfig, example, prepare
from research.forecast.series import Series, cut, load_series
from tests.page_helpers import served

HOUR = timedelta(hours=1)


def load(name: str, **more: str | None) -> Series:
    return load_series(name, data_dir=None, time=more.get("time"), columns=more.get("columns"), seed=0)


def table(path: Path, rows: int = 300, step: timedelta = timedelta(1), columns: int = 2) -> Path:
    """A CSV of waves, each a column, day after day."""
    waves = torch.sin(torch.arange(rows)[:, None] * torch.tensor([0.9, 0.4, 0.7])[:columns])
    noise = 0.1 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["when", *("abc"[:columns])])
        for i, values in enumerate((waves + noise).tolist()):
            out.writerow([datetime(2020, 1, 1) + i * step, *(round(v, 4) for v in values)])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a CSV file of the user's, made with NLinear."""
    folder = tmp_path_factory.mktemp("forecast")
    data = table(folder / "waves.csv")
    said = {
        "data": f"csv:{data}", "columns": "b,a", "lookback": 30, "horizon": 5, "season": 7, "model": "nlinear",
        "epochs": 2,
    }  # fmt: skip
    return Path(execute(example, Options(out=str(folder / "runs"), quiet=True), said)["run"])


# -- splits -------------------------------------------------------------------------------------------------


def test_windows_are_all_there_and_no_target_is_in_two_splits() -> None:
    data = cut(load("el-nino"), 36, 12)
    rows = data.series.table.values[:, 0].float()
    assert len(rows) == 61 * 12
    assert [len(data.train), len(data.valid), len(data.test)] == [439 - 47, 146 - 11, 147 - 11]
    begins = (36, 439, 585)
    for split, begin in zip((data.train, data.valid, data.test), begins, strict=True):
        last = len(split) - 1
        assert torch.equal(split.targets[0, 0], rows[begin : begin + 12])
        assert torch.equal(split.in_memory()[last, 0], rows[begin + last - 36 : begin + last])
        assert torch.equal(split[last].values, split.in_memory()[last])
    assert data.mean.item() == pytest.approx(rows[:439].mean().item())


def test_el_nino_is_what_statsmodels_ships() -> None:
    datasets = pytest.importorskip("statsmodels.datasets", reason="the extra series is not installed")
    from statsmodels.datasets import elnino

    assert datasets
    theirs = elnino.load_pandas().data.to_numpy()[:, 1:].flatten()
    assert load("el-nino").table.values[:, 0].tolist() == theirs.tolist()


@pytest.mark.parametrize(("name", "step", "season"), [("co2", "1 week", 52), ("sunspots", "1 step", 11)])
def test_series_of_statsmodels(name: str, step: str, season: int) -> None:
    pytest.importorskip("statsmodels", reason="the extra series is not installed")
    series = load(name)
    assert (str(series.table.step), series.season) == (step, season)
    assert torch.isfinite(series.table.values).all()


def test_the_standard_split_of_ett(tmp_path: Path) -> None:
    path = table(tmp_path / "ETTh1.csv", 14_500, HOUR, 1)
    data = cut(load(f"ett:{path}"), 336, 96)
    assert [len(data.train), len(data.valid), len(data.test)] == [8209, 2785, 2785]
    assert data.test.moments[-1] == datetime(2020, 1, 1) + 14_399 * HOUR


# -- baselines ----------------------------------------------------------------------------------------------


def test_ridge_without_penalty_is_least_squares_and_the_season_is_that_before() -> None:
    data = cut(load("synthetic"), 24, 12)
    weights, penalty = baselines.ridge(data)
    train = data.train.scaled(data.mean, data.std)
    x, y = ((part - train.in_memory()[..., -1:]).flatten(0, 1) for part in (train.in_memory(), train.targets))
    expected = torch.linalg.solve((x.T @ x).double() + penalty * torch.eye(24).double(), (x.T @ y).double()).T
    assert torch.allclose(weights.double(), expected, atol=1e-4)
    naive = baselines.seasonal_naive(data.test, 8)
    history = data.test.in_memory()
    assert torch.equal(naive[..., :8], history[..., -8:])
    assert torch.equal(naive[..., 8:], history[..., -8:-4])


def test_ets_forecasts_as_statsmodels_does() -> None:
    pytest.importorskip("statsmodels", reason="the extra series is not installed")
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    data = cut(load("el-nino"), 36, 24)
    known = data.series.table.values[: data.series.borders[1], 0].numpy()
    model = ETSModel(known, trend="add", damped_trend=True, seasonal="add", seasonal_periods=12)
    found = baselines.ets(data)
    assert found is not None
    assert found.shape == data.test.targets.shape
    assert found[0, 0].tolist() == pytest.approx(model.fit(disp=False).forecast(24).tolist(), abs=1e-3)


def test_the_best_possible_forecast_of_made_up_data_beats_all() -> None:
    data = prepare(ForecastConfig.tiny())
    best = torch.stack([data.series.best(data.series.borders[1] + i, 8) for i in range(len(data.test))])
    error = (best - data.test.targets).abs().mean()
    assert (
        error
        < (baselines.apply_ridge(baselines.ridge(data)[0], data.test.in_memory()) - data.test.targets).abs().mean()
    )


# -- models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.NAMES)
def test_every_network_starts_as_ridge_regression(name: str) -> None:
    x, weights = torch.randn(5, 3, 20), torch.randn(4, 20)
    network = models.build(name, weights, width=8, layers=1).eval()
    out = network(x)
    assert out.shape == (5, 3, 4, len(LEVELS))
    assert torch.allclose(out[..., models.MIDDLE], baselines.apply_ridge(weights, x), atol=1e-5)


def test_bands_are_in_order_and_follow_the_unit_of_the_data() -> None:
    core = models.build("nlinear", torch.randn(4, 20))
    torch.nn.init.normal_(core.bands)
    x = torch.randn(2, 3, 20)
    out = models.Deployed(core, torch.zeros(3), torch.ones(3))(x)
    assert (out.diff(dim=-1) >= 0).all()
    scaled = models.Deployed(core, torch.full((3,), 100.0), torch.full((3,), 10.0))(100 + 10 * x)
    assert torch.allclose(scaled, 100 + 10 * out, atol=1e-3)


def test_conformal_bands_cover_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    came = torch.randn(4000, 1, 3, generator=generator) * 3
    narrow = torch.distributions.Normal(0, 1).icdf(torch.tensor(LEVELS)).expand(4000, 1, 3, -1)
    stretch = models.conformal(narrow[:2000], came[:2000])
    assert stretch.flatten().tolist() == pytest.approx([3, 3, 3, 3, 1, 3, 3, 3, 3], rel=0.1)
    half = narrow[0, 0, 0, -1] * stretch[0, 0]
    assert (came[2000:].abs() <= half).double().mean().item() == pytest.approx(0.8, abs=0.02)


def test_measures_of_a_perfect_and_of_a_known_forecast() -> None:
    came = torch.randn(7, 2, 3)
    perfect = Curve(("a", "b"), 3).measure(came.unsqueeze(-1).expand(-1, -1, -1, len(LEVELS)), came)
    assert perfect.values == {"mse": 0, "mae": 0, "crps": 0, "coverage_80": 1}
    far = Curve(("a", "b"), 3).measure((came + 1).unsqueeze(-1).expand(-1, -1, -1, len(LEVELS)), came).values
    # The pinball loss of a forecast that is 1 too high is 1 - level, and twice its mean over the levels is 1.
    assert (far["mse"], far["mae"], far["crps"]) == pytest.approx((1, 1, 1))
    assert far["coverage_80"] == 0


def test_skill_has_an_interval_that_tells_better_from_equal() -> None:
    errors = torch.rand(200, 1, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    half = scores.skill_of(0.5 * errors, errors)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    shuffled = scores.skill_of(errors.flip(0), errors)
    assert shuffled.low is not None
    assert shuffled.high is not None
    assert shuffled.low < 0 < shuffled.high
    assert scores.skill_of(errors[:10], errors[:10]).low is None
    assert "does not beat ridge regression beyond doubt" in scores.verdict("nlinear", shuffled)
    assert "beats ridge regression" in scores.verdict("nlinear", half)


# -- the whole way ------------------------------------------------------------------------------------------


def test_a_csv_of_history_becomes_a_csv_of_quantiles(trained: Path, tmp_path: Path) -> None:
    history = table(tmp_path / "history.csv", 40)
    assert predict.main(str(trained), [str(history)], out=str(tmp_path / "out")) == 0
    (index,) = (json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines())
    with (tmp_path / "out" / index["forecast"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["column"] for row in rows] == ["b"] * 5 + ["a"] * 5
    assert rows[0]["time"] == str(date(2020, 1, 1) + timedelta(40))
    for row in rows:
        bands = [float(row[str(level)]) for level in LEVELS]
        assert bands == sorted(bands)
    waves = torch.sin(torch.arange(40, 45)[:, None] * torch.tensor([0.4, 0.9])).T.flatten()
    assert [float(row["0.5"]) for row in rows] == pytest.approx(waves.tolist(), abs=0.4)


def test_json_csv_and_a_longer_history_give_the_same(trained: Path, tmp_path: Path) -> None:
    predictor = example.load(artifact.load(trained))
    text = table(tmp_path / "history.csv", 40).read_text().splitlines()
    rows = list(csv.DictReader(text))
    value = {name: [row[name] for row in rows] for name in ("when", "a", "b")}
    value |= {name: [float(cell) for cell in value[name]] for name in "ab"}
    inputs = predictor.input
    raw = ["\n".join(text), "\n".join([text[0], *text[5:]]), json.dumps(value), "\n".join(text).replace(",", ";")]
    found = predictor.predict([inputs.decode(each.encode()) for each in raw])
    assert found[0] == found[1] == found[2] == found[3]
    assert inputs.decode(inputs.sample()).values.shape == (2, 30)


def test_the_report_begins_with_skill_and_with_ridge_regression(trained: Path) -> None:
    report = (trained / "report.html").read_text()
    assert report.index("Skill") < report.index("ridge regression") < report.index("<h2>")
    for title in (
        "Beside what is simpler",
        "Error by horizon",
        "Are the bands right?",
        "Worst windows",
        "Best windows",
    ):
        assert f"<h2>{title}</h2>" in report
    values = json.loads((trained / "result.json").read_text())["metrics"]
    assert values["n"] == 300 - 240 - 4
    assert values["skill_low"] < values["skill"] < values["skill_high"]


# -- mistakes -----------------------------------------------------------------------------------------------

DAYS = [f"2024-01-{day:02d},{day}.5" for day in range(1, 11)]


def lines(*rows: str) -> str:
    return "\n".join(["day,x", *rows])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lines(*DAYS[:4], *DAYS[6:]), "line 6: 2 rows missing between 2024-01-04"),
        (lines(*DAYS[:4], DAYS[2], *DAYS[5:]), "line 6: 2024-01-03 00:00:00 comes after 2024-01-04"),
        (lines(*DAYS[:4], *DAYS[3:]), "stands there a second time"),
        (lines(*DAYS[:5], "2024-01-05 12:00,1", "2024-01-06,1"), "are 1 day apart, but here 12 hours"),
        (lines(*DAYS[:4], "2024-01-05,", *DAYS[5:]), "line 6: column 'x' is empty"),
        (lines(*DAYS[:4], "2024-01-05,nan", *DAYS[5:]), "line 6: column 'x' is nan, not a finite number"),
        (lines(*DAYS[:4], "2024-01-05,1e39", *DAYS[5:]), "too large"),
        (lines(*DAYS[:4], "2024-01-05,mild", *DAYS[5:]), "line 6: column 'x' is 'mild', not a number"),
        (lines(*DAYS[:4], "5 January,1", *DAYS[5:]), "line 6: '5 January' is not a time"),
        (lines(*DAYS[:4], "7,1", *DAYS[5:]), "another kind of time"),
        (lines(*DAYS[:4], "2024-01-05,1,2", *DAYS[5:]), "has 3 cells, but the header has 2"),
        ("day,x,x\n" + "2024-01-01,1,2", "two columns called 'x'"),
        ("1,2\n3,4", "begins with numbers"),
        ("", "is empty"),
        ('{"x": [1, 2], "y": [1]}', "columns of different lengths"),
        ('{"x": 1}', "is no table"),
    ],
)  # fmt: skip
def test_a_wrong_table_gets_its_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_table(text, "It")
    assert said in error.value.what
    assert "\n" not in error.value.what


@pytest.mark.parametrize(
    ("times", "step", "after"),
    [
        (["2024-01", "2024-02", "2024-03"], Step("months", 1), "2024-04"),
        (["2024-01-31", "2024-02-29", "2024-03-31"], Step("month ends", 1), "2024-04-30"),
        (["1999", "2001", "2003"], Step("count", 2), "2005"),
        (["2024-01-01", "2024-01-08", "2024-01-15"], Step("seconds", 604_800), "2024-01-22"),
        (["2024-01-01 00:00", "2024-01-01 00:15", "2024-01-01 00:30"], Step("seconds", 900), "2024-01-01 00:45:00"),
        (["2020-01-01", "2021-01-01", "2022-01-01"], Step("months", 12), "2023-01"),
    ],
)
def test_steps_are_found_and_go_on(times: list[str], step: Step, after: str) -> None:
    found = read_table("\n".join(["date,x", *(f"{time},1" for time in times)]), "It")
    assert found.step == step
    kind = HistoryInput(("x",), 3, "date", step.unit, step.every, (1.0, 1.0, 1.0), times[-1])
    text = "\n".join(["date,x", *(f"{time},1" for time in times)])
    assert kind.times(kind.decode(text.encode()), 1) == [after]


def test_a_history_that_does_not_fit_the_model_is_refused() -> None:
    kind = HistoryInput(("x",), 4, "day", "seconds", 86_400, (1.0, 2.0, 3.0, 4.0), "2024-01-04")
    for text, said in (
        (lines(*DAYS[:3]), "has 3 rows, but the model looks back at 4"),
        ("day,y\n2024-01-01,1", "has no column 'x'"),
        (
            lines(*(f"2024-01-01 {hour:02d}:00,1" for hour in range(5))),
            "1 hour apart; the model was trained on rows 1 day",
        ),
    ):
        with pytest.raises(UserError) as error:
            kind.decode(text.encode(), "It")
        assert said in error.value.what
    assert kind.decode(b"x\n1\n2\n3\n4\n5").values.tolist() == [[2, 3, 4, 5]]  # without times


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"data": "csv:FLAT"}, "Column 'a' is constant over the"),
        ({"data": "csv:FILE", "columns": "a,z"}, "has no column 'z'"),
        ({"data": "csv:FILE", "lookback": 300}, "are too few to look 300 rows back"),
        ({"data": "csv:FILE", "season": 99}, "--season 99 is longer than --lookback"),
        ({"data": "csv:nowhere.csv"}, "Can't read nowhere.csv"),
        ({"data": "ett:FILE"}, "ETT's are 1 hour or 15 minutes"),
        ({"data": "el-nino", "time": "day"}, "--time and --columns are for"),
        ({"data": "el-nino", "model": "lstm", "width": 6}, "must be a multiple of 4"),
    ],
)
def test_mistakes_leave_nothing_behind(said: dict[str, str], problem: str, tmp_path: Path) -> None:
    path = table(tmp_path / "waves.csv")
    flat = tmp_path / "flat.csv"
    flat.write_text("when,a\n" + "\n".join(f"{i},1" for i in range(200)))
    said = {k: v.replace("FILE", str(path)).replace("FLAT", str(flat)) if k == "data" else v for k, v in said.items()}
    with pytest.raises(UserError) as error:
        execute(example, Options(out=str(tmp_path / "runs"), quiet=True), said)
    assert problem in error.value.what
    assert not (tmp_path / "runs").exists()


# -- the page -----------------------------------------------------------------------------------------------


def test_the_page_draws_a_fan_for_what_is_typed_and_says_what_is_wrong(browser: Any, trained: Path) -> None:
    trouble: list[str] = []
    with ThreadPoolExecutor(1) as decoders, served(load_models([f"waves={trained}"], decoders)) as url:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(url)
        fan = page.get_by_role("img", name="Forecast of b")
        fan.wait_for()
        assert fan.locator("path").count() == 6  # four bands, what was known, the median
        page.get_by_label("Column").select_option("a")
        page.get_by_role("img", name="Forecast of a").wait_for()
        field = page.locator("#history")
        field.fill(field.input_value() + "\n2020-10-27,mild,1")
        page.get_by_role("alert").get_by_text("is 'mild', not a number").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert trouble == []
