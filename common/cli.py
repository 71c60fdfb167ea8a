"""The command line of every example, made from its Config; and what a mistake looks like."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from common import device, distributed, plots, report, seeds
from common.command import exit_with, print_json
from common.config import Config, field_types, read_json
from common.errors import UserError
from common.example import Example
from common.files import write_json
from common.folders import find_group, find_run, new_folder
from common.metrics import Metrics
from common.run import Interrupted, Run
from common.tracking import read_history

SHORT = {"batch_size": "-b", "out": "-o", "quiet": "-q"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What belongs to one call and not to the config: it does not change what is computed."""

    tiny: bool = False
    config: str | None = None
    out: str = "runs"
    resume: str | None = None
    seeds: str | None = None
    json: bool = False
    quiet: bool = False


OPTION_HELP = {
    "tiny": "the same example in seconds on made-up data",
    "config": "JSON file with settings; flags go before it",
    "out": "folder under which runs are kept",
    "resume": "continue the latest run under --out, or the one at PATH",
    "seeds": "train once with each of these, such as 0,1,2, and give mean and deviation",
    "json": "print the result as one JSON object, the last line on stdout",
    "quiet": "say nothing on stderr but errors",
}


def main(example: Example, arguments: Sequence[str] | None = None) -> NoReturn:
    """Parses the arguments, runs the example, and exits with 0, 2 (a mistake), 130 or 143 (stopped)."""
    parsed = with_resume_value(sys.argv[1:] if arguments is None else arguments)
    exit_with(lambda: command(example)(parsed))


def command(example: Example) -> Callable[[Sequence[str]], Any]:
    """The example's command line as a function of its arguments."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command()(callback(example))
    click_command = typer.main.get_command(app)
    return lambda arguments: click_command.main(list(arguments), prog_name=example.command, standalone_mode=False)


def with_resume_value(arguments: Sequence[str]) -> list[str]:
    """`--resume` may stand alone; typer wants a value, so it gets the word "latest"."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[position + 1] if position + 1 < len(arguments) else "-"
        if argument == "--resume" and following.startswith("-"):
            result.append("latest")
    return result


def callback(example: Example) -> Callable[..., Any]:
    """A function whose signature is the config's fields and the options; typer reads nothing else."""
    parameters = [
        _config_parameter(f, *field_types(example.config)[f.name]) for f in dataclasses.fields(example.config)
    ]
    parameters += [_option_parameter(f) for f in dataclasses.fields(Options)]
    order = ["Data", "Environment", "Model", "Training", "Exploration", "Augmentation"]
    rank = {name: i for i, name in enumerate(order)}
    panels = {p.name: _panel(p) for p in parameters}
    parameters.sort(key=lambda p: rank.get(panels[p.name], len(order)))

    def run(**given: Any) -> None:
        said = {name: value for name, value in given.items() if value is not None}
        own = {f.name for f in dataclasses.fields(Options)}
        options = Options(**{name: said.pop(name) for name in list(said) if name in own})
        if options.seeds:
            execute_seeds(example, options, said)
        else:
            execute(example, options, said)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = f"{example.task}\n\n{(sys.modules[example.config.__module__].__doc__ or '').strip()}"
    return run


def _panel(parameter: inspect.Parameter) -> str:
    panel: str = parameter.annotation.__metadata__[0].rich_help_panel
    return panel


def _config_parameter(field: dataclasses.Field[Any], kind: type, optional: bool) -> inspect.Parameter:
    rules = field.metadata
    name = "--" + field.name.replace("_", "-")
    # Typer's own default stays None, so that a flag that was given can be told from one that was not.
    default = rules["unset"] if field.default is None else str(field.default) if field.default else ""
    words = (f"{name}/--no-{name[2:]}",) if kind is bool else (name,)
    short = SHORT.get(field.name)
    text = rules["help"] + (f": {', '.join(rules['choices'])}" if rules["choices"] else "")
    text += f" (default: {default})" if default else ""
    option = typer.Option(
        *words, *([short] if short else []), help=text, show_default=False, rich_help_panel=rules["group"],
        autocompletion=(lambda: list(rules["choices"])) if rules["choices"] else None,
    )  # fmt: skip
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _option_parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
    name = "--" + field.name
    kind = bool if isinstance(field.default, bool) else str
    short = SHORT.get(field.name)
    text = OPTION_HELP[field.name] + (f" (default: {field.default})" if isinstance(field.default, str) else "")
    metavar = {"resume": "[PATH]", "config": "FILE", "out": "FOLDER", "seeds": "LIST"}.get(field.name)
    option = typer.Option(
        name, *([short] if short else []), help=text, show_default=False, rich_help_panel="Run",
        metavar=metavar,
    )  # fmt: skip
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def execute(example: Example, options: Options, said: dict[str, Any]) -> dict[str, Any]:
    """Trains an example or continues a run, and writes and prints its result.

    Args:
        said: settings given as flags, by field name.
    """
    began = time.monotonic()
    asked = asked_config(example, options, said)
    distributed.start()
    folder = find_run(options.resume, Path(options.out), example.name) if options.resume else None
    folder = distributed.share(folder)  # before rank 0 makes a new one, which the others would find
    if folder is not None:
        config = resumed_config(example, folder, asked)
        if (folder / "result.json").exists():
            return _show_finished(folder, options)
    else:
        config = example.config.tiny() if options.tiny else example.config()
        config = config.with_values(asked).resolve()
        config.check()
    resume = folder is not None
    folder = folder or new_folder(Path(options.out), example.name, _slug(example.tag(config)))
    run = Run(folder, example.name, config, resume=resume, quiet=options.quiet)
    try:
        metrics = example.train(config, run)
    except Interrupted:
        saved = max(run.checkpoints.steps(), default=0)
        run.progress.say(f"saved at step {saved}; continue with: {example.command} --resume {run.folder}")
        raise
    except UserError:
        _remove_if_empty(run)
        raise
    return _finish(example, run, metrics, options, time.monotonic() - began)


