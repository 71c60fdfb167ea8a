"""What an example declares, and the catalogue that finds every example."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, nearest

if TYPE_CHECKING:
    from common.artifact import Artifact
    from common.config import Config
    from common.kinds.answer import Predictor
    from common.metrics import Metrics
    from common.training.run import Run

MARK = re.compile(r"^DOMAIN = ", re.MULTILINE)  # in the `__init__.py` of a package that holds examples


@dataclass(frozen=True)
class Example:
    """One use case. Declaring it is all that the catalogue, the launcher and the server need.

    Attributes:
        name: its module, such as "vision.train".
        task: what it shows, in a few words.
        model: the default model, in a few words.
        seconds: about how long the default takes on a laptop.
        headline: the metric that is named first.
        config: its Config class.
        train: from config to a finished run.
        load: from an artifact to a Predictor.
        evaluate: measures an artifact again, on the test data of its config; equal to what training printed.
        tag: a few letters for the run's folder.
        objective: the metric of validation by which tuning judges a setting; never one of the test split.
        goal: "maximize" or "minimize" it.
        prepare: from a config to the splits of its data; `.valid[i]` is an input as the predictor takes it, decoded.
            None where the example learns from no data set.
        extras: of pyproject.toml, that some of its settings need; a job on SageMaker installs them.
    """

    name: str
    task: str
    model: str
    seconds: float
    headline: str
    config: type[Config]
    train: Callable[[Any, Run], Metrics]
    load: Callable[[Artifact], Predictor]
    evaluate: Callable[[Artifact, Any], Metrics]
    tag: Callable[[Any], str] = field(default=lambda config: str(config.data).split(":")[0])
    objective: str = "val_accuracy"
    goal: str = "maximize"
    prepare: Callable[[Any], Any] | None = None
    extras: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        return self.name.partition(".")[0]

    @property
    def data(self) -> str:
        return str(self.config().data)

    @property
    def command(self) -> str:
        return f"python -m {self.name}"


def domains() -> list[Path]:
    """The folders that hold examples: the packages beside `common` that say so."""
    inits = sorted(Path(__file__).parent.parent.glob("*/__init__.py"))
    return [init.parent for init in inits if MARK.search(init.read_text(encoding="utf-8", errors="replace"))]


def names() -> list[str]:
    """The modules that declare an example, found by reading the domains' files without running them."""
    files = [file for domain in domains() for file in sorted(domain.rglob("*.py"))]
    return [_name(file) for file in files if _declares_example(file)]


def _name(file: Path) -> str:
    """What `python -m` calls a file: `nlp/speech.py` is nlp.speech, `rl/dqn/__main__.py` is rl.dqn."""
    parts = file.relative_to(Path(__file__).parent.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__main__")


def get(name: str) -> Example:
    """The example of that name. Only names of the catalogue are imported, whatever an artifact says."""
    known = names()
    if name not in known:
        raise UserError(f"There is no example {name!r}.", nearest(name, known))
    return declared_in(name)


def declared_in(module: str) -> Example:
    """The example that `python -m MODULE` runs; the one place that imports a module by its name."""
    spec = importlib.util.find_spec(module)
    folder = spec is not None and spec.submodule_search_locations is not None
    example: Example = importlib.import_module(f"{module}.__main__" if folder else module).example
    return example


def predictor_of(saved: Artifact) -> Predictor:
    """The model of an artifact, once it has answered a made-up input.

    Raises:
        UserError: it does not, or what the artifact says of itself is not what its example takes.
    """
    declared = get(saved.example)
    try:
        predictor = declared.load(saved)
        predictor.predict([predictor.input.decode(predictor.input.sample())])
        return predictor
    except UserError:
        raise
    except Exception as error:  # of what somebody else wrote, nearly anything may be wrong
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        what = f"The model in {saved.folder} is damaged, or of another version: {type(error).__name__}: {reason}"
        raise UserError(what.rstrip(": "), "Train the model again.") from error


def catalogue() -> list[Example]:
    """Every example, the quickest first."""
    return sorted((get(name) for name in names()), key=lambda declared: declared.seconds)


def _declares_example(file: Path) -> bool:
    source = file.read_text(encoding="utf-8")
    if "Example(" not in source:  # saves parsing most files
        return False
    targets: Iterable[ast.expr] = (
        target for node in ast.parse(source).body if isinstance(node, ast.Assign) for target in node.targets
    )
    return any(isinstance(target, ast.Name) and target.id == "example" for target in targets)
