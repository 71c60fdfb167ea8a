"""research.tabular: rows and their mistakes, the splits, what usually wins, what a column says."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.kinds.number import Number
from common.kinds.record import Column, RecordInput
from common.predict import __main__ as predict
from common.serve.explain import Explainer
from common.serve.models import load_models
from research.tabular import baselines, folds, models, scores
from research.tabular.__main__ import TabularConfig, example, prepare
from research.tabular.folds import Folds, divide
from research.tabular.tables import WALL_FILE, Asked, Table, load_table
from tests.page_helpers import served

NUMBERS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
AGE = Column("age", (), False, NUMBERS, 5.0)
PAY = Column("pay", (), True, NUMBERS, 5.0)
TOWN = Column("town", ("Bonn", "Köln"), True, (0.25, 0.75), 1.0)
ROW = RecordInput((AGE, PAY, TOWN), ("owner",))


def houses(path: Path, rows: int = 200, **columns: Any) -> Path:
    """A CSV of houses whose price is known but for noise; `columns` adds some, each a function of the row's number."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["street", "size", "age", "heating", "price", *columns])
        for i in range(rows):
            size, age, heating = draw.uniform(50, 150), draw.randrange(80), draw.choice(["gas", "heat pump", "oil"])
            price = 1000 * size + (40_000 if heating == "heat pump" else 0) + draw.gauss(0, 3000)
            gap = "" if draw.random() < 0.2 else age
            more = [make(i) for make in columns.values()]
            out.writerow([f"street {i // 5}", round(size, 1), gap, heating, round(price), *more])
    return path


def load(path: Path, task: str | None = None, **asked: str) -> Table:
    return load_table(f"csv:{path}", data_dir=None, asked=Asked(**asked), task=task, seed=0)


