"""Figures and report: one self-contained, safe, reproducible file that is readable in light and dark."""

from __future__ import annotations

import base64
import errno
import io
import os
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.kinds import labels
from common.kinds.labels import Labels
from common.metrics import Metrics
from common.report import frames, plots
from common.report import page as report

EVIL = '<script>alert("1")</script>'
VOID = {"meta", "img", "wbr", "br", "link", "input", "hr"}


def evaluated(names: list[str], n: int = 200) -> Metrics:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, len(names), (n,), generator=generator)
    logits = torch.randn(n, len(names), generator=generator)
    logits[torch.arange(n), targets] += 2
    return Labels(names).measure(logits, targets)


def history() -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for epoch in range(5):
        rows += [
            {"step": 10 * epoch + s, "epoch": epoch, "seconds": 0.1, "loss": 2 / (s + 1), "lr": 0.1 / (s + 1)}
            for s in (0, 5)
        ]
        rows.append({"step": 10 * epoch + 9, "epoch": epoch, "val_loss": 1.0, "val_accuracy": epoch / 5})
    return rows


def whole_page(names: list[str]) -> str:
    metrics = evaluated(names)
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sections = [
        report.figure("Training", plots.curves(history())),
        *Labels([]).sections(metrics),
        report.pictures("Mistakes", [report.Picture(image, names[0], names[1])], note=names[0]),
        report.table(names[0], [names[1], "n"], [[names[2], 3]]),
    ]
    return report.page(names[0], names[1], metrics, sections, {names[0]: names[1], "command": "python -m x & y"})


