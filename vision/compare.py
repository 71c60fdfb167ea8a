"""Trains several network families on the same data, with the same budget and seeds, and sets them side by side.

  python -m vision.compare                                  all nine families on scikit-learn's digits
  python -m vision.compare --models resnet,vit --data cifar10 --seeds 0,1,2

Started again with the same settings it continues where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import torch
import typer

from common import artifact
from common.command import exits as command
from common.command.arguments import Options
from common.command.execute import execute
from common.command.seeds import parse
from common.errors import UserError, nearest
from common.files import write_json
from common.machine import device
from common.report import page as report
from common.report import plots
from common.training.tracking import read_history
from vision import models
from vision.models.layers import model_facts
from vision.train import TrainConfig, example, load_model

METRICS = ("accuracy", "accuracy_low", "accuracy_high", "f1_macro", "log_loss")
COLUMNS = {
    "model": "Model",
    "accuracy": "Accuracy",
    "interval": "95 % interval",
    "f1_macro": "F1",
    "log_loss": "Log loss",
    "parameters": "Parameters",
    "flops": "MFLOPs",
    "images_per_second": "Images/s, training",
    "latency_ms": "Latency, ms",
    "train_seconds": "Training, s",
}


def main(
    models_: Annotated[str, typer.Option("--models", help="families, separated by commas")] = ",".join(models.FAMILIES),
    data: Annotated[str, typer.Option(help="data set, as in vision.train")] = "digits",
    data_dir: Annotated[str | None, typer.Option(help="folder that holds the data set")] = None,
    size: Annotated[str, typer.Option(help="size of the networks: " + ", ".join(models.SIZES))] = "small",
    epochs: Annotated[int | None, typer.Option(help="passes over the training data (default: by data set)")] = None,
    seeds: Annotated[str, typer.Option(help="seeds, separated by commas")] = "0",
    tiny: Annotated[bool, typer.Option("--tiny", help="tiny networks on made-up data")] = False,
    out: Annotated[str, typer.Option("--out", "-o", help="folder under which runs are kept")] = "runs",
    json_: Annotated[bool, typer.Option("--json", help="print the rows as one JSON list")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say nothing on stderr but errors")] = False,
) -> None:
    """Trains the chosen families alike and writes comparison.html and comparison.json."""
    settings: dict[str, Any] = {"data": data, "size": size}
    if tiny:
        settings = {"data": "synthetic", "size": "tiny", "epochs": 2}
    settings |= {k: v for k, v in {"epochs": epochs, "data_dir": data_dir}.items() if v is not None}
    names, numbers = _models(models_), parse(seeds)
    for name in names:
        TrainConfig().with_values({**settings, "model": name})  # all are checked before the first is trained
    folder = Path(out) / "vision.compare" / _fingerprint(settings)
    options = Options(quiet=quiet, resume="latest")

    rows = [compare_one(name, numbers, settings, folder, options) for name in names]
    write_json(folder / "comparison.json", rows)
    report.write(folder / "comparison.html", page(rows, settings, numbers))
    if json_:
        command.print_json(rows)
    if not quiet:
        show(rows)
        typer.echo(f"report     {folder / 'comparison.html'}", err=True)


def compare_one(
    name: str, seeds: list[int], settings: dict[str, Any], folder: Path, options: Options
) -> dict[str, Any]:
    """One family's row: means over its seeds, and what its network costs."""
    results = []
    for seed in seeds:
        place = Options(**{**vars(options), "out": str(folder / f"{name}-{seed}")})
        results.append(execute(example, place, {**settings, "model": name, "seed": seed}))
    row: dict[str, Any] = {"model": name, "seeds": len(seeds)}
    row |= {metric: fmean(r["metrics"][metric] for r in results) for metric in METRICS}
    row["accuracy_std"] = stdev(r["metrics"]["accuracy"] for r in results) if len(seeds) > 1 else None
    row["n"] = results[0]["metrics"]["n"]
    saved = artifact.load(Path(results[0]["run"]))
    channels, side = saved.inputs["channels"], saved.inputs["size"]
    network = load_model(saved)
    row |= model_facts(network, channels, side)
    row["train_seconds"] = fmean(r["seconds"]["train"] for r in results)
    row["images_per_second"] = fmean(map(training_rate, results))
    row["latency_ms"] = latency(network, torch.zeros(1, channels, side, side))
    return row


