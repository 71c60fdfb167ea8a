"""The network that a training starts with: a new one, that of another run, or one that was trained elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from common import artifact
from common.artifact import Artifact
from common.errors import UserError
from nlp import vocabulary
from nlp.chat import pretrained, template
from nlp.chat.template import Chat
from nlp.gpt import model as networks
from nlp.gpt.model import Recurrent, Shape
from nlp.pretrained import PREFIX
from nlp.vocabulary import Characters, Vocabulary

FILE = "network.json"  # of an artifact whose network is one of nlp.gpt's
LETTERS = "".join(map(chr, range(32, 127))) + "\n"  # that a new network has tokens for; it reads others as bytes
# Of a new network, by data set.
SIZES = {"numbers": {"context": 64, "depth": 2, "width": 48, "heads": 2}}
USUAL = {"context": 256, "depth": 3, "width": 128, "heads": 4, "rows": 4096}


@dataclass(frozen=True)
class Base:
    """A network and what it reads and writes.

    Args:
        network: tokens [B, T] to logits [B, T, V], with a cache as `nlp.decoding` asks for it.
        chat: its vocabulary, with the template.
        context: tokens that it sees at once; 0 for any number.
        files: of an artifact, by which the network is built again.
        converses: whether it has learnt the template before.
        cached: whether keys and values are kept; an exported program has no cache and reads all again for each token.
    """

    network: Any
    chat: Chat
    context: int
    files: dict[str, bytes]
    converses: bool
    cached: bool = True


def load(name: str, data: str, cache: Path, context: int | None) -> Base:
    """What `--from` names.

    Args:
        name: "new", "smollm2", `hf:` and a folder, package or hub name, or the folder of a run.
        data: name of the data set, which decides about the size of a new network.
        cache: folder where weights that were converted are kept.
        context: tokens that a network of ours shall see at once; as many as before by default.

    Raises:
        UserError: it is not there, or it is none that can learn to converse.
    """
    if name == "new":
        words = Characters(LETTERS, by_bytes=True)
        shape = Shape(vocabulary=len(words), **_size(data, context))
        return _ours(networks.build("gpt", shape), "gpt", shape, words)
    if name == "smollm2":
        return _theirs(*pretrained.load(pretrained.smollm2(cache), "smollm2"))
    if name.startswith(PREFIX):
        return _theirs(*pretrained.load(name.removeprefix(PREFIX), name))
    saved = artifact.load(Path(name).expanduser())
    if saved.export is not None:
        raise UserError(f"--from {name} is an export, which learns nothing more.", "Name the run that it was made of.")
    if saved.example == "nlp.gpt":
        return _learnt(saved, context)
    if saved.example != "nlp.chat":
        raise UserError(f"--from {name} is a model of {saved.example}.", "Name a run of nlp.gpt or nlp.chat.")
    return from_artifact(saved, context)


def _size(data: str, context: int | None) -> dict[str, Any]:
    size = SIZES.get(data, USUAL)
    return {**size, "context": context or size["context"], "kv_heads": size["heads"]}


def _learnt(saved: Artifact, context: int | None) -> Base:
    """A language model of nlp.gpt, whose vocabulary gets marks."""
    from nlp.gpt.__main__ import GPTConfig, load_model

    config = GPTConfig().with_values(saved.config)
    network, words = load_model(saved)
    shape = replace(config.shape(len(words)), context=context or config.context)
    return _ours(network, config.model, shape, words)


def _ours(network: nn.Module, family: str, shape: Shape, words: Vocabulary) -> Base:
    """A language model that gets a token for each mark, drawn as those of a new network are."""
    chat = template.ours(words, len(words))
    shape = replace(shape, vocabulary=len(chat))
    grown = networks.build(family, shape)
    state, before = grown.state_dict(), network.state_dict()
    for name, weight in before.items():
        state[name][: len(weight)] = weight  # only embeddings and head have more rows than they had
    grown.load_state_dict(state)
    return Base(grown, chat, _limit(grown, shape), _described(family, shape), converses=False)


def _described(family: str, shape: Shape) -> dict[str, bytes]:
    return {FILE: json.dumps({"family": family, "shape": asdict(shape)}, indent=1).encode()}


def _limit(network: nn.Module, shape: Shape) -> int:
    return 0 if isinstance(network, Recurrent) else shape.context


def _theirs(network: pretrained.Pretrained, chat: Chat, converses: bool) -> Base:
    return Base(network, chat, network.context, pretrained.files_of(network), converses)


def from_artifact(saved: Artifact, context: int | None = None) -> Base:
    """The network of a run of this example.

    Args:
        context: as of `load`.
    """
    words = vocabulary.from_bytes(saved.file(vocabulary.FILE))
    chat = template.from_bytes(words, saved.file(template.FILE))
    cached = saved.export is None
    if (saved.folder / "config.json").is_file():
        return replace(_theirs(pretrained.from_artifact(saved), chat, True), cached=cached)
    try:
        fields = json.loads(saved.file(FILE))
        family, shape = fields["family"], Shape(**fields["shape"])
        _check(family, shape, saved.shapes())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{saved.folder}/{FILE} does not describe the weights beside it: {str(error)[:80]}."
        raise UserError(what, "Train the model again.") from error
    shape = replace(shape, context=context or shape.context)
    network = networks.build(family, shape)
    return Base(saved.load_into(network), chat, _limit(network, shape), _described(family, shape), True, cached)


def _check(family: str, shape: Shape, weights: Mapping[str, list[int]]) -> None:
    """Raises ValueError where building the network would take more memory than its weights do."""
    fits = family in networks.FAMILIES and weights["embedding.weight"] == [shape.vocabulary, shape.width]
    fits = fits and 0 < shape.depth <= len(weights) and 0 < shape.context <= 2**16
    if not fits or (shape.rows and weights["ngrams.weight"] != [shape.rows, shape.width]):
        raise ValueError("its sizes are others")


def parts(base: Base) -> dict[str, bytes]:
    """All files of an artifact beside its weights."""
    return {**base.files, vocabulary.FILE: base.chat.words.to_bytes(), template.FILE: base.chat.to_bytes()}


def inner(model: Any) -> nn.Module:
    """What an artifact holds: of a network of transformers itself, so that its weights have transformers' names."""
    found: nn.Module = model.network if isinstance(model, pretrained.Pretrained) else model
    return found