class Elements(HTMLParser):
    """Every element with its attributes; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


# --- the page ----------------------------------------------------------------------------------------------


def test_page_is_self_contained() -> None:
    html = whole_page(["a", "b", "c"])
    page = Elements(html)
    assert page.tags.count("svg") == 6  # three curves, confusion, ROC, reliability
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|@import|//[a-z]", html)
    assert all(src.startswith("data:image/") for src in page.values("src"))
    assert all(href.startswith("#") for href in page.values("href"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


@pytest.mark.parametrize("copies", [1, 3])
def test_ids_are_unique_and_references_resolve(copies: int) -> None:
    section = report.figure("Twice", [labels.confusion([[3, 1], [1, 3]], ["a", "b"]) for _ in range(copies)])
    html = report.page("t", "s", None, [section, section, *Labels([]).sections(evaluated(["a", "b"]))], {})
    ids = Elements(html).values("id")
    assert len(ids) >= 2 * copies
    assert len(set(ids)) == len(ids)
    used = set(re.findall(r"url\(#([^)]*)\)", html)) | {h[1:] for h in Elements(html).values("href")}
    assert used == set(ids)


def test_text_from_outside_is_harmless() -> None:
    names = [EVIL, '" onload="alert(1)', "--><svg onload=alert(1)>", "$\\frac{$", "</style></svg>", "猫 & co"]
    page = Elements(whole_page(names))
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("alert") >= 5  # shown as the text it is
    assert "$\\frac{$" in page.text
    assert "猫 & co" in page.text


def test_same_input_gives_same_bytes() -> None:
    assert whole_page(["a", "b", "c"]) == whole_page(["a", "b", "c"])


def test_headline_with_interval() -> None:
    metrics = Metrics(
        "accuracy", {"accuracy": 0.9917, "accuracy_low": 0.98, "accuracy_high": 0.9967, "n": 1360}, ["a note"]
    )
    text = Elements(report.page("Title", "sub", metrics, [], {"seed": "0"})).text
    for part in ("Title", "sub", "99.17%", "95 % interval98.00 – 99.67 %", "1,360", "A note.", "seed"):
        assert part in text


def test_headline_of_another_kind() -> None:
    metrics = Metrics(
        "mean_return", {"mean_return": -112.5, "roc_auc": 0.98765, "frechet_distance": 12345.6, "eps": 2e-5}
    )
    text = Elements(report.page("t", "s", metrics, [], {})).text
    for part in ("Mean return", "-112.5", "ROC AUC", "0.9877", "12,346", "2e-05"):
        assert part in text
    assert "interval" not in text
    assert Labels([]).sections(metrics) == []


def test_page_without_metrics_or_facts() -> None:
    page = Elements(report.page("t", "s", None, [report.Section("Only", "<p>body</p>", "note")], {}))
    assert "Onlynote\nbody" in page.text
    assert "details" not in page.tags


def test_table_aligns_numbers_and_prints_missing_ones() -> None:
    body = report.table("t", ["name", "f1", "on"], [["x", 0.5, True], ["y_z", None, False]]).body
    assert body.count('class="right"') == 3  # head and both cells of f1
    assert '<td class="right">0.5000</td>' in body
    assert '<td class="right">–</td>' in body
    assert "<td>yes</td>" in body
    assert "<td>y_<wbr>z</td>" in body


def test_hundreds_of_classes_stay_light_and_are_listed() -> None:
    names = [f"{i:03d}.Yellow_headed_Blackbird" for i in range(200)]
    metrics = evaluated(names, n=4000)
    images = torch.randint(0, 256, (24, 3, 224, 224), dtype=torch.uint8)  # noise: what compresses worst
    pictures = report.pictures("m", [report.Picture(image, "caption") for image in images])
    html = report.page("t", "s", metrics, [*Labels([]).sections(metrics), pictures], {})
    assert len(html) < 3_000_000
    text = Elements(html).text
    assert all(name in text for name in names)
    assert "Most frequent confusions" in text


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_evaluations_have_their_sections(n: int) -> None:
    titles = [s.title for s in Labels([]).sections(evaluated(["a", "b", "c"], n))]
    assert titles[0] == "Confusion matrix"
    assert titles[-1] == "Reliability"
    assert ("ROC curves" in titles) == (n > 1)


def test_no_tile_stands_alone_in_the_last_row() -> None:
    for count in range(1, 41):
        metrics = Metrics("a", {f"m{i}": 0.5 for i in range(count)} | {"a": 0.5})
        html = report.page("t", "s", metrics, [], {})
        found = re.search(r'class="values" style="--columns: (\d); --fewer: (\d)"', html)
        assert found
        for columns in map(int, found.groups()):
            assert count <= columns or count % columns != 1, (count, columns)


def test_names_and_settings_read_as_words() -> None:
    values: dict[str, float | int] = {"frechet_distance": 3.0, "frechet_floor": 1.0, "f1_macro": 0.5}
    settings = {"versions": {"torch": "2.14", "numpy": "2.4"}, "plan": {"channels_last": False}, "sizes": [3, 5]}
    html = report.page("t", "s", Metrics("frechet_distance", values), [], {**settings, "none": {}, "flip": True})
    text = Elements(html).text
    for part in ("Fréchet distance", "Fréchet floor", "F1 macro", "torch 2.14, numpy 2.4", "channels last no", "3, 5"):
        assert part in text
    assert not re.search(r"[{}\[\]]|True|False|None", text[text.index("The run") :])


def test_a_chart_says_what_it_shows() -> None:
    titles = [figure.axes[0].get_title("left") for figure in plots.curves([{"step": s, "q": 1.0 + s} for s in (1, 2)])]
    assert titles == ["mean action value (Q)"]


# --- writing -----------------------------------------------------------------------------------------------


def test_write_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write(path, "old")
    report.write(path, "new ü")
    assert path.read_bytes() == "new ü".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "report.html"
    report.write(path, "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(UserError, match=r"report\.html"):
        report.write(path, "new" * 100_000)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# --- figures -----------------------------------------------------------------------------------------------


def stylesheet() -> tuple[dict[str, str], dict[str, str]]:
    """The colours of light and dark mode."""
    css = Path(report.__file__).with_name("report.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    )
    return light, dark


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """Contrast ratio of WCAG 2.1, 1..21."""
    light = [np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722] for c in (a, b)]
    return float((max(light) + 0.05) / (min(light) + 0.05))


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_are_readable(mode: int) -> None:
    colours = {name: rgb(value) for name, value in stylesheet()[mode].items()}
    for text in ("ink", "muted", "accent"):
        assert contrast(colours[text], colours["paper"]) >= 4.5, text
    assert contrast(colours["second"], colours["paper"]) >= 3  # lines and bars
    for start in range(0, 100, 20):  # counts on the shades of the confusion matrix, shares of 1..100 %
        shares = range(start + 1, start + 21)
        matrix = [
            [share if j == i else 100 - share if j == i - 1 else 0 for j in range(20)] for i, share in enumerate(shares)
        ]
        axes: Any = labels.confusion(matrix, [str(i) for i in range(20)]).axes[0]
        opacity = {tuple(xy): p.get_alpha() for p in axes.patches for xy in p.get_path().vertices[::5].tolist()}
        for text in axes.texts:
            x, y = text.get_position()
            alpha = opacity[x - 0.5, y - 0.5]
            shade = alpha * colours["accent"] + (1 - alpha) * colours["paper"]
            assert contrast(colours[plots.VARIABLES[text.get_color()]], shade) >= 4.4, text


def test_figures_use_the_colours_of_the_page() -> None:
    light = stylesheet()[0]
    assert {name: light[name] for name in plots.VARIABLES.values()} == {v: k for k, v in plots.VARIABLES.items()}
    details = evaluated(["a", "b", "c", "d", "e"]).details
    figures = [
        labels.confusion(details["confusion"], details["classes"]),
        labels.roc(details["roc"]),
        labels.reliability(details["reliability"]),
        *plots.curves(history()),
    ]
    for figure in figures:
        text = plots.svg(figure)
        assert "var(--accent" in text
        assert not re.search(r"#[0-9a-f]{6}", re.sub(r"var\(--\w+, #\w{6}\)|url\(#[^)]*\)", "", text))
        assert "font-family" not in text
        assert not re.search(r"<svg[^>]* (width|height)=", text)


def test_svg_of_a_figure_is_stable_and_labelled() -> None:
    figure = labels.confusion([[3, 1], [1, 3]], ["a", "b"])
    first = plots.svg(figure)
    plots.pixels(figure)
    assert plots.svg(figure) == first == plots.svg(labels.confusion([[3, 1], [1, 3]], ["a", "b"]))
    assert 'role="img"' in first
    assert 'aria-label="Confusion matrix of 2 classes' in first
    assert "<?xml" not in first
    assert "<metadata" not in first


def test_figure_of_any_script_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = labels.confusion([[3, 1], [1, 3]], ["猫", "$x$"])
        assert "猫" in plots.svg(figure)
        plots.pixels(figure)


def test_pixels_are_light() -> None:
    array = plots.pixels(labels.confusion([[3, 1], [1, 3]], ["a", "b"]))
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3
    assert (array[0, 0] == 255).all()
    accent = 0.9 * rgb(plots.ACCENT) + 0.1  # of the cells that hold three quarters of their row
    assert (abs(array / 255 - accent).max(2) < 0.02).mean() > 0.1


def test_confusion_names_and_counts_only_where_they_fit() -> None:
    small = Elements(plots.svg(labels.confusion([[1234, 0], [1, 3]], ["cat", "a" * 40]))).text.split("\n")
    assert {"cat", "1,234", "3", "a" * 15 + "…"} <= set(small)
    assert "0" not in small
    k = 200
    generator = torch.Generator().manual_seed(0)
    matrix = torch.zeros(k, k, dtype=torch.long)
    for row, column in torch.randint(0, k, (6000, 2), generator=generator).tolist():  # guessing: the most cells
        matrix[row, column] += 1
    large = plots.svg(labels.confusion(matrix.tolist(), [f"class{i}" for i in range(k)]))
    assert set(Elements(large).text.split()) == {"true", "predicted"}
    assert len(large) < 400_000


def test_roc_shows_the_worst_classes() -> None:
    curves = {f"c{i}": ([0, 0.2, 1], [0, 0.5, 1], 0.5 + i / 20) for i in range(6)}
    text = Elements(plots.svg(labels.roc(curves))).text
    assert "c0: 0.500" in text
    assert "c2: 0.600" in text
    assert "3 more: 0.650–0.750" in text


def lines(figure: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): [(float(x), float(y)) for x, y in line.get_xydata()] for line in figure.axes[0].lines}


def test_curves_pair_train_with_validation() -> None:
    loss, accuracy, rate = plots.curves(history())
    assert set(lines(loss)) == {"train", "validation"}
    assert lines(loss)["train"][:2] == [(0, 2), (5, 2 / 6)]  # several rows an epoch: by step
    assert lines(accuracy)["validation"] == [(9 + 10 * e, e / 5) for e in range(5)]
    assert accuracy.axes[0].get_title(loc="left") == "validation accuracy"
    assert rate.axes[0].get_title(loc="left") == "learning rate"
    constant = [{**row, "lr": 0.1} if "lr" in row else row for row in history()]
    assert len(plots.curves(constant)) == 2  # a rate that never changes is no curve


def test_curves_by_epoch_without_what_is_no_number() -> None:
    rows = [{"epoch": e, "train_loss": x, "note": "text"} for e, x in enumerate([3.0, float("nan"), 1.0])]
    (loss,) = plots.curves(rows)
    assert loss.axes[0].get_xlabel() == "epoch"
    assert list(lines(loss).values()) == [[(0, 3), (2, 1)]]
    assert plots.curves([]) == []


def test_long_history_is_averaged_not_cut() -> None:
    (figure,) = plots.curves([{"step": s, "reward": float(s)} for s in range(10_000)])
    (points,) = lines(figure).values()
    assert len(points) <= plots.CURVE_POINTS
    assert np.mean([y for _, y in points]) == pytest.approx(4999.5, rel=0.01)
    assert len(plots.svg(figure)) < 50_000


# --- pictures ----------------------------------------------------------------------------------------------


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_tiny_images_are_enlarged_exactly(channels: int, mode: str) -> None:
    image = torch.randint(0, 256, (channels, 7, 10), dtype=torch.uint8)
    uri = frames.data_uri(image, min_size=32)
    assert uri.startswith("data:image/png;base64,")
    picture = decode(uri)
    assert picture.mode == mode
    assert picture.size == (40, 28)
    pixels = torch.from_numpy(np.array(picture)).reshape(28, 40, channels)
    assert torch.equal(pixels[::4, ::4].permute(2, 0, 1), image)
    assert torch.equal(pixels[3::4, 3::4].permute(2, 0, 1), image)


def test_large_images_are_reduced() -> None:
    picture = decode(frames.data_uri(torch.zeros(3, 300, 600, dtype=torch.uint8), max_size=192))
    assert picture.size == (192, 96)