def training_rate(result: dict[str, Any]) -> float:
    """Images per second of training, the validation after every epoch included."""
    steps = read_history(Path(result["run"]))[-1]["step"]
    return float(steps * result["config"]["batch_size"] / result["seconds"]["train"])


@torch.inference_mode()
def latency(model: torch.nn.Module, image: torch.Tensor, calls: int = 50) -> float:
    """Median milliseconds of one forward pass of one image, in fp32 on the CPU, after ten to warm up."""
    device.set_threads()
    times = []
    for _ in range(calls + 10):
        began = time.perf_counter()
        model(image)
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times[10:])[calls // 2]


def _models(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--models {text}: names no model.", f"Choose from: {', '.join(models.FAMILIES)}.")
    for name in names:
        if name not in models.FAMILIES and not name.startswith("torchvision/"):
            raise UserError(f"--models {name}: unknown.", nearest(name, models.FAMILIES))
    return names


def _fingerprint(settings: dict[str, Any]) -> str:
    """A folder name that is the same for the same settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{settings['data'].split(':')[0]}-{settings['size']}-{digest}"


def _cell(row: dict[str, Any], column: str) -> str:
    if column == "interval":
        return f"{row['accuracy_low']:.1%} – {row['accuracy_high']:.1%}"
    value = row[column]
    if column == "accuracy" and row["accuracy_std"] is not None:
        return f"{value:.2%} ± {row['accuracy_std']:.2%}"
    formats = {
        "accuracy": ".2%",
        "f1_macro": ".4f",
        "log_loss": ".4f",
        "parameters": ",",
        "images_per_second": ",.0f",
        "latency_ms": ".2f",
        "train_seconds": ".1f",
    }
    if column == "flops":
        return f"{value / 1e6:,.1f}"
    return format(value, formats.get(column, ""))


def show(rows: list[dict[str, Any]]) -> None:
    """The table for the terminal, best first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False)
    for position, title in enumerate(COLUMNS.values()):
        table.add_column(title, justify="right" if position else "left")
    for row in sorted(rows, key=lambda r: -r["accuracy"]):
        table.add_row(*(_cell(row, column) for column in COLUMNS))
    Console(stderr=True).print(table)


def tradeoff(rows: list[dict[str, Any]]) -> Any:
    """Accuracy with its 95 % interval over training seconds, a point per family."""
    with plots.canvas("Accuracy over training time of each family", width=7.5, height=4.2) as (figure, (ax,)):
        for row in rows:
            low, high = row["accuracy"] - row["accuracy_low"], row["accuracy_high"] - row["accuracy"]
            ax.errorbar(row["train_seconds"], row["accuracy"], [[low], [high]], fmt="o", color=plots.ACCENT, lw=1)
            ax.annotate(row["model"], (row["train_seconds"], row["accuracy"]), (6, 4), textcoords="offset points")
        ax.set_xlabel("training time, s")
        ax.set_ylabel("test accuracy")
        ax.margins(x=0.15)
    return figure


def page(rows: list[dict[str, Any]], settings: dict[str, Any], seeds: list[int]) -> str:
    """The comparison as one self-contained HTML page."""
    ranked = sorted(rows, key=lambda r: -r["accuracy"])
    cells = [[_cell(row, column) for column in COLUMNS] for row in ranked]
    note = f"Test split of {rows[0]['n']:,} images; seeds {', '.join(map(str, seeds))}; same budget for all."
    sections = [
        report.table("Side by side", list(COLUMNS.values()), cells, note),
        report.figure("Accuracy against training time", tradeoff(ranked), "Up and to the left is better."),
    ]
    facts = {"device": device.describe(torch.device("cpu")), **settings}
    return report.page("Network families compared", f"on {settings['data']}", None, sections, facts)


if __name__ == "__main__":
    command.run(main, "python -m vision.compare")
