"""Networks that were trained before, from the Hugging Face hub, a folder or an installed package."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.artifact import Artifact
from common.errors import UserError
from nlp.classify.networks import NGrams
from nlp.pretrained import PREFIX, config_of, find, first_line, said_clearly, with_adapters
from nlp.tokens import PAD, TokenInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Pretrained(nn.Module):
    """A sequence classifier of transformers that takes padded tokens [B, T] and gives logits [B, K].

    Args:
        ngrams: whose logits are added; None for none.
    """

    def __init__(self, network: nn.Module, pad: int, ngrams: NGrams | None = None) -> None:
        super().__init__()
        self.network = network
        self.pad = pad
        self.ngrams = ngrams

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens != self.pad
        seen = real.clone()
        seen[:, 0] = True  # a text of padding alone would have nothing to attend to
        logits: Tensor = self.network(input_ids=tokens, attention_mask=seen.long()).logits
        return logits if self.ngrams is None else logits + self.ngrams(tokens.where(real, PAD))


def load(
    name: str, classes: int, max_length: int, lora: bool
) -> tuple[Pretrained, Tokenizer, TokenInput, dict[str, bytes]]:
    """A pretrained network with a new head for K classes, its tokenizer, and the files that an artifact needs.

    Args:
        name: as `nlp.pretrained.find` takes it.
        max_length: tokens after which a text is cut.
        lora: train low-rank adapters instead of all weights; see `merged`.

    Raises:
        UserError: it can't be had, has no fast tokenizer, or peft is not installed.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    where = find(name)
    tokenizer, network = said_clearly(
        f"--model {PREFIX}{name}",
        lambda: (
            AutoTokenizer.from_pretrained(where, trust_remote_code=False),
            AutoModelForSequenceClassification.from_pretrained(
                where,
                config=_config(where, num_labels=classes),
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                trust_remote_code=False,
            ),
        ),
    )
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"--model hf:{name} has no fast tokenizer.", "Choose a model with a tokenizer.json.")
    if tokenizer.pad_token_id is None:  # as GPT-2's
        tokenizer.pad_token = tokenizer.eos_token
    network.config.pad_token_id = tokenizer.pad_token_id
    longest = getattr(network.config, "max_position_embeddings", None) or max_length
    inputs = TokenInput(
        max_length=min(max_length, longest),
        pad=tokenizer.pad_token_id,
        blank=next(
            i for i in (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) if i is not None
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        network.config.save_pretrained(folder)
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.is_file()}
    if lora:
        network = with_adapters(network, dropout=0.1, task="SEQ_CLS")
    return Pretrained(network, inputs.pad), _prepared(tokenizer.backend_tokenizer, inputs), inputs, files


def _config(where: str, **options: Any) -> Any:
    """The description of a text classifier that transformers itself has the code of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    return config_of(where, KNOWN, "text classifier", **options)


def to_save(model: Pretrained) -> nn.Module:
    """What an artifact holds: without n-grams the network alone, under the names by which transformers loads it."""
    return model.network if model.ngrams is None else model


def from_artifact(saved: Artifact, ngrams: NGrams | None) -> nn.Module:
    """The fine-tuned network of an artifact; nothing is asked of the hub."""
    from transformers import AutoModelForSequenceClassification

    try:
        config = _config(str(saved.folder), local_files_only=True)
        network = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # transformers checks some of a file's values, and uses the others as they are
        what = f"Can't build the network of {saved.folder}/config.json: {first_line(error)}"
        raise UserError(what, "Train the model again.") from error
    model = Pretrained(network, TokenInput.from_json(saved.inputs).pad, ngrams)
    return saved.load_into(model, part=to_save(model))


def tokenizer_from_artifact(saved: Artifact) -> Tokenizer:
    """The tokenizer of an artifact, of ours or of a pretrained network."""
    from tokenizers import Tokenizer

    content, inputs = saved.file("tokenizer.json"), TokenInput.from_json(saved.inputs)
    try:
        return _prepared(Tokenizer.from_buffer(content), inputs)
    except Exception as error:
        what = f"{saved.folder}/tokenizer.json is damaged: {first_line(error)}"
        raise UserError(what, "Train the model again.") from error


def _prepared(tokenizer: Tokenizer, inputs: TokenInput) -> Tokenizer:
    """Cuts at `max_length` and leaves filling up to the batches, whatever its file says."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(inputs.max_length)
    return tokenizer


def merged(model: Pretrained) -> Pretrained:
    """The model with its adapters, if any, added into the weights: a plain network again."""
    network: Any = model.network
    if hasattr(network, "merge_and_unload"):
        network = network.merge_and_unload()
    return Pretrained(network, model.pad, model.ngrams).eval()
