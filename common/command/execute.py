"""One call of an example: its config from what was asked, its run, its report, its result."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.command import seeds
from common.command.arguments import Options
from common.command.exits import print_json
from common.config import Config, read_json
from common.errors import Interrupted, UserError
from common.example import Example
from common.files import sweep, write_json
from common.machine import device, distributed
from common.metrics import Metrics
from common.mlflow import tracking as mlflow_tracking
from common.report import page as report
from common.report import plots
from common.training import lock
from common.training.folders import find_group, find_run, new_folder
from common.training.run import Run
from common.training.tracking import read_history


def execute(example: Example, options: Options, settings: dict[str, Any]) -> dict[str, Any]:
    """Trains an example or continues a run, and writes and prints its result.

    Args:
        settings: given as flags, by field name.
    """
    began = time.monotonic()
    asked = asked_config(example, options, settings)
    check_tracking(options)
    distributed.start()
    folder = find_run(options.resume, Path(options.out), example.name) if options.resume else None
    folder = distributed.share(folder)  # before rank 0 makes a new one, which the others would find
    if folder is not None:
        config, longer = resumed_config(example, folder, asked)
        if (folder / "result.json").exists() and not longer:
            return _show_finished(folder, options)
    else:
        config = example.config.tiny() if options.tiny else example.config()
        config = config.with_values(asked).resolve()
        config.check()
    resume = folder is not None
    folder = folder or new_folder(Path(options.out), example.name, _slug(example.tag(config)))
    run = Run(folder, example.name, config, resume=resume, quiet=options.quiet, given=asked.keys())
    try:
        if resume:
            run.lock = _alone(folder)
            run.longer = longer
            if distributed.share((folder / "result.json").exists()) and not longer:  # by whoever had the lock before
                return _show_finished(folder, options)
        metrics = _train(example, run, options)
        return _finish(example, run, metrics, options, time.monotonic() - began)
    finally:
        run.lock.release()


def _train(example: Example, run: Run, options: Options) -> Metrics:
    try:
        tracked = mlflow_tracking.tracked(run) if options.track else contextlib.nullcontext()
        with device.nondeterminism(run.not_repeatable), tracked:
            return example.train(run.config, run)
    except Interrupted:
        saved = max(run.checkpoints.steps(), default=0)
        run.progress.say(f"saved at step {saved}; continue with: {example.command} --resume {run.folder}")
        raise
    except UserError:
        _remove_if_empty(run)
        raise


def _alone(folder: Path) -> lock.Held:
    """The lock of a folder that is there, once what a killed process left half-written is gone."""
    held = lock.take_for_all(folder)
    if held.real:
        checkpoints = folder / "checkpoints"
        sweep(folder, folder / "model", checkpoints, *checkpoints.glob("rank-*"))
    return held


def execute_seeds(example: Example, options: Options, settings: dict[str, Any]) -> dict[str, Any]:
    """`execute` once with each seed of `--seeds`, and a report over all of them."""
    numbers = seeds.parse(str(options.seeds))
    if "seed" in settings:
        raise UserError("--seed and --seeds together say two things.", "Drop one of them.")
    base = example.config.tiny() if options.tiny else example.config()
    for number in numbers:  # every mistake is found before the first training
        config = base.with_values({**asked_config(example, options, settings), "seed": number}).resolve()
        config.check()
    distributed.start()
    group = distributed.share(find_group(options.resume, Path(options.out), example.name) if options.resume else None)
    folder = group or new_folder(Path(options.out), example.name, _slug(example.tag(config)) + "-seeds")
    folder = distributed.share(folder)
    one = dataclasses.replace(options, seeds=None, json=False)

    def train(seed: int, place: Path) -> dict[str, Any]:
        # What lies there already is continued, or only read if it is finished.
        resume = "latest" if options.resume else None
        return execute(example, dataclasses.replace(one, out=str(place), resume=resume), {**settings, "seed": seed})

    held = _alone(group) if group else None  # in a new group the runs' own locks do
    try:
        summary = seeds.run_seeds(numbers, train, folder, example.task, example.headline)
    finally:
        if held:
            held.release()
    if distributed.rank() == 0:
        if not options.quiet:
            sys.stderr.write("\n".join([*seeds.lines(summary), f"report     {folder / 'report.html'}"]) + "\n")
        if options.json:
            print_json(summary)
    return summary


def asked_config(example: Example, options: Options, settings: dict[str, Any]) -> dict[str, Any]:
    """What the user asked for: the file's settings, and the flags over them. Checked, nothing touched."""
    values: dict[str, Any] = {}
    if options.config:
        content = read_json(Path(options.config))
        values = content.get("config", content)  # a run's config.json is taken as it is
        example.config().with_values(values, options.config)
    values = {name.replace("-", "_"): value for name, value in values.items()} | settings
    base = example.config.tiny() if options.tiny else example.config()
    checked = base.with_values(values)
    # --tiny is a whole set of values: a run to be resumed must have been made with all of them.
    return checked.resolve().to_dict() if options.tiny and options.resume else values


