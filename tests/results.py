"""What was measured, as files `results/*.json`, and the two tables that are made from them.

`python -m tests.results` (`make results`) writes docs/results.md and the table of the README. The benchmarks write the
files.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Literal

import torch

from common.errors import UserError
from common.files import write_whole
from common.machine import device
from tests.helpers import ROOT

RESULTS = ROOT / "results"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- from results/ by make results -->\n", "<!-- to here -->\n"

# The page has them in this order, and then all others.
SUBJECTS = (
    "Images",
    "Text",
    "Sound",
    "Agents",
    "Generation",
    "First steps",
    "Series",
    "Tables",
    "Applications",
    "Every example",
    "Serving",
    "Exports",
    "Tuning",
    "SageMaker",
    "On a GPU",
)
PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "transformers",
    "gymnasium",
    "fastapi",
    "onnxruntime",
    "optuna",
    "triton",
)

HEAD = """# Results

Every number that this repository claims, and how to measure it again. The page is made from the files in
[results/](../results) by `make results`; `make bench` and `make gpu` write those.

± is the sample standard deviation over the runs that "of" counts; numbers in parentheses are each run's, or the
smallest and the largest. A *peer* was measured in the same session on the same machine; a *published* number is its
author's. Each run looks at its test split once. "Not recorded" means that nobody wrote it down.
"""
GPU = "\n## On a GPU\n\nNot measured here yet: `make gpu` does it in five minutes on a machine that has one.\n"


@dataclass(frozen=True)
class Figure:
    """A number that was measured.

    Attributes:
        value: None where it was not measured.
        unit: such as "%", "s" or "images/s"; "" for a bare number.
        decimals: how many the pages show; None shows six digits at most.
        deviation: the sample standard deviation; None where it isn't known.
        each: the values of which this is the mean or median; empty where they aren't known.
        range: the smallest and the largest of them, where they aren't known.
    """

    value: float | None
    unit: str
    decimals: int | None = None
    deviation: float | None = None
    each: list[float] = field(default_factory=list)
    range: list[float] | None = None

    def text(self, unit: bool = True, each: bool = True) -> str:
        """As a page shows it, such as "99.54 ± 0.32 %"."""
        if self.value is None:
            return "not measured"
        text = self._number(self.value)
        if self.deviation is not None:
            text += f" ± {self._number(self.deviation)}"
        text += f" {self.unit}" if unit and self.unit else ""
        spread = self.range or ([min(self.each), max(self.each)] if len(self.each) > 5 else None)
        if each and spread:
            text += f" ({self._number(spread[0])} to {self._number(spread[1])})"
        elif each and len(self.each) > 1:
            text += f" ({', '.join(map(self._number, self.each))})"
        return text

    def _number(self, value: float) -> str:
        text = f"{value:,.6g}" if self.decimals is None else f"{value:,.{self.decimals}f}"
        return f"−{text[1:]}" if text.startswith("-") else text


@dataclass(frozen=True)
class Row:
    """The figures of one thing that was measured, or of what stands beside it.

    Attributes:
        figures: by name, such as "accuracy"; rows of one benchmark share the names.
        by: "peer" was measured in the same session; "published" is what somebody else says they measured.
        statistic: what a figure is of `n` runs.
        n: None where it isn't known.
        seeds: None where there are none, or they aren't known.
        command: what a user types for this row alone; "" if there is none.
        source: of a published number.
    """

    what: str
    figures: dict[str, Figure]
    by: Literal["ours", "peer", "published"] = "ours"
    statistic: Literal["mean", "median", "best", "count"] = "mean"
    n: int | None = None
    seeds: list[int] | None = None
    command: str = ""
    source: str = ""
    note: str = ""

    def runs(self) -> str:
        """Of what the figures are, such as "mean of 3, seeds 0 to 2"."""
        if self.by == "published":
            return self.source
        counted = "not recorded" if self.n is None else "once" if self.n == 1 else f"{self.statistic} of {self.n}"
        if self.statistic == "count" and self.n is not None:
            counted = f"of {self.n:,}"
        if not self.seeds:
            return counted
        first, last = self.seeds[0], self.seeds[-1]
        if len(self.seeds) > 2 and self.seeds == list(range(first, last + 1)):
            return f"{counted}, seeds {first} to {last}"
        return f"{counted}, seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"


@dataclass(frozen=True)
class Benchmark:
    """What one command measured in one session: the content of one file.

    Attributes:
        command: measures all of it again; "" if nothing does.
        date: YYYY-MM-DD.
        versions: of Python and of packages.
        conditions: what else the machine did.
    """

    subject: str
    title: str
    command: str
    date: str
    hardware: str
    versions: dict[str, str]
    conditions: str
    rows: list[Row]
    note: str = ""


def mean_of(values: Sequence[float], unit: str, decimals: int) -> Figure:
    """The mean of several runs, and their sample standard deviation if they are more than one."""
    rounded = [round(value, decimals + 2) for value in values]
    deviation = round(stdev(values), decimals + 2) if len(values) > 1 else None
    return Figure(round(fmean(values), decimals + 2), unit, decimals, deviation, rounded)


def median_of(values: Sequence[float], unit: str, decimals: int) -> Figure:
    rounded = [round(value, decimals + 2) for value in values]
    return Figure(round(median(values), decimals + 2), unit, decimals, each=rounded)


# --- the files --------------------------------------------------------------------------------------------


def record(
    name: str, subject: str, title: str, command: str, rows: Iterable[Row], folder: Path = RESULTS, note: str = ""
) -> Path:
    """Writes FOLDER/NAME.json: what was measured just now on this machine. Rows are printed as they come.

    Args:
        rows: if making them fails, the file stays as it was.
    """
    conditions = f"load average {os.getloadavg()[0]:.1f} at the start"
    made = []
    for row in rows:
        told = ", ".join(f"{key} {figure.text()}" for key, figure in row.figures.items())
        sys.stdout.write(f"{row.what}: {'; '.join(filter(None, (told, row.note)))}\n")
        sys.stdout.flush()
        made.append(row)
    today = time.strftime("%Y-%m-%d")
    found = Benchmark(subject, title, command, today, hardware(), versions(), conditions, made, note)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write(path, found)
    return path


def hardware() -> str:
    """The GPU, if there is one, and the CPU, in words."""
    parts = [device.describe(torch.device("cuda"))] if torch.cuda.is_available() else []
    return ", ".join([*parts, device.describe(torch.device("cpu"))])


def versions() -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(path: Path, benchmark: Benchmark) -> None:
    """Writes one file, a figure in a line, so that a difference can be read."""
    text = json.dumps(asdict(benchmark), indent=1, ensure_ascii=False, allow_nan=False)
    for innermost in (r"\[[^][{}]*\]", r"\{[^{}]*\}"):
        text = re.sub(innermost, lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
    with write_whole(path) as file:
        file.write(f"{text}\n".encode())


def read(path: Path) -> Benchmark:
    """One file.

    Raises:
        UserError: a field is missing, unknown or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    text = path.read_bytes()
    try:
        found = TypeAdapter(Benchmark).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path.name}: {where}: {first['msg']}", "tests/results.py says what belongs there.") from error
    if asdict(found) != json.loads(text):
        raise UserError(
            f"{path.name}: not every field is there, or there are others.", "Take another file for a model."
        )
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", found.date):
        raise UserError(f"{path.name}: date: {found.date!r} is none.", "YYYY-MM-DD is meant.")
    return found


