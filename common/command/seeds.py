"""The same training with several seeds: mean and spread of every metric, and learning curves with a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from common.errors import UserError
from common.files import write_json
from common.metrics import Metrics
from common.report import page as report
from common.report import plots
from common.training.tracking import read_history

Train = Callable[[int, Path], dict[str, Any]]  # a seed and the folder for its run, to the run's result


def parse(text: str) -> list[int]:
    """`0,1,2` as seeds.

    Raises:
        UserError: not whole numbers, or one of them twice.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: not a list of whole numbers.", "Write them like 0,1,2.") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: one of them stands there twice.", "Name each seed once.")
    return seeds


def run_seeds(seeds: Sequence[int], train: Train, folder: Path, task: str, headline: str) -> dict[str, Any]:
    """Trains once with each seed and writes `report.html` and `result.json` over all of them.

    Args:
        train: trains with one seed, or goes on with its run, or returns the result of its finished one.
        folder: of the group; the run of seed 3 lies under `seed-3/`.
        task: title of the report.
        headline: the metric that is named first.

    Returns:
        what `result.json` holds: mean and sample standard deviation of every metric, and the single results.
    """
    results = [train(seed, folder / f"seed-{seed}") for seed in seeds]
    names = [name for name in results[0]["metrics"] if all(name in r["metrics"] for r in results)]
    values = {name: [r["metrics"][name] for r in results] for name in names}
    summary = {
        "example": results[0]["example"],
        "run": str(folder),
        "seeds": list(seeds),
        "metrics": {name: fmean(v) for name, v in values.items()},
        "std": {name: stdev(v) if len(v) > 1 else None for name, v in values.items()},
        "seconds": {part: fmean(r["seconds"][part] for r in results) for part in ("train", "total")},
        "runs": [r["run"] for r in results],
    }
    report.write(folder / "report.html", page(task, summary, results, headline))
    write_json(folder / "result.json", summary)
    return summary


def page(task: str, summary: dict[str, Any], results: Sequence[dict[str, Any]], headline: str) -> str:
    """The group's report: headline, learning curves with a band, every metric of every seed."""
    seeds, mean, std = summary["seeds"], summary["metrics"], summary["std"]
    top: dict[str, float | int] = {headline: mean[headline]}
    if std[headline] is not None:
        top["standard_deviation"] = std[headline]
    top |= {"seeds": len(seeds), "training_seconds": summary["seconds"]["train"]}
    sections = []
    histories = [read_history(Path(r["run"])) for r in results]
    if any(histories):
        note = "Mean over the seeds; the band reaches from the lowest to the highest."
        sections.append(report.figure("Training", plots.bands(histories), note))
    rows = [
        [name, mean[name], std[name], *(r["metrics"][name] for r in results)]
        for name in mean
        if not name.endswith(("_low", "_high"))
    ]
    columns = ["metric", "mean", "std", *(f"seed {seed}" for seed in seeds)]
    sections.append(report.table("Every metric", columns, [list(map(_plain, row)) for row in rows]))
    facts = {name: value for name, value in results[0]["config"].items() if name != "seed"}
    subtitle = f"Seeds {', '.join(map(str, seeds))}; mean and sample standard deviation"
    return report.page(task, subtitle, Metrics(headline, top), sections, facts)


def _plain(value: Any) -> Any:
    return f"{value:,.4g}" if isinstance(value, float) else value


def lines(summary: dict[str, Any]) -> list[str]:
    """The means and deviations for the terminal, one line a metric."""
    mean, std = summary["metrics"], summary["std"]
    shown = [name for name in mean if not name.endswith(("_low", "_high"))]
    width = max(map(len, shown))
    return [f"{n:<{width}}  {mean[n]:.4f}" + (f" ± {std[n]:.4f}" if std[n] is not None else "") for n in shown]
