"""The command line of every example, made from its Config, and of the scripts in sagemaker/."""

from __future__ import annotations

import dataclasses
import inspect
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from common.command.exits import exit_with
from common.config import check_fields, field_types, flag, rank

if TYPE_CHECKING:
    from common.example import Example


@dataclass(frozen=True)
class Options:
    """The options that every example's command line takes; `OPTION_HELP` says what each does."""

    tiny: bool = False
    config: str | None = None
    out: str = "runs"
    resume: str | None = None
    seeds: str | None = None
    track: str | None = None
    json: bool = False
    quiet: bool = False


SHORT = {"batch_size": "-b", "out": "-o", "quiet": "-q"}

OPTION_HELP = {
    "tiny": "the same example in seconds on made-up data",
    "config": "JSON file with settings; flags go before it",
    "out": "folder under which runs are kept",
    "resume": "continue the latest run under --out, or the one at PATH",
    "seeds": "train once with each of these, such as 0,1,2, and give mean and deviation",
    "track": "mlflow: send the run to MLflow as well, and register its model",
    "json": "print the result as one JSON object, the last line on stdout",
    "quiet": "say nothing on stderr but errors",
}


def parse(example: Example, arguments: Sequence[str], *more: inspect.Parameter) -> tuple[Options, dict[str, Any]]:
    """An example's command line as its options and the settings that were given, by field name.

    Args:
        more: further options that this command line takes; what was said of them is among the settings.
    """
    found: list[tuple[Options, dict[str, Any]]] = []
    brief = "--help" in arguments
    if brief and "--execution-mode" in with_dashes(arguments):
        more = tuple(_shown(p) for p in more)

    def note(options: Options, settings: dict[str, Any]) -> None:
        found.append((options, settings))

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command()(callback(example, note, *more, brief=brief))
    words = ["--help" if word == "--help-all" else word for word in with_resume_value(with_dashes(arguments))]
    typer.main.get_command(app).main(words, prog_name=example.command, standalone_mode=False)
    return found[0] if found else sys.exit(0)  # --help was shown


def words(options: Options, settings: dict[str, Any]) -> list[str]:
    """The arguments that say just this, each in its long spelling."""
    asked = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    asked = {name: value for name, value in asked.items() if value != getattr(Options(), name)} | settings
    result = []
    for name, value in asked.items():
        if isinstance(value, bool):
            result.append(flag(name) if value else f"--no-{flag(name)[2:]}")
        elif value is not None:
            result += [flag(name), str(value)]
    return result


def with_dashes(arguments: Sequence[str]) -> list[str]:
    """`--batch_size=8` as `--batch-size=8`: names of flags may be written either way."""
    words = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        words.append(name.replace("_", "-") + equals + value if name.startswith("--") else argument)
    return words