def read_all(folder: Path = RESULTS) -> dict[str, Benchmark]:
    """All files of a folder by name, subject after subject."""
    found = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    order = {subject: number for number, subject in enumerate(SUBJECTS)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[1].subject, 99), item[1].subject, item[0])))


# --- the pages --------------------------------------------------------------------------------------------


def page(benchmarks: dict[str, Benchmark]) -> str:
    """docs/results.md."""
    parts, subject = [HEAD], ""
    for benchmark in benchmarks.values():
        if benchmark.subject != subject:
            subject = benchmark.subject
            parts.append(f"\n## {subject}\n")
        parts.append(section(benchmark))
    if not any(benchmark.subject == "On a GPU" for benchmark in benchmarks.values()):
        parts.append(GPU)
    return "".join(parts)


def section(benchmark: Benchmark) -> str:
    """One benchmark: a table with a column for each figure, and how it was measured."""
    rows = benchmark.rows
    keys = list(dict.fromkeys((key, figure.unit) for row in rows for key, figure in row.figures.items()))
    columns = {", ".join(filter(None, key)): [_cell(row, *key) for row in rows] for key in keys}
    columns["of"] = [row.runs() if row.figures else "" for row in rows]
    columns["note"] = [row.note for row in rows]
    columns["command"] = [f"`{row.command}`" if row.command else "" for row in rows]
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    names = [row.what if row.by == "ours" else f"*{row.by}:* {row.what}" for row in rows]
    lines = [list(cells) for cells in zip(names, *columns.values(), strict=True)]
    software = ", ".join(f"{name} {number}" for name, number in benchmark.versions.items()) or "versions not recorded"
    told = [benchmark.date, benchmark.hardware, software.replace("python", "Python"), benchmark.conditions]
    again = f"Again: `{benchmark.command}`" if benchmark.command else "No command measures it again."
    measured = f"{'; '.join(told)}. {again}"
    note = f"\n{benchmark.note}\n" if benchmark.note else ""
    return f"\n### {benchmark.title}\n{note}\n{table(['', *columns], lines)}\n{measured}\n"


