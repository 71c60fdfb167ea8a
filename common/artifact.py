"""A trained model on disk: all that prediction needs, and nothing that could run code when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import read_json
from common.errors import UserError
from common.files import check_links, inside, write_json, write_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common.kinds.answer import Answer
    from common.kinds.base import Kind
    from common.metrics import Metrics
    from common.program import Export
    from common.training.run import Run

FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """The folder `model/` of a run: `model.safetensors` and `model.json`.

    Attributes:
        folder: where it lies.
        example: which example made it, such as "vision.train".
        config: its resolved config.
        inputs: how raw input becomes a tensor, as the input's `to_json` wrote it.
        classes: names of the classes, in the order of the outputs; empty where there are none.
        metrics: measured on the test split when it was made.
        export: where an exported program stands in the place of the weights.
    """

    folder: Path
    example: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    classes: list[str]
    metrics: dict[str, float]
    export: Export | None = None

    def weights(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / "model.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"Can't read the weights {path}: {error}.", "Train the model again.") from error

    def shapes(self) -> dict[str, list[int]]:
        """The shapes of the weights by name; of an export, of those it was made from."""
        if self.export is not None:
            return self.export.shapes
        return {name: list(tensor.shape) for name, tensor in self.weights().items()}

    def file(self, name: str) -> bytes:
        """The content of one of the artifact's further files, such as "tokenizer.json"."""
        try:
            return inside(self.folder, name).read_bytes()
        except OSError as error:
            raise UserError(f"Can't read {self.folder / name}: {error.strerror}.", "Train the model again.") from error

    def check_trust(self) -> str:
        """The digest of an export that can run code and is trusted; "" where there is none, or only data.

        Raises:
            UserError: it can run code, and was neither exported on this machine nor allowed by --trust-export.
        """
        return self.export.check_trust(self.folder) if self.export is not None else ""

    def load_into(self, model: nn.Module, part: nn.Module | None = None) -> nn.Module:
        """Puts the weights into a model of the same structure and sets it to evaluation.

        Of an export, its program: the model then computes by that, whatever its layers were.

        Args:
            part: of the model, to which the weights belong; the whole by default.
        """
        if self.export is not None:
            return self.export.put_into(model, self.folder)
        try:
            (model if part is None else part).load_state_dict(self.weights())
        except RuntimeError as error:
            raise UserError(f"The weights in {self.folder} do not fit the model that {self.example} builds.") from error
        return model.eval()


def save(
    run: Run,
    model: nn.Module,
    *,
    inputs: Kind | None,
    answer: Answer | None,
    metrics: Metrics,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes the artifact of a run: first the weights, then the description that makes it count.

    Args:
        inputs: the kind of the model's input; None where it has no predictor.
        answer: the kind of its answer; None likewise.
        files: what else prediction or evaluation needs, by file name, such as "tokenizer.json".
    """
    from safetensors.torch import save as to_bytes

    from common.machine import distributed

    if inputs is not None:
        run.usage = inputs.usage
    run.answer = answer
    if distributed.rank() > 0:
        return
    folder = run.folder / "model"
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with write_whole(folder / "model.safetensors") as file:
        file.write(to_bytes(tensors, metadata={"example": run.example}))
    for name, content in (files or {}).items():
        with write_whole(folder / name) as file:
            file.write(content)
    description = {
        "format": FORMAT,
        "example": run.example,
        "config": run.config.to_dict(),
        "inputs": inputs.to_json() if inputs is not None else {},
        "classes": list(answer.names) if answer is not None else [],
        "metrics": metrics.values,
    }
    write_json(folder / "model.json", description)


def load(path: Path) -> Artifact:
    """Reads an artifact from its folder or from the folder of its run.

    Raises:
        UserError: there is none, it is damaged, or a newer version of this project wrote it.
    """
    folder = path / "model" if (path / "model" / "model.json").exists() else path
    if not (folder / "model.json").exists():
        unfinished = (path / "config.json").exists()
        raise UserError(
            f"There is no trained model in {path}" + (": the run is not finished." if unfinished else "."),
            f"Finish it with --resume {path}." if unfinished else "Name the folder of a finished run.",
        )
    check_links(folder)
    description = read_json(folder / "model.json")
    if description.get("format") != FORMAT:
        raise UserError(f"{folder}/model.json has format {description.get('format')}; this version reads {FORMAT}.")
    _check(description, _FIELDS, f"{folder}/model.json")
    export = _export(description["export"], f"{folder}/model.json") if "export" in description else None
    return Artifact(folder, **{name: description[name] for name in _FIELDS}, export=export)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


# What each entry must be, in words and as a test.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "example": ("a text", lambda v: isinstance(v, str)),
    "config": ("an object", lambda v: isinstance(v, dict)),
    "inputs": ("an object", lambda v: isinstance(v, dict)),
    "classes": ("a list of texts", _texts),
    "metrics": ("an object of numbers", lambda v: isinstance(v, dict) and all(map(_number, v.values()))),
}
_EXPORT: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": ("a text", lambda v: isinstance(v, str)),
    "quantize": ("a text", lambda v: isinstance(v, str)),
    "batch": ("a number from 1, or null", lambda v: v is None or (type(v) is int and v >= 1)),
    "file": ("a text", lambda v: isinstance(v, str)),
    "shapes": ("an object of lists", lambda v: isinstance(v, dict) and all(_sizes(shape) for shape in v.values())),
}


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check(entries: Any, fields: dict[str, tuple[str, Callable[[Any], bool]]], where: str) -> None:
    for name, (kind, fits) in fields.items():
        if name not in entries:
            raise UserError(f"{where} lacks {name!r}.", "Train the model again.")
        if not fits(entries[name]):
            shown = repr(entries[name])
            raise UserError(f"{where}: {name!r} is {shown[:60]}; it must be {kind}.", "Train the model again.")


def _export(entry: Any, where: str) -> Export:
    from common.program import Export

    if not isinstance(entry, dict):
        raise UserError(f'{where}: "export" is no object.', "Export the model again.")
    _check(entry, _EXPORT, f'{where}, "export"')
    return Export(**{name: entry[name] for name in _EXPORT}, outputs=entry.get("outputs", 0))
