"""Networks that were trained before, as transformers has them: how they are found, described and adapted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import UserError

PREFIX = "hf:"


def find(name: str) -> str:
    """What transformers is given for a name: a folder, the folder `model` of an installed package, or a hub name."""
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if name.isidentifier():
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for place in (Path(folder) / "model", Path(folder)):
                if (place / "config.json").is_file():
                    return str(place)
    return name


def config_of(where: str, known: Container[str], noun: str, **options: Any) -> Any:
    """The description of a network that transformers itself has the code of, and none that a folder brings along.

    Args:
        known: kinds of networks that will do.
        noun: what they are, such as "text classifier".

    Raises:
        ValueError: it is none of them; with the other errors of transformers.
    """
    from transformers import AutoConfig, PretrainedConfig

    said, _ = PretrainedConfig.get_config_dict(where, **options)
    kind = said.get("model_type")  # old files of the hub have none, and are known by their names
    if kind is not None and not (isinstance(kind, str) and kind in known):
        what = f"is no {noun} of transformers; code that a model brings along is not run."
        raise ValueError(f"its model_type, {str(kind)[:60]!r}, {what}")
    config: Any = AutoConfig.from_pretrained(where, trust_remote_code=False, **options)
    config.__dict__.pop("auto_map", None)
    config._attn_implementation = None  # may name a kernel of the hub, which is code
    return config


def said_clearly(flag: str, action: Callable[[], Any]) -> Any:
    """What the action returns, quietly; a model that can't be had is one line.

    Args:
        flag: and its value, by which the user named the model.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that a head is new is what we want
    logging.disable_progress_bar()
    try:
        return action()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(
            f"{flag} can't be loaded: {first_line(error)}",
            "Give a folder with config.json, model.safetensors and tokenizer.json, or the name of a model on the hub.",
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def with_adapters(network: nn.Module, *, dropout: float, task: str | None = None) -> Any:
    """The network with trainable low-rank adapters at its linear layers, the rest frozen (Hu et al. 2021, 2106.09685).

    Args:
        dropout: of what goes into an adapter.
        task: as peft names it, for networks of transformers; of others, and without one, a layer named "head" or
            "lm_head" gets none.

    Returns:
        peft's model of it; the network itself has changed too.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        what = "--lora needs the package peft, which is not installed."
        raise UserError(what, "pip install -e '.[lora]'") from None
    linear = {name.rpartition(".")[2] for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    config = LoraConfig(
        task_type=task,
        r=16,
        lora_alpha=32,
        lora_dropout=dropout,
        target_modules="all-linear" if task else sorted(linear - {"head", "lm_head"}),
    )
    return get_peft_model(network, config)
