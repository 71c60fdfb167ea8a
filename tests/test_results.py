"""What was measured is in results/*.json, each field with its type, and the pages say what the files say."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from tests import results
from tests.bench import __main__ as program
from tests.bench.tools import BENCHES, Bench, missing
from tests.gpu import report
from tests.helpers import ROOT
from tests.results import Figure, Row, mean_of, median_of


@pytest.fixture(scope="module")
def benchmarks() -> dict[str, results.Benchmark]:
    return results.read_all()


def test_every_file_is_complete(benchmarks: dict[str, results.Benchmark]) -> None:
    assert len(benchmarks) > 30  # an empty folder would agree with anything
    titles = [benchmark.title for benchmark in benchmarks.values()]
    assert len(titles) == len(set(titles)), "links to headings need one each"
    for name, benchmark in benchmarks.items():
        assert benchmark.rows, name
        for row in benchmark.rows:
            assert row.figures or row.note, f"{name}: {row.what}: what was not measured says why"
            assert (row.by == "published") == bool(row.source), f"{name}: {row.what}"
            assert row.by == "published" or not row.seeds or row.n is not None, f"{name}: {row.what}"


def test_files_are_of_benchmarks_as_they_are_declared(benchmarks: dict[str, results.Benchmark]) -> None:
    known = benchmarks.keys() & BENCHES.keys()
    assert len(known) > 20
    for name in known:
        told, declared = benchmarks[name], BENCHES[name]
        assert (told.subject, told.title, told.command) == (declared.subject, declared.title, declared.command)
    for name, told in benchmarks.items():
        word = told.command.partition("python -m tests.bench ")[2].partition(" ")[0]
        assert not word or word in BENCHES, f"{name}: there is no benchmark {word}"


def test_the_pages_are_made_from_the_files(benchmarks: dict[str, results.Benchmark]) -> None:
    assert results.page(benchmarks) == results.PAGE.read_text(encoding="utf-8"), "run `make results`"
    readme = results.README.read_text(encoding="utf-8")
    assert results.BEGIN + results.headlines(benchmarks) + results.END in readme, "run `make results`"


# Rows of tables in docs/applications.md: how they begin there, and what the benchmark calls them.
WALL = {
    "linear model": "20 blocks of time, linear model",
    "MLP, the default": "20 blocks of time",
    "FT-Transformer": "20 blocks of time, FT-Transformer",
    "gradient-boosted trees": "20 blocks of time, gradient-boosted trees",
    "the trees with scikit-learn's defaults": "20 blocks of time, HistGradientBoosting's defaults",
    "split at random: linear model": "split at random, linear model",
    "split at random: MLP": "split at random",
    "split at random: gradient-boosted trees": "split at random, gradient-boosted trees",
}
XRAYS = ("whole pictures", "edges only, the middle grey", "middle only", "whole pictures, split at random")
XRAY = "{accuracy} | {Covid-19 found} | {No_findings found} | {Pneumonia found} | {heat on the edges, Covid-19}"
# What texts say of figures: a file, a sentence with figures in braces, and where those are from.
QUOTES = [
    ("README.md", "`make demo` installs {packages} packages, {disk} with CUDA's", "install", "make demo"),
    ("docs/export.md", "{time} in all instead of", "aoti-cache", "a tiny VGG, second export"),
    ("docs/serving.md", "two cores can do {at most}", "serving-bound", "ResNet-18, one thread"),
    *(("docs/applications.md", f"| {label} | {{accuracy}} |", "wall-following", what) for label, what in WALL.items()),
    *(("docs/applications.md", f"| {what} | {XRAY} |", "xray", what) for what in XRAYS),
]


@pytest.mark.parametrize(("file", "sentence", "name", "what"), QUOTES)
def test_texts_say_what_was_measured(
    file: str, sentence: str, name: str, what: str, benchmarks: dict[str, results.Benchmark]
) -> None:
    row = next(row for row in benchmarks[name].rows if row.what == what)
    text = " ".join((ROOT / file).read_text(encoding="utf-8").split())
    assert results.filled(sentence, row) in text


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(99.538, "%", 2, 0.3214), "99.54 ± 0.32 %"),
        (Figure(80.62, "%", 2, 0.0), "80.62 ± 0.00 %"),
        (Figure(-78.7, "", 1, 0.9), "−78.7 ± 0.9"),
        (Figure(75446.0, "", 0), "75,446"),
        (Figure(7e-6, ""), "7e-06"),
        (Figure(None, "s"), "not measured"),
        (Figure(98.9, "%", 1, range=[96.3, 103.1]), "98.9 % (96.3 to 103.1)"),
        (mean_of([1.0, 2.0, 3.0], "s", 1), "2.0 ± 1.0 s (1.0, 2.0, 3.0)"),
        (mean_of([1.0], "s", 1), "1.0 s"),
        (median_of([5.0, 1.0, 2.0, 3.0, 4.0, 9.0], "s", 0), "4 s (1 to 9)"),
    ],
)
def test_a_figure_reads_well(figure: Figure, text: str) -> None:
    assert figure.text() == text


def test_a_row_says_of_how_many_runs_it_is() -> None:
    assert Row("", {}, n=3, seeds=[0, 1, 2]).runs() == "mean of 3, seeds 0 to 2"
    assert Row("", {}, n=2, seeds=[0, 2]).runs() == "mean of 2, seeds 0, 2"
    assert Row("", {}, n=1, seeds=[100]).runs() == "once, seed 100"
    assert Row("", {}, statistic="median", n=10).runs() == "median of 10"
    assert Row("", {}, statistic="count", n=20000).runs() == "of 20,000"
    assert Row("", {}).runs() == "not recorded"
    assert Row("", {}, "published", source="Wang 2012").runs() == "Wang 2012"


# --- measuring --------------------------------------------------------------------------------------------


def made_up(options: argparse.Namespace) -> Iterator[Row]:
    yield Row("ours", {"accuracy": mean_of([90.0, 91.0], "%", 1)}, n=2, seeds=[0, 1], command="python -m x")
    yield missing("theirs", "--peer names no checkout")
    if options.peer:
        raise RuntimeError("the peer fails")


def test_what_a_benchmark_measures_is_a_file_that_the_page_is_made_of(tmp_path: Path) -> None:
    bench = Bench("x", "A subject of its own", "X", made_up, "--peer CHECKOUT")
    path = bench.record(argparse.Namespace(peer=None), tmp_path)
    found = results.read_all(tmp_path)
    assert path.name == "x.json"
    assert found["x"].rows == list(made_up(argparse.Namespace(peer=None)))
    assert found["x"].versions.keys() >= {"python", "torch"}
    text = results.page(found)
    assert "## A subject of its own\n" in text
    assert "| ours | 90.5 ± 0.7 (90.0, 91.0) | mean of 2, seeds 0, 1 |" in text
    assert "| *peer:* theirs | – | – | not measured: --peer names no checkout | – |" in text
    assert "Again: `python -m tests.bench x --peer CHECKOUT`" in text
    assert "Not measured here yet" in text  # there is no file of a GPU

    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="the peer fails"):
        bench.record(argparse.Namespace(peer="there"), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"date": "yesterday"}, "x.json: date: 'yesterday' is none"),
        ({"rows": "none"}, "x.json: rows: "),
        ({"surprise": 1}, "x.json: not every field is there, or there are others"),
        ({"note": None}, "x.json: note: "),
    ],
)
def test_a_file_with_a_wrong_field_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = Bench("x", "S", "X", made_up).record(argparse.Namespace(peer=None), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        results.read(path)


def test_a_file_without_a_field_is_refused(tmp_path: Path) -> None:
    path = Bench("x", "S", "X", made_up).record(argparse.Namespace(peer=None), tmp_path)
    whole = json.loads(path.read_text())
    for broken in (
        {key: value for key, value in whole.items() if key != "hardware"},
        {**whole, "rows": [{key: value for key, value in whole["rows"][0].items() if key != "seeds"}]},
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(UserError, match=r"x\.json: "):
            results.read(path)


def test_an_unknown_benchmark_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["digit", "--results", str(tmp_path)])
    assert "digit: there is no such benchmark" in capsys.readouterr().err


def test_parts_of_make_gpu_are_files_too(tmp_path: Path) -> None:
    line = {"unit": "images/s", "n": 3, "command": "python -m y", "note": ""}
    figures = [
        {**line, "figure": "vgg: fit", "value": 2.5},
        {**line, "figure": "vgg: bare", "value": "nan"},
        {**line, "figure": "vgg: fit of bare", "value": 1.02, "unit": "×", "note": "1.00–1.05"},
    ]
    parts = [{"part": "small", "figures": figures}, {"part": "smoke x", "figures": []}]
    found = {"parts": parts, "device": "NVIDIA", "cpu": "AMD", "date": "2026-11-27 01:02", "cuda": "13.0"}
    report.record({**found, "versions": {"torch": "2"}, "load": 0.5}, tmp_path)
    read = results.read_all(tmp_path)
    assert list(read) == ["gpu-small"]
    row = read["gpu-small"].rows[0]
    assert (row.what, row.statistic, row.n, row.note) == ("vgg", "median", 3, "fit of bare 1.00–1.05")
    assert row.figures["bare"].value is None
    assert "Not measured here yet" not in results.page(read)