def named(name: str, task: str | None = None) -> Table:
    return load_table(name, data_dir=None, asked=Asked(), task=task, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a CSV file of the user's, which predicts a quantity."""
    folder = tmp_path_factory.mktemp("tabular")
    said = {"data": f"csv:{houses(folder / 'houses.csv')}", "target": "price", "drop": "street", "epochs": 60}
    return Path(execute(example, Options(out=str(folder / "runs"), quiet=True), said)["run"])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classifier")
    said = {"data": "wine", "epochs": 12, "model": "ft-transformer", "width": 16, "layers": 1}
    return Path(execute(example, Options(out=str(out), quiet=True), said)["run"])


# -- rows ---------------------------------------------------------------------------------------------------


def test_json_lists_and_lines_are_the_same_row() -> None:
    expected = [3.5, math.nan, 1.0]
    for raw in (
        '{"town": "Köln", "age": 3.5, "pay": null}', '{"age": "3.5", "pay": "NA", "town": "Köln", "owner": "me"}',
        '[3.5, null, "Köln"]', "3.5,,Köln", "3.5; ; Köln",
    ):  # fmt: skip
        assert np.array_equal(ROW.decode(raw.encode()).numpy(), expected, equal_nan=True), raw
    read, header = ROW.lines(["town", "owner", "pay", "age"])
    assert header
    assert np.array_equal(ROW.decode(read(["Köln", "me", "?", "3.5"])).numpy(), expected, equal_nan=True)
    assert not ROW.lines(["3.5", "", "Köln"])[1]
    assert RecordInput.from_json(json.loads(json.dumps(ROW.to_json()))) == ROW
    assert ROW.decode(ROW.sample()).tolist() == [5, 5, 1]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('{"age": "old", "pay": 1, "town": "Bonn"}', "It: column 'age' is 'old', not a number"),
        ('{"age": true, "pay": 1, "town": "Bonn"}', "column 'age' is True, not a number"),
        ('{"age": Infinity, "pay": 1, "town": "Bonn"}', "column 'age' is inf; only finite numbers"),
        ('{"age": null, "pay": 1, "town": "Bonn"}', "column 'age' is empty, which it never was in training"),
        ('{"age": NaN, "pay": 1, "town": "Bonn"}', "column 'age' is empty, which it never was in training"),
        ('{"age": 1, "pay": 1, "town": "Kölln"}', "column 'town' is 'Kölln', a category that training never saw"),
        ('{"age": 1, "pay": 1, "town": ["Bonn"]}', "column 'town' is ['Bonn'], not a text"),
        ('{"age": 1, "pay": 1}', "lacks 1 of 3 columns: 'town'"),
        ('{"age": 1, "pay": 1, "towns": "Bonn"}', "has an unknown column 'towns'"),
        ("1,2", "has 2 values; the model takes 3"),
        ("", "has 0 values"),
        ("[1, 2", "is not valid JSON"),
    ],
)
def test_a_wrong_row_gets_its_one_line(raw: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        ROW.decode(raw.encode(), "It")
    assert said in error.value.what
    assert "\n" not in error.value.what


def test_a_damaged_description_of_rows_is_refused() -> None:
    good = ROW.to_json()
    for bad in (
        {"kind": "record"}, good | {"columns": []}, good | {"columns": [1]}, good | {"ignored": [1]},
        good | {"columns": [{**good["columns"][2], "points": [1.0]}]},
        good | {"columns": [{**good["columns"][2], "usual": 7}]}, good | {"columns": [{"name": "age"}]},
    ):  # fmt: skip
        with pytest.raises((UserError, IndexError)):
            RecordInput.from_json(bad)


# -- tables -------------------------------------------------------------------------------------------------


def test_a_csv_file_becomes_numbers_categories_and_gaps(tmp_path: Path) -> None:
    table = load(houses(tmp_path / "h.csv"), target="price", group="street")
    assert (table.names, table.categories) == (["size", "age", "heating"], [(), (), ("gas", "heat pump", "oil")])
    assert (table.classes, table.ignored) == ([], ("price", "street"))
    assert bool(table.values[:, 1].isnan().any())
    assert not bool(table.values[:, [0, 2]].isnan().any())
    codes = load(houses(tmp_path / "i.csv", code=lambda i: i % 7), target="price", drop="street", categories="code")
    assert codes.categories[-1] == tuple("0123456")


@pytest.mark.parametrize(
    ("columns", "asked", "said"),
    [
        ({"flat": lambda i: 7}, {}, "Column 'flat' is constant"),
        ({"void": lambda i: ""}, {}, "Column 'void' is empty"),
        ({"floors": lambda i: "two" if i == 8 else 1 + i % 3}, {}, "line 10: column 'floors' is 'two', but nearly all"),
        ({"x": lambda i: "inf" if i == 8 else i}, {}, "h.csv line 10: column 'x' is 'inf'; only finite numbers"),
        ({"note": lambda i: f"text {i}"}, {}, "Column 'note' of h.csv holds 200 different texts"),
        ({"cost": lambda i: i}, {"target": "cost", "task": "classification"}, "has 200 different values in 200 rows"),
        ({"sold": lambda i: "" if i == 8 else i}, {"target": "sold"}, "line 10: the target 'sold' is empty"),
        ({"sold": lambda i: "yes"}, {"target": "sold"}, "The target 'sold' is always 'yes'"),
        (
            {"sold": lambda i: "ny"[i % 2], "label": lambda i: "01"[i % 2]}, {"target": "sold"},
            "Column 'label' is the target 'sold' under another name",
        ),
        (
            {"euros": lambda i: 1.5 * i * i, "cents": lambda i: 150 * i * i + 3}, {"target": "euros"},
            "Column 'cents' is the target 'euros' under another name",
        ),
        ({}, {"target": "prize"}, "has no column 'prize'"),
        ({}, {"drop": "price"}, "Column 'price' is named twice"),
        ({}, {"target": ""}, "needs --target COLUMN"),
        ({"day": lambda i: "Monday"}, {"time": "day"}, "line 2: column 'day' is 'Monday', which is no time"),
        ({"day": lambda i: 3 if i else "2024-01-01"}, {"time": "day"}, "holds several kinds of time"),
    ],
)  # fmt: skip
def test_a_wrong_table_gets_its_one_line(
    columns: dict[str, Any], asked: dict[str, str], said: str, tmp_path: Path
) -> None:
    path = houses(tmp_path / "h.csv", **columns)
    asked = {"target": "price", "drop": "street", **asked}
    with pytest.raises(UserError) as error:
        load(path, **asked)
    assert said in error.value.what
    assert "\n" not in error.value.what


def test_rows_in_the_order_of_a_column_of_times(tmp_path: Path) -> None:
    path = houses(tmp_path / "h.csv", day=lambda i: f"2024-01-{30 - i % 30:02d}", number=lambda i: i)
    table = load(path, target="price", drop="street", time="day")
    days = 30 - table.values[:, -1] % 30
    assert table.ordered
    assert bool((days.diff() >= 0).all())
    assert divide(table, "blocked", 0).split == "blocked"


def test_the_robots_file_with_and_without_a_header(tmp_path: Path) -> None:
    draw = random.Random(0)
    names = ("Move-Forward", "Sharp-Right-Turn")
    rows = [",".join([*(f"{draw.random():.3f}" for _ in range(24)), names[i // 7 % 2]]) for i in range(400)]
    (tmp_path / WALL_FILE).write_text("\n".join(rows))
    data = prepare(TabularConfig(data="uci:wall-following", data_dir=str(tmp_path)).resolve())
    (tmp_path / WALL_FILE).write_text("\n".join([",".join([*(f"S{i}" for i in range(1, 25)), "OUTPUT"]), *rows]))
    again = prepare(TabularConfig(data="uci:wall-following", data_dir=str(tmp_path)).resolve())
    assert data.split == "blocked"
    assert torch.equal(data.test.features, again.test.features)
    # Blocks of 20 rows, of which every fifth is for the test.
    assert data.parts[2].tolist() == [i for i in range(400) if i // 20 % 5 == 4]
    assert data.inputs.ignored == ("OUTPUT",)
    with pytest.raises(UserError, match="There is no sensor_readings_24"):
        prepare(TabularConfig(data="uci:wall-following", data_dir=str(tmp_path / "none")).resolve())


# -- splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", folds.NAMES)
def test_every_row_is_in_one_split_and_no_group_in_two(split: str, tmp_path: Path) -> None:
    table = load(houses(tmp_path / "h.csv"), target="price", group="street")
    data = divide(table, split, 0)
    assert torch.cat(data.parts).sort().values.tolist() == list(range(200))
    assert [len(part) for part in data.parts] == pytest.approx([120, 40, 40], abs=5)
    assert table.groups is not None
    where = [{table.groups[i] for i in part.tolist()} for part in data.parts]
    if split == "grouped":
        assert not where[0] & where[1] | where[0] & where[2] | where[1] & where[2]
        assert len(data.units.unique()) == len(where[2])
    if split == "random":
        assert where[0] & where[2]


def table_of(values: list[list[float]], target: list[int], classes: int = 2, **more: Any) -> Table:
    columns = len(values[0])
    return Table(
        [f"x{i}" for i in range(columns)], torch.tensor(values).double(), [()] * columns, torch.tensor(target), "y",
        [f"class {i}" for i in range(classes)], "made up", **more,
    )  # fmt: skip


def test_one_class_in_a_fold_and_one_without_training_rows_are_refused() -> None:
    rows = [[float(i), float(i % 3)] for i in range(200)]
    with pytest.raises(UserError, match=r"The validation split has only one class, 'class 0'"):
        divide(table_of(rows, [int(i // 10 % 5 == 0) for i in range(200)], ordered=True), "blocked", 0)
    with pytest.raises(UserError, match=r"No training row is of class 'class 2', which 10 others are"):
        target = [2 if 90 <= i < 100 else i % 2 for i in range(200)]
        divide(table_of(rows, target, 3, ordered=True), "blocked", 0)
    with pytest.raises(UserError, match="The table has 20 rows"):
        divide(table_of(rows[:20], [0, 1] * 10), "random", 0)
    with pytest.raises(UserError, match="needs --group"):
        divide(table_of(rows, [0, 1] * 100), "grouped", 0)


def test_what_training_never_saw_is_a_gap_and_said() -> None:
    rows = [[float(i % 3), float(2 if 90 <= i < 100 else i % 2)] for i in range(200)]
    table = table_of(rows, [i % 2 for i in range(200)], ordered=True)
    table.categories[1] = ("a", "b", "c")
    data = divide(table, "blocked", 0)
    assert data.notes == ["10 rows have a 'x1' that no training row has: it counts as a gap"]
    assert data.inputs.columns[1].gaps
    assert not bool(data.train.features.isnan().any())
    assert "c" in data.inputs.columns[1].categories


def test_rows_that_stand_in_training_too_are_said() -> None:
    data = divide(
        table_of([[float(i % 4), 0.5 * (i % 2)] for i in range(200)], [i % 2 for i in range(200)]), "random", 0
    )
    assert data.notes == ["40 of 40 test rows stand among the training rows too, which makes them easy"]


# -- models -------------------------------------------------------------------------------------------------


def test_piecewise_linear_encoding_is_that_of_the_paper() -> None:
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] = (x[:, 1] > 0).float()  # two values have one bin
    encode = models.PiecewiseLinear(2, 4)
    encode.fit(x)
    edges = np.quantile(x[:, 0].double().numpy(), [0, 0.25, 0.5, 0.75, 1])
    for value in (-0.3, 0.2, float(edges[2])):
        found = encode(torch.tensor([[value, 1.0]]))
        expected = [np.clip((value - low) / (high - low), 0, 1) for low, high in itertools.pairwise(edges)]
        assert found[0, 0, :4].tolist() == pytest.approx(expected, abs=1e-5)
        assert found[0, 0, 4].item() == pytest.approx(((value - x[:, 0].mean()) / x[:, 0].std(correction=0)).item())
        assert found[0, 1, :4].tolist() == [1, 0, 0, 0]
    far = encode(torch.tensor([[1e9, 1e9], [-1e9, -1e9]]))
    assert far[0, 0].tolist() == pytest.approx([1, 1, 1, 2, 5])
    assert far[1, 0].tolist() == pytest.approx([-1, 0, 0, 0, -5])
    gap = encode(torch.tensor([[math.nan, math.nan]]))[0, 0, :4]
    assert gap.tolist() == pytest.approx([1, 1, 0, 0], abs=0.02)  # where the median stands


def test_numbers_categories_and_gaps_have_embeddings_of_their_own() -> None:
    embedding = models.Embedding([0, 3, 0, 2], bins=4, width=5)
    embedding.encode.fit(torch.randn(50, 2))
    torch.nn.init.normal_(embedding.gap)
    rows = torch.tensor([[0.1, 2, 0.2, 0], [0.1, math.nan, math.nan, 1]])
    out = embedding(rows)
    assert out.shape == (2, 4, 5)
    table = embedding.category.weight
    assert torch.equal(out[0, 2:], table[[3, 5]])  # column 1: a row for gaps, then three; column 3 begins after them
    assert torch.equal(out[1, 2:], table[[0, 6]])
    assert torch.equal(out[0, 0], out[1, 0])
    filled = embedding(torch.tensor([[0.1, 2, float(embedding.encode.middle[1]), 0]]))
    assert torch.allclose(out[1, 1], filled[0, 1] + embedding.gap[1])


def test_members_share_their_weights_and_are_averaged_as_probabilities() -> None:
    layer = models.Members(3, 4, 5, first=True)
    x = torch.randn(2, 3, 4)
    one = (layer.linear(x[:, 1] * layer.scale_in[1])) * layer.scale_out[1] + layer.shift[1]
    assert torch.allclose(layer(x)[:, 1], one)
    assert set(layer.scale_in.unique().tolist()) == {-1, 1}
    outputs = torch.randn(2, 3, 4)
    assert torch.allclose(models.together(outputs).exp(), outputs.softmax(-1).mean(1), atol=1e-6)
    mine = models.loss_of(outputs, torch.tensor([1, 2]))
    apart = torch.stack([torch.nn.functional.cross_entropy(outputs[:, m], torch.tensor([1, 2])) for m in range(3)])
    assert torch.allclose(mine, apart.mean())


def test_a_band_holds_its_share() -> None:
    errors = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    half = models.half_width(errors[:2000])
    assert (errors[2000:].abs() <= half).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert models.half_width(torch.tensor([1.0, -3.0])) == 3


# -- measuring ----------------------------------------------------------------------------------------------


def test_numbers_are_measured_as_scikit_learn_does() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(50, generator=generator)
    said = true + 0.3 * torch.randn(50, generator=generator)
    found = Number(("y",)).measure(torch.stack([said, said - 0.3, said + 0.3], dim=1), true).values
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(true, said))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(true, said))
    assert found["r2"] == pytest.approx(sk.r2_score(true, said))
    assert found["coverage_80"] == pytest.approx(((true - said).abs() <= 0.3).float().mean().item())
    flat = Number(("y",)).measure(torch.ones(3, 3), torch.ones(3))
    assert "r2" not in flat.values
    assert flat.notes


def folds_of(name: str, task: str | None = None) -> Folds:
    return divide(named(name, task), "random", 0)


def test_rivals_are_scikit_learns_on_the_same_rows() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    data = folds_of("wine")
    _, said = baselines.boosting(data)
    x, y = data.train.features.double().numpy(), data.train.targets.numpy()
    losses = []
    for settings in baselines.BOOSTED:
        model = HistGradientBoostingClassifier(max_iter=200, early_stopping=False, random_state=0, **settings).fit(x, y)
        losses.append((said.exp() - torch.from_numpy(model.predict_proba(data.test.features.double()))).abs().max())
    assert min(losses) < 0.5
    assert (said.argmax(1) == data.test.targets).float().mean() > 0.9
    _, line = baselines.linear(data)
    assert (line.argmax(1) == data.test.targets).float().mean() > 0.9
    assert line.exp().sum(1).tolist() == pytest.approx([1] * len(line), abs=1e-4)


def test_the_paired_interval_tells_better_from_equal_and_groups_widen_it() -> None:
    data = folds_of("breast-cancer")
    right = torch.nn.functional.one_hot(data.test.targets, 2).double()
    wrong = right.clone()
    wrong[::4] = 1 - wrong[::4]
    same = scores.difference(wrong, wrong, data)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = scores.difference(right, wrong, data)
    assert better.value == pytest.approx(29 / 114)
    assert 0.15 < better.low < better.value < better.high < 0.4
    apart = scores.difference(right, wrong, Folds(**{**vars(data), "units": torch.arange(114) % 4}))
    assert apart.high - apart.low > 2 * (better.high - better.low)
    assert "can't be told apart" in scores.verdict("mlp", "trees", same, True)
    assert "mlp beats trees" in scores.verdict("mlp", "trees", better, True)
    assert "mlp is behind trees" in scores.verdict("mlp", "trees", scores.difference(wrong, right, data), True)


class Rule(torch.nn.Module):
    """Logits of one column."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x[:, self.place].nan_to_num()
        return torch.stack([torch.zeros_like(z), 100 * (z - 100)], dim=1)


def test_importance_and_dependence_find_the_column_that_counts() -> None:
    data = folds_of("synthetic")
    found = scores.importance(Rule(0), data, torch.device("cpu"))
    assert [mean for mean, _ in found[1:]] == [0, 0, 0]
    values, said = scores.dependence(Rule(0), data, 0, torch.device("cpu"))
    assert values.tolist() == sorted(values.tolist())
    assert said[:, 1].tolist() == pytest.approx([float(value > 100) for value in values])
    group, flat = scores.dependence(Rule(0), data, 3, torch.device("cpu"))
    assert group.tolist() == [0, 1, 2, 3]
    assert len(flat.unique(dim=0)) == 1


def test_a_column_that_gives_the_target_away_is_suspected() -> None:
    draw = random.Random(0)
    rows = [
        [float(i), draw.random()] for i in range(300)
    ]  # the first is the row's number, and rows are sorted by class
    reached = baselines.alone(divide(table_of(rows, [i // 100 for i in range(300)], 3), "random", 0))
    assert reached[0] > scores.GIVEN_AWAY > 0.6 > reached[1]
    assert max(baselines.alone(folds_of("breast-cancer"))) < scores.GIVEN_AWAY


# -- the whole way ------------------------------------------------------------------------------------------


def test_a_csv_of_rows_becomes_a_csv_of_numbers(trained: Path, tmp_path: Path) -> None:
    assert (
        predict.main(str(trained), lines=[str(houses(tmp_path / "more.csv", 30))], out=str(tmp_path / "out.csv")) == 0
    )
    with (tmp_path / "more.csv").open(newline="") as file:
        true = [float(row["price"]) for row in csv.DictReader(file)]
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["file"] == f"{tmp_path}/more.csv:2"
    said = [float(row["value"]) for row in rows]
    assert sk.r2_score(true, said) > 0.8
    inside = [float(r["low"]) <= t <= float(r["high"]) for r, t in zip(rows, true, strict=True)]
    assert sum(inside) >= 20


def test_the_network_learns_what_a_line_can_not_say(tmp_path: Path) -> None:
    said = {"data": "synthetic", "task": "regression", "epochs": 40}
    values = execute(example, Options(out=str(tmp_path), quiet=True), said)["metrics"]
    assert values["best_rmse"] < values["rmse"] < 0.75 * values["linear_rmse"]
    assert values["over_linear_low"] > 0


def test_the_report_begins_with_boosting_and_shows_columns(trained: Path) -> None:
    report = (trained / "report.html").read_text()
    assert report.index("gradient-boosted trees") < report.index("<h2>")
    titles = ("Beside what usually wins", "Which columns the model needs", "What a column changes",
              "Does a column give the target away?", "Predicted and true")  # fmt: skip
    for title in titles:
        assert f"<h2>{title}</h2>" in report
    values = json.loads((trained / "result.json").read_text())["metrics"]
    assert values["over_boosting"] == pytest.approx(values["boosting_rmse"] - values["rmse"])


def test_explanations_say_which_column_raises_a_price(trained: Path) -> None:
    predictor = example.load(artifact.load(trained))
    item = predictor.input.decode(b'{"size": 145, "age": 30, "heating": "oil"}')
    found = Explainer(predictor)(item)
    assert found["class"] == "price"
    said = {name: score for name, _, score in found["columns"]}
    assert said["size"] > 20_000 > abs(said["age"])
    assert said["heating"] < 0


def test_a_transformer_over_columns_is_saved_and_explained(classifier: Path) -> None:
    predictor = example.load(artifact.load(classifier))
    values = json.loads((classifier / "result.json").read_text())["metrics"]
    assert values["accuracy"] > 0.8
    (row,) = predictor.predict([predictor.input.decode(predictor.input.sample())])
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    found = Explainer(predictor)(predictor.input.decode(predictor.input.sample()), "class_2")
    assert found["class"] == "class_2"
    assert len(found["columns"]) == 13


def test_a_leaking_column_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = houses(tmp_path / "h.csv", number=lambda i: i, sold=lambda i: "yes" if i < 90 else "no")
    said = {"data": f"csv:{path}", "target": "sold", "drop": "street", "epochs": 1}
    execute(example, Options(out=str(tmp_path / "runs")), said)
    assert "column 'number' alone reaches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"data": "wine", "target": "x"}, "--target, --group, --time, --drop and --categories are for"),
        ({"data": "wine", "task": "regression"}, "--task regression does not suit wine"),
        ({"data": "csv:nowhere.csv", "target": "x"}, "Can't read nowhere.csv"),
        ({"data": "vine"}, "--data vine: unknown"),
        ({"data": "wine", "split": "grouped"}, "--split grouped needs --group"),
        ({"data": "wine", "model": "ft-transformer", "width": 6}, "must be a multiple of 4"),
        ({"data": "csv:x.csv", "target": "x", "group": "g", "split": "random"}, "asks for --split grouped"),
    ],
)
def test_mistakes_leave_nothing_behind(said: dict[str, str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        execute(example, Options(out=str(tmp_path / "runs"), quiet=True), said)
    assert problem in error.value.what
    assert not (tmp_path / "runs").exists()


# -- the page -----------------------------------------------------------------------------------------------


def test_the_page_has_sliders_choices_and_reasons(browser: Any, trained: Path, classifier: Path) -> None:
    trouble: list[str] = []
    with ThreadPoolExecutor(1) as decoders:
        loaded = load_models([f"houses={trained}", f"wine={classifier}"], decoders)
        with served(loaded) as url:
            page = browser.new_page(viewport={"width": 390, "height": 844})
            page.on("pageerror", lambda error: trouble.append(str(error)))
            page.goto(f"{url}#houses")
            word = page.locator(".word")
            page.get_by_text("80 % should lie between").wait_for()
            before = word.text_content()
            page.get_by_label("size, slider").fill("140")
            page.wait_for_function("(text) => document.querySelector('.word').textContent !== text", arg=before)
            assert page.get_by_label("size", exact=True).input_value() == "140"
            reasons = page.get_by_role("list", name="What the columns say")
            reasons.get_by_text("size = 140").wait_for()
            page.get_by_label("heating").select_option("heat pump")
            reasons.get_by_text("heating = heat pump").wait_for()
            page.get_by_label("missing").check()
            reasons.get_by_text("age = missing").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            page.goto(f"{url}#wine")
            page.get_by_role("button", name="class_2").click()
            page.get_by_text("“class_2”, by what is lost").wait_for()
    assert trouble == []