def with_resume_value(arguments: Sequence[str]) -> list[str]:
    """`--resume` may stand alone; typer wants a value, so it gets the word "latest"."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[position + 1] if position + 1 < len(arguments) else "-"
        if argument == "--resume" and following.startswith("-"):
            result.append("latest")
    return result


def callback(
    example: Example, action: Callable[[Options, dict[str, Any]], Any], *more: inspect.Parameter, brief: bool = False
) -> Callable[..., Any]:
    """A function whose signature is the config's fields and the options; typer reads nothing else.

    Args:
        action: is called with the options and the settings that were given, by field name.
        more: further options.
        brief: help shows only what people turn.
    """
    config = example.config()
    found = [*parameters(config.resolve()), *(_option_parameter(f) for f in dataclasses.fields(Options))]
    found.sort(key=lambda p: rank(_panel(p)))

    def run(**given: Any) -> None:
        settings = {name: value for name, value in given.items() if value is not None}
        own = {f.name for f in dataclasses.fields(Options)}
        options = Options(**{name: settings.pop(name) for name in list(settings) if name in own})
        action(options, settings)

    if brief:
        rare = {f.name for f in dataclasses.fields(example.config) if not f.metadata["common"]}
        for hidden in [*(p for p in found if p.name in rare), *more]:
            info = hidden.annotation.__metadata__[0]
            info.hidden = not getattr(info, "asked_for", False)
        for shown in found:
            shown.annotation.__metadata__[0].rich_help_panel = "Settings"
    run.__signature__ = inspect.Signature([*found, *more])  # type: ignore[attr-defined]
    text = (sys.modules[example.config.__module__].__doc__ or "").strip()
    if brief:
        text = text.partition("\n")[0] + "\n\nEvery setting, and what starts a job on SageMaker: --help-all"
    run.__doc__ = f"{example.task}\n\n{text}"
    return run


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """The same option, which brief help shows too."""
    parameter.annotation.__metadata__[0].asked_for = True
    return parameter


def parameters(declared: Any, leave_out: Sequence[str] = ()) -> list[inspect.Parameter]:
    """The fields of a dataclass of `config.option`s as options of a command line.

    Args:
        declared: the class; or an object, whose values help then gives as the defaults, as recipes fill them.
        leave_out: fields that are no options there.
    """
    named = isinstance(declared, type)
    types = field_types(declared if named else type(declared))
    chosen = {} if named else {f.name: getattr(declared, f.name) for f in dataclasses.fields(declared)}
    fields = [f for f in dataclasses.fields(declared) if f.name not in leave_out]
    return [parameter(f, types[f.name][0], chosen.get(f.name)) for f in fields]


def parameter(field: dataclasses.Field[Any], kind: type, chosen: Any = None) -> inspect.Parameter:
    """A field of `config.option` as an option of the command line, None where it is not given.

    Args:
        chosen: what a recipe makes of a field without a default.
    """
    rules = field.metadata
    name = flag(field.name)
    # Typer's own default stays None, so that a flag that was given can be told from one that was not.
    usual = field.default if field.default is not None else chosen
    default = rules["unset"] if usual is None else str(usual) if usual else ""
    words = (f"{name}/--no-{name[2:]}",) if kind is bool else (name,)
    short = SHORT.get(field.name)
    text = rules["help"] + (f": {', '.join(rules['choices'])}" if rules["choices"] else "")
    text += f" (default: {default})" if default else ""
    option = typer.Option(
        *words,
        *([short] if short else []),
        help=text,
        show_default=False,
        rich_help_panel=rules["group"],
        autocompletion=(lambda: list(rules["choices"])) if rules["choices"] else None,
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _panel(parameter: inspect.Parameter) -> str:
    panel: str = parameter.annotation.__metadata__[0].rich_help_panel
    return panel


def _option_parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
    name = "--" + field.name
    kind = bool if isinstance(field.default, bool) else str
    short = SHORT.get(field.name)
    text = OPTION_HELP[field.name] + (f" (default: {field.default})" if isinstance(field.default, str) else "")
    metavar = {"resume": "[PATH]", "config": "FILE", "out": "FOLDER", "seeds": "LIST"}.get(field.name)
    option = typer.Option(
        name,
        *([short] if short else []),
        help=text,
        show_default=False,
        rich_help_panel="Run",
        metavar=metavar,
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


# --- scripts -----------------------------------------------------------------------------------------------


def takes(**groups: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes the fields of dataclasses options of a command; it is called with a checked object of each.

    Args:
        groups: parameter of the function to its dataclass, such as `where=Where`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(**given: Any) -> Any:
            for parameter, group in groups.items():
                settings = {f.name: given.pop(f.name) for f in dataclasses.fields(group)}
                made = group(**{name: value for name, value in settings.items() if value is not None})
                check_fields(made)
                given[parameter] = made
            return function(**given)

        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in groups]
        added = [parameter for group in groups.values() for parameter in parameters(group)]
        signature = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
        run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return decorate


def run_script(name: str, *commands: Callable[..., Any]) -> NoReturn:
    """Runs a script whose commands are these functions, each under its own name; the only one needs no name.

    Args:
        name: how the script is called, such as "python sagemaker/deploy.py".
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    for function in commands:
        app.command()(function)
    words = with_dashes(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers that we started end too
    exit_with(lambda: typer.main.get_command(app).main(words, prog_name=name, standalone_mode=False))