def check_tracking(options: Options) -> None:
    """Raises UserError if `--track` names what is unknown or not installed."""
    if options.track not in (None, "mlflow"):
        raise UserError(f"--track {options.track}: unknown.", "TensorBoard and metrics.jsonl are always there; mlflow.")
    if options.track:
        mlflow_tracking.check()


def resumed_config(example: Example, folder: Path, asked: dict[str, Any]) -> tuple[Config, bool]:
    """The config that a run was started with, and whether it is to train longer; UserError for any other change."""
    saved = read_json(folder / "config.json")
    if saved.get("example") != example.name:
        raise UserError(f"{folder} is a run of {saved.get('example')}, not of {example.name}.")
    config = example.config().with_values(saved.get("config", {}), f"{folder}/config.json")
    free = {f.name for f in dataclasses.fields(config) if f.metadata["group"] == "Run"} | {"data_dir"}
    config = config.with_values({name: asked[name] for name in free & asked.keys()})  # they do not change the result
    grow = {f.name for f in dataclasses.fields(config) if f.metadata["grows"]} & asked.keys()
    more = {name: asked[name] for name in grow if (asked[name] or 0) > (getattr(config, name) or 0)}
    config = config.with_values(more)
    for name, value in asked.items():
        if value is not None and getattr(config, name) != value:  # null: as it was decided then
            raise UserError(
                f"--resume: {folder} was made with --{name.replace('_', '-')} {getattr(config, name)}, not {value}.",
                "Drop that flag to continue the run, or drop --resume to start another.",
            )
    return config, bool(more)


def _finish(example: Example, run: Run, metrics: Metrics, options: Options, total: float) -> dict[str, Any]:
    seconds = {"train": round(run.train_seconds, 3), "total": round(total, 3)}
    result = {
        "example": example.name,
        "run": str(run.folder),
        "metrics": metrics.values,
        "steps": run.step,
        "seconds": seconds,
        "peak_memory_mb": round(device.peak_memory_mb(run.device), 1),
        "seed": run.config.seed,
        "config": run.config.to_dict(),
        **({"not_repeatable": run.state["not_repeatable"]} if "not_repeatable" in run.state else {}),
    }
    if distributed.rank() == 0:
        write_report(run, example.task, metrics, seconds)
        write_json(run.folder / "result.json", result)  # last: its presence says that the run is finished
        if options.track:
            mlflow_tracking.finish(run, metrics.values)
        _show(result, metrics.notes, run, options)
    run.tracker.close()
    return result


def _show(result: dict[str, Any], notes: Sequence[str], run: Run, options: Options) -> None:
    values = result["metrics"]
    width = max(len(name) for name in values)
    for name, value in values.items():
        run.progress.say(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    for note in notes:
        run.progress.say(f"note: {note}")
    run.progress.say(f"report     {run.folder / 'report.html'}")
    run.progress.say(f"predict    python -m common.predict {run.folder} {run.usage}")
    if options.json:
        print_json(result)


def _show_finished(folder: Path, options: Options) -> dict[str, Any]:
    result = read_json(folder / "result.json")
    if distributed.rank() > 0:
        return result
    if not options.quiet:
        sys.stderr.write(f"{folder} is finished already; nothing was changed.\n")
    if options.json:
        print_json(result)
    return result


def write_report(run: Run, task: str, metrics: Metrics, seconds: dict[str, float]) -> None:
    """Writes `report.html` and puts the figures of the evaluation into TensorBoard."""
    history = read_history(run.folder)
    sections = [report.figure("Training", plots.curves(history))] if history else []
    sections += (run.answer.sections(metrics) if run.answer else []) + run.sections
    sections.sort(key=lambda section: not section.first)
    saved = read_json(run.folder / "config.json")
    settings: dict[str, Any] = saved.pop("config")
    hardware: dict[str, Any] = saved
    if run.provenance:
        settings["data"] = run.provenance
    if "not_repeatable" in run.state:
        hardware["not_bit_reproducible"] = run.state["not_repeatable"]
    hardware |= {f"seconds_{name}": f"{value:.1f}" for name, value in seconds.items()}
    report.write(run.folder / "report.html", report.page(task, run.folder.name, metrics, sections, settings | hardware))
    for name, picture in (run.answer.pictures(metrics) if run.answer else {}).items():
        run.tracker.image(name, picture, run.step)


def _remove_if_empty(run: Run) -> None:
    """Takes back the folder of a run that failed before its first checkpoint."""
    if run.created and not run.checkpoints.steps():
        run.tracker.close()
        shutil.rmtree(run.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # they hold other runs, or were never made
            run.folder.parent.rmdir()
            run.folder.parent.parent.rmdir()


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in text).strip("-.")[:60]