def execute_seeds(example: Example, options: Options, said: dict[str, Any]) -> dict[str, Any]:
    """`execute` once with each seed of `--seeds`, and a report over all of them."""
    numbers = seeds.parse(str(options.seeds))
    if "seed" in said:
        raise UserError("--seed and --seeds together say two things.", "Drop one of them.")
    base = example.config.tiny() if options.tiny else example.config()
    for number in numbers:  # every mistake is found before the first training
        config = base.with_values({**asked_config(example, options, said), "seed": number}).resolve()
        config.check()
    distributed.start()
    folder = find_group(options.resume, Path(options.out), example.name) if options.resume else None
    folder = folder or new_folder(Path(options.out), example.name, _slug(example.tag(config)) + "-seeds")
    folder = distributed.share(folder)
    one = dataclasses.replace(options, seeds=None, json=False)

    def train(seed: int, place: Path) -> dict[str, Any]:
        # What lies there already is continued, or only read if it is finished.
        resume = "latest" if options.resume else None
        return execute(example, dataclasses.replace(one, out=str(place), resume=resume), {**said, "seed": seed})

    summary = seeds.run_seeds(numbers, train, folder, example.task, example.headline)
    if distributed.rank() == 0:
        if not options.quiet:
            sys.stderr.write("\n".join([*seeds.lines(summary), f"report     {folder / 'report.html'}"]) + "\n")
        if options.json:
            print_json(summary)
    return summary


def asked_config(example: Example, options: Options, said: dict[str, Any]) -> dict[str, Any]:
    """What the user asked for: the file's settings, and the flags over them. Checked, nothing touched."""
    values: dict[str, Any] = {}
    if options.config:
        content = read_json(Path(options.config))
        values = content.get("config", content)  # a run's config.json is taken as it is
        example.config().with_values(values, options.config)
    values = {name.replace("-", "_"): value for name, value in values.items()} | said
    base = example.config.tiny() if options.tiny else example.config()
    checked = base.with_values(values)
    # --tiny is a whole set of values: a run to be resumed must have been made with all of them.
    return checked.resolve().to_dict() if options.tiny and options.resume else values


def resumed_config(example: Example, folder: Path, asked: dict[str, Any]) -> Config:
    """The config that a run was started with; UserError where the user asks for another."""
    saved = read_json(folder / "config.json")
    if saved.get("example") != example.name:
        raise UserError(f"{folder} is a run of {saved.get('example')}, not of {example.name}.")
    config = example.config().with_values(saved["config"], f"{folder}/config.json")
    free = {f.name for f in dataclasses.fields(config) if f.metadata["group"] == "Run"} | {"data_dir"}
    config = config.with_values({name: asked[name] for name in free & asked.keys()})  # they do not change the result
    for name, value in asked.items():
        if getattr(config, name) != value:
            raise UserError(
                f"--resume: {folder} was made with --{name.replace('_', '-')} {getattr(config, name)}, not {value}.",
                "Drop that flag to continue the run, or drop --resume to start another.",
            )
    return config


def _finish(example: Example, run: Run, metrics: Metrics, options: Options, total: float) -> dict[str, Any]:
    seconds = {"train": round(run.train_seconds, 3), "total": round(total, 3)}
    result = {
        "example": example.name, "run": str(run.folder), "metrics": metrics.values, "steps": run.step,
        "seconds": seconds,
        "peak_memory_mb": round(device.peak_memory_mb(run.device), 1), "seed": run.config.seed,
        "config": run.config.to_dict(),
    }  # fmt: skip
    if distributed.rank() == 0:
        write_report(run, example.task, metrics, seconds)
        write_json(run.folder / "result.json", result)  # last: its presence says that the run is finished
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
    run.progress.say(f"predict    python -m common.predict {run.folder} {_what_to_predict(run)}")
    if options.json:
        print_json(result)


def _what_to_predict(run: Run) -> str:
    """How an input of this model is given to common.predict."""
    saved = run.folder / "model" / "model.json"
    kind = read_json(saved)["inputs"].get("kind") if saved.exists() else None
    examples = {"text": '--value "a text"', "seed": "--value 7 --out pictures", "observation": '--value "[...]"',
                "row": "--lines rows.csv"}  # fmt: skip
    return examples.get(str(kind), "FILES...")


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
    sections += report.classification_sections(metrics) + run.sections
    sections.sort(key=lambda section: not section.first)
    saved = read_json(run.folder / "config.json")
    settings = {name: str(value) for name, value in saved.pop("config").items()}
    hardware = {name: str(value) for name, value in saved.items()}
    if run.provenance:
        settings["data"] = run.provenance
    hardware |= {f"seconds_{name}": f"{value:.1f}" for name, value in seconds.items()}
    report.write(run.folder / "report.html", report.page(task, run.folder.name, metrics, sections, settings | hardware))
    if "confusion" in metrics.details:
        figure = plots.confusion(metrics.details["confusion"], metrics.details["classes"])
        run.tracker.image("confusion", plots.pixels(figure), run.step)


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