def _cell(row: Row, key: str, unit: str) -> str:
    figure = row.figures.get(key)
    return figure.text(unit=False) if figure and figure.unit == unit else ""


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown; empty cells get a dash."""
    made = [head, ["---"] * len(head), *([cell.replace("|", "/") or "–" for cell in line] for line in lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in made)


@dataclass(frozen=True)
class Headline:
    """A line of the README's table: what a row says, and what the row of a peer says.

    Attributes:
        name: of the benchmark.
        text: names figures of the row in braces.
    """

    label: str
    name: str
    what: str
    text: str
    beside: str = ""
    beside_text: str = ""


HEADLINES = (
    Headline("digits, the default", "digits", "digits, default", "{accuracy}, {training} of training"),
    Headline(
        "MNIST",
        "mnist",
        "MNIST, default",
        "{accuracy}, {training} of training",
        "pytorch/examples, 3 epochs",
        "pytorch/examples, 3 epochs: {accuracy}, {an epoch} each",
    ),
    Headline("images/s of `fit`", "fit", "fit of a bare loop", "{images/s} of a bare loop's"),
    Headline("`kill -9` at a random moment, resumed", "kills", "killed and resumed", "{bit-equal} equal to the bit"),
    Headline(
        "film reviews from scratch",
        "texts",
        "rotten-tomatoes",
        "{accuracy}",
        "rotten-tomatoes, TF-IDF",
        "TF-IDF: {accuracy}",
    ),
    Headline(
        "film reviews, a pretrained MiniLM with n-grams",
        "minilm-ngrams",
        "rotten-tomatoes, MiniLM with n-grams",
        "{accuracy}",
        "rotten-tomatoes, TF-IDF",
        "TF-IDF: {accuracy}",
    ),
    Headline(
        "CartPole: mean return, of 500",
        "cartpole",
        "CartPole-v1",
        "{mean return} after {training}",
        "Stable-Baselines3 with the zoo's settings",
        "Stable-Baselines3: {mean return} after {training}",
    ),
    Headline("DQN: steps/s", "agent-speed", "1 environment", "{steps/s}", "CleanRL's dqn.py", "CleanRL: {steps/s}"),
    Headline(
        "GAN on MNIST: Fréchet distance",
        "gan",
        "GAN on MNIST, dcgan",
        "{Fréchet distance} after {training}",
        "PyTorch-GAN, wgan_gp.py",
        "PyTorch-GAN's best: {Fréchet distance} after {training}",
    ),
    Headline(
        "a robot's next move from its sonars, split by time, FT-Transformer",
        "wall-following",
        "20 blocks of time, FT-Transformer",
        "{accuracy}",
        "20 blocks of time, HistGradientBoosting's defaults",
        "scikit-learn's boosted trees at their best: {accuracy}",
    ),
    Headline(
        "server: ResNet-18, JPEG in, JSON out, 16 clients",
        "serving-speed",
        "ours",
        "{16 clients}",
        "LitServe, no batching, 2 processes",
        "LitServe at its best: {16 clients}",
    ),
    Headline("hostile requests to the server", "hostile", "ours", "{5xx but 503} times 5xx but 503, {hangs} hangs"),
    Headline("MNIST on a GPU", "gpu-mnist", "MNIST by default", "{accuracy}, {training} of training"),
    Headline(
        "`fit` on a GPU, a small network",
        "gpu-small",
        "vgg 28 px, batch 128",
        "{fit of captured} a bare loop captured by hand, {fit of bare} one that is not",
    ),
    Headline(
        "`fit` on a GPU, ResNet-50",
        "gpu-resnet",
        "resnet50 224 px, batch 256",
        "{fit of captured} a bare loop captured by hand, {fit of bare} one that is not",
    ),
    Headline("page: from a stroke of a digit to the answer", "page", "a stroke of a digit", "median {median}"),
)


def headlines(benchmarks: dict[str, Benchmark]) -> str:
    """The README's table."""
    lines = []
    for line in HEADLINES:
        benchmark = benchmarks[line.name]
        rows = {row.what: row for row in benchmark.rows}
        anchor = re.sub(r"[^\w -]", "", benchmark.title.lower()).replace(" ", "-")
        beside = filled(line.beside_text, rows[line.beside]) if line.beside else ""
        row = rows[line.what]
        lines.append([f"[{line.label}](docs/results.md#{anchor})", filled(line.text, row), row.runs(), beside])
    return table(["what", "measured", "of", "a peer on the same machine"], lines)


def filled(text: str, row: Row) -> str:
    return text.format_map({name: figure.text(each=False) for name, figure in row.figures.items()})


def main() -> None:
    benchmarks = read_all()
    readme = README.read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    for path, text in ((PAGE, page(benchmarks)), (README, f"{before}{BEGIN}{headlines(benchmarks)}{END}{after}")):
        with write_whole(path) as file:
            file.write(text.encode())


if __name__ == "__main__":
    main()
