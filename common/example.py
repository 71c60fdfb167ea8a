"""What an example declares, and the catalogue that finds every example."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common.artifact import Artifact
    from common.config import Config
    from common.metrics import Metrics
    from common.run import Run

DOMAINS = ("vision", "nlp", "rl", "generative", "research")


class Input(Protocol):
    """What a model is asked with: an image, a text, a row, a seed, an observation."""

    kind: str  # "image", "text", ...: the command line, the server and the page go by it
    suffixes: tuple[str, ...]  # of the files that hold one

    def decode(self, source: Path | bytes, name: str = "") -> Any:
        """One raw input, from a file or from its bytes, as the model's batch takes it; UserError if it is none."""

    def sample(self) -> bytes:
        """A valid raw input, made up and always the same: to try a model out with."""

    def to_json(self) -> dict[str, Any]:
        """Plain values from which the example makes the same input again."""


def decode(kind: Input, source: Path | bytes, name: str) -> Any:
    """What `kind` makes of one raw input; any failure at all is a UserError about this input.

    Decoders read what strangers made, and libraries raise nearly anything on it: MemoryError for a made-up shape,
    RecursionError for nested brackets.
    """
    try:
        return kind.decode(source, name)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name} can't be read: {type(error).__name__}{reason and f': {reason}'}.") from error


@dataclass(frozen=True)
class Scene:
    """A moment of a game.

    Attributes:
        picture: a PNG file.
        observation: what the agent sees, as numbers; None where that is a picture.
        values: that the agent expects of each action now.
        action: number of the one that led here; None at the start.
        reward: that it gave.
        total: of all rewards so far.
        step: 0 at the start.
        over: the episode has ended.
    """

    picture: bytes
    observation: list[float] | None
    values: list[float]
    action: int | None
    reward: float
    total: float
    step: int
    over: bool


class Game(Protocol):
    """An agent in its environment, step by step."""

    actions: Sequence[str]

    def reset(self, seed: int) -> Scene:
        """Begins an episode; the same seed gives the same start."""

    def step(self, action: int | None) -> Scene:
        """One step with an action, the agent's own where it is None; after the end nothing changes any more."""

    def close(self) -> None:
        """Gives the environment back."""


@dataclass(frozen=True)
class Predictor:
    """A trained model in use.

    Attributes:
        input: how raw input is read.
        predict: a list of decoded inputs to a list of answers, one JSON-able row each.
        answer: the key of the answer in a row; "png" where it is a picture, as base64.
        scores: the key of a number for each of the artifact's classes; "" where there are none.
        model: the network that `predict` calls, for those who change how it is computed (number format, export).
        explain: a decoded input and the number of a class to what speaks for that class: of an image a heat map
            [h, w] in 0..1 over the square that the model sees, of a text spans that are scored. Where it is None an
            image is explained by its `model` and a text by its words.
        play: makes a game in which the model acts.
    """

    input: Any  # an Input; Any, because frozen dataclasses do not fit a protocol with plain attributes
    predict: Callable[[Sequence[Any]], list[dict[str, Any]]]
    answer: str = "class"
    scores: str = "probabilities"
    model: nn.Module | None = None
    explain: Callable[[Any, int], Any] | None = None
    play: Callable[[], Game] | None = None


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
        prepare: from a config to the splits of its data, of which `.valid[i]` is what the predictor's input decodes
            to; None where nothing of that kind is learned from.
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

    @property
    def domain(self) -> str:
        return self.name.partition(".")[0]

    @property
    def data(self) -> str:
        return str(self.config().data)

    @property
    def command(self) -> str:
        return f"python -m {self.name}"


def names() -> list[str]:
    """The modules that declare an example, found by reading the domains' files without running them."""
    root = Path(__file__).parent.parent
    files = [file for domain in DOMAINS for file in sorted((root / domain).rglob("*.py"))]
    return [".".join(f.relative_to(root).with_suffix("").parts) for f in files if _declares_example(f)]


def get(name: str) -> Example:
    """The example of that name. Only names of the catalogue are imported, whatever an artifact says."""
    known = names()
    if name not in known:
        raise UserError(f"There is no example {name!r}.", nearest(name, known))
    return declared_in(name)


def declared_in(module: str) -> Example:
    """The example that a module of ours declares; the one place that imports a module by its name."""
    example: Example = importlib.import_module(module).example
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
    """Every example."""
    return [get(name) for name in names()]


def _declares_example(file: Path) -> bool:
    source = file.read_text(encoding="utf-8")
    if "Example(" not in source:  # saves parsing most files
        return False
    targets: Iterable[ast.expr] = (
        target for node in ast.parse(source).body if isinstance(node, ast.Assign) for target in node.targets
    )
    return any(isinstance(target, ast.Name) and target.id == "example" for target in targets)


def class_rows(logits: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Answers of a classifier: the class and the probability of each, most probable first.

    Args:
        logits: [B, K], float.
    """
    values, order = logits.double().softmax(dim=1).sort(dim=1, descending=True, stable=True)  # [B, K] each
    rows = []
    for ranks, probabilities in zip(order.tolist(), values.tolist(), strict=True):
        ranked = {classes[i]: round(p, 6) for i, p in zip(ranks, probabilities, strict=True)}
        rows.append({"class": classes[ranks[0]], "probabilities": ranked})
    return rows
